"""A delivery on its way through a worker (`Job`), and what its run comes to (`Ended`)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

import msgspec

from .context import Context
from .message import Delivery, Message
from .outcome import Outcome
from .report import Report

if TYPE_CHECKING:
    from .endings import Onward
    from .task import Task


class Job(msgspec.Struct, eq=False, gc=False):
    """A delivery on its way through a worker: what it carries, who runs it, and how long the loan lasts."""

    delivery: Delivery
    message: Message
    task: Task[..., Any]
    #: On the monotonic clock. After this moment someone else may have the message.
    lease_until: float
    #: The request that the task sees, while it runs.
    context: Context | None = None
    #: Seconds its run may take (None: no limit): then SoftTimeLimitExceeded is raised in it, and then it is ended.
    soft_time_limit: float | None = None
    time_limit: float | None = None
    #: The first of them that it can reach.
    limit: float = inf
    #: What becomes of it, decided while it runs: whatever the task itself comes to does not count any more.
    verdict: Outcome | None = None
    #: True once what it came to has been taken.
    closed: bool = False
    #: While the user's code runs, something may be thrown into this thread; what was (interrupts.py).
    exposed: bool = False
    thread: int = 0
    thrown: type[BaseException] | None = None
    #: "def" or "async": which executor it needs.
    kind: str = "def"
    #: When it began, on the monotonic clock (0: it waits for a slot), and how long it ran (None: it did not, yet).
    began: float = 0.0
    ran: float | None = None
    cancelled: bool = False
    #: True once the broker has said that the loan is over: nothing may be written for it any more.
    lost: bool = False
    #: True once the worker has given it up because it stops.
    stopping: bool = False
    #: True when it was acked before it began (`acks_late=False`).
    acked: bool = False

    def __post_init__(self) -> None:
        task, message = self.task, self.message
        own = task.resolved
        self.soft_time_limit, self.time_limit, self.limit = own.soft_time_limit, own.time_limit, own.limit
        if message.soft_time_limit or message.time_limit:
            self.soft_time_limit = message.soft_time_limit or own.soft_time_limit
            self.time_limit = message.time_limit or own.time_limit
            self.limit = min(self.soft_time_limit or inf, self.time_limit or inf)
        if task.is_async:
            self.kind = "async"

    def cancel(self) -> None:
        """Mark it as revoked, and tell the task if it is running."""
        self.cancelled = True
        if self.context is not None:
            self.context.cancel()


class Ended(msgspec.Struct, eq=False, gc=False):
    """What a run comes to: the outcome, the report to store (None: nothing), and the messages to send first."""

    outcome: Outcome
    report: Report | None = None
    followups: tuple[Message, ...] = ()
    #: What it means for the flow that it is part of.
    onward: Onward | None = None
