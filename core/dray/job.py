"""A delivery on its way through a worker (`Job`), and what its run comes to (`Ended`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .context import Context
from .message import Delivery, Message
from .outcome import Outcome
from .report import Report

if TYPE_CHECKING:
    from .task import Task


class Job:
    """A delivery on its way through a worker: what it carries, who runs it, and how long the loan lasts."""

    __slots__ = (
        "acked",
        "began",
        "cancelled",
        "context",
        "delivery",
        "kind",
        "lease_until",
        "lost",
        "message",
        "ran",
        "stopping",
        "task",
    )

    def __init__(self, delivery: Delivery, message: Message, task: Task[..., Any], lease_until: float) -> None:
        self.delivery = delivery
        self.message = message
        self.task = task
        #: On the monotonic clock. After this moment someone else may have the message.
        self.lease_until = lease_until
        #: The request that the task sees, while it runs.
        self.context: Context | None = None
        #: "def" or "async": which executor it needs.
        self.kind = "async" if task.is_async else "def"
        #: When it began, on the monotonic clock (0: it waits for a slot), and how long it ran (None: it did not, yet).
        self.began = 0.0
        self.ran: float | None = None
        self.cancelled = False
        #: True once the broker has said that the loan is over: nothing may be written for it any more.
        self.lost = False
        #: True once the worker has given it up because it stops.
        self.stopping = False
        #: True when it was acked before it began (`acks_late=False`).
        self.acked = False

    def cancel(self) -> None:
        """Mark it as revoked, and tell the task if it is running."""
        self.cancelled = True
        if self.context is not None:
            self.context.cancel()


class Ended:
    """What a run comes to: the outcome, the report to store (None: nothing), and the messages to send first."""

    __slots__ = ("followups", "outcome", "report")

    def __init__(self, outcome: Outcome, report: Report | None = None, followups: tuple[Message, ...] = ()) -> None:
        self.outcome = outcome
        self.report = report
        self.followups = followups
