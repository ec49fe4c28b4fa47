"""A delivery on its way through a worker (`Job`), and what its run comes to (`Ended`)."""

from __future__ import annotations

from math import inf
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
        "closed",
        "context",
        "delivery",
        "exposed",
        "kind",
        "lease_until",
        "limit",
        "lost",
        "message",
        "ran",
        "soft_time_limit",
        "stopping",
        "task",
        "thread",
        "thrown",
        "time_limit",
        "verdict",
    )

    def __init__(self, delivery: Delivery, message: Message, task: Task[..., Any], lease_until: float) -> None:
        self.delivery = delivery
        self.message = message
        self.task = task
        #: On the monotonic clock. After this moment someone else may have the message.
        self.lease_until = lease_until
        #: The request that the task sees, while it runs.
        self.context: Context | None = None
        own = task.resolved
        #: Seconds its run may take (None: no limit): then SoftTimeLimitExceeded is raised in it, and then it is ended.
        self.soft_time_limit, self.time_limit = own.soft_time_limit, own.time_limit
        #: The first of them that it can reach.
        self.limit = own.limit
        if message.soft_time_limit or message.time_limit:
            self.soft_time_limit = message.soft_time_limit or own.soft_time_limit
            self.time_limit = message.time_limit or own.time_limit
            self.limit = min(self.soft_time_limit or inf, self.time_limit or inf)
        #: What becomes of it, decided while it runs: whatever the task itself comes to does not count any more.
        self.verdict: Outcome | None = None
        #: True once what it came to has been taken.
        self.closed = False
        #: While the user's code runs, something may be thrown into this thread; what was (interrupts.py).
        self.exposed = False
        self.thread = 0
        self.thrown: type[BaseException] | None = None
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
