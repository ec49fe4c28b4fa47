"""What a running task may know about itself: `task.request`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from .message import Message

if TYPE_CHECKING:
    from .errors import Retry
    from .report import Kept
    from .task import Task

#: The W3C trace headers; a task's own are handed on to what it sends.
TRACE_HEADERS = ("traceparent", "tracestate", "baggage")


class Context(msgspec.Struct, eq=False):
    """The request a task is answering. One per execution, seen by the thread or coroutine that runs it.

    Outside a worker `called_directly` is True and the other attributes have their empty values.
    """

    message: Message
    task: Task[..., Any] | None = None
    #: How many times the message has been handed to a worker, this time included.
    delivery_count: int = 1
    #: The worker's name.
    hostname: str = ""
    #: Takes a state to store, in order with the task's own result; None outside a worker.
    note: Callable[[Kept], None] | None = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    #: Ids of the tasks sent by this one.
    children: list[str] = []
    #: Set by `retry(throw=False)`: what to do when the task returns.
    pending_retry: Retry | None = None
    _cancelled: threading.Event | None = None

    @property
    def called_directly(self) -> bool:
        """True where nothing is being executed: the function was just called."""
        return self.task is None

    @property
    def is_eager(self) -> bool:
        """True when it runs where it was sent (`task_always_eager`, `apply`), not in a worker."""
        return self.task is not None and not self.hostname

    @property
    def id(self) -> str:
        """The task's id; the same through all retries."""
        return self.message.id

    @property
    def retries(self) -> int:
        """How many times it has been retried: 0 on the first run."""
        return self.message.retries

    @property
    def releases(self) -> int:
        """How many times a worker sent it again as it was: the task was not known there, or the worker stopped.

        Not those times when the broker took it back by itself: that leaves no trace, and costs no delivery.
        """
        return self.message.handed_back

    @property
    def eta(self) -> datetime | None:
        """When it was not to be started before."""
        return _aware(self.message.eta)

    @property
    def expires(self) -> datetime | None:
        """When it is not to be started after."""
        return _aware(self.message.expires)

    @property
    def queue(self) -> str:
        """The queue it came from."""
        return self.message.queue

    @property
    def priority(self) -> int:
        """The priority it was sent with."""
        return self.message.priority

    @property
    def root_id(self) -> str:
        """Id of the first task of this tree of calls; its own when it is the first."""
        return self.message.root_id or self.message.id

    @property
    def parent_id(self) -> str | None:
        """Id of the task that sent it, if a task did."""
        return self.message.parent_id

    @property
    def headers(self) -> dict[str, Any]:
        """What was sent along as headers."""
        return self.message.headers

    @property
    def delivery_info(self) -> dict[str, Any]:
        """Where it came from, in Celery's words."""
        return {
            "routing_key": self.queue,
            "priority": self.priority,
            "redelivered": self.delivery_count > 1,
            "delivery_count": self.delivery_count,
        }

    @property
    def cancelled(self) -> bool:
        """True once the task has been revoked while it runs. A `def` task looks here now and then and returns."""
        return self._cancelled is not None and self._cancelled.is_set()

    def cancel(self) -> None:
        """Tell the running task that it has been revoked. Called by the worker."""
        if self._cancelled is None:
            self._cancelled = threading.Event()
        self._cancelled.set()


def _aware(instant: float | None) -> datetime | None:
    return None if instant is None else datetime.fromtimestamp(instant, UTC)


#: The execution going on in this thread or coroutine.
current: ContextVar[Context | None] = ContextVar("dray_current", default=None)

#: What `task.request` is where nothing is being executed.
DIRECTLY = Context(Message(id="", task=""))
