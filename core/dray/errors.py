"""Every error dray raises, and the three exceptions with which a task steers its own fate.

DrayError
 |- ConfigurationError            something was asked for that cannot be built
 |   |- SettingError              an unknown setting, or a value it does not take
 |   |- UrlError                  a URL that cannot be read, or an option it does not know
 |   |- UnknownPlugin             no plugin installed under that scheme or name
 |   |- PluginError               a plugin is broken, clashes or was built for another dray
 |   `- TaskOptionError           an option that @app.task or apply_async does not know
 |- NotSupported                  the broker or backend cannot do this, and nobody can do it for it
 |- UnknownTask                   no task is registered under that name
 |- ArgumentsError (TypeError)    the arguments do not fit the task's signature
 |- SerializationError            a value cannot be written by the serializer
 |- DecodeError                   bytes that cannot be read as what they claim to be
 |   `- ContentNotAccepted        readable perhaps, but `accept_content` does not allow it
 |- BrokerError                   the broker refused
 |   |- BrokerUnavailable         the broker cannot be reached now; trying again may help
 |   `- PublishError              some envelopes of a batch were refused: `.rejected`
 |- BackendError                  the result backend refused
 |   `- BackendUnavailable        the result backend cannot be reached now
 |- StoreError                    the store refused
 |   `- StoreUnavailable          the store cannot be reached now
 |- LimitExceeded                 a task was not run, for it would have exceeded its limit
 |- AlreadySent                   a call of a unique task is there already: `.id`
 |- LockTaken                     a lock or semaphore was not to be had in time
 |- LockLost                      a lock was held for longer than it could be renewed
 |- BlockingCallError (RuntimeError)   a blocking call where it would stop an event loop or a worker
 `- ResultError                   what asking for a result can end in
     |- ResultTimeout (TimeoutError)
     |- UnknownResult             neither the backend nor the broker knows this id
     |- TaskFailed                the task raised something that cannot be rebuilt here
     |- TaskRevoked               the task was cancelled
     |- TaskRejected              the message was moved to the dead letters
     |- TaskExpired               the task was not started before its `expires`
     |- TimeLimitExceeded         the task ran longer than its `time_limit` and was ended
     |- WorkerLost                what ran the task died under it
     `- MaxRetriesExceeded        `retry()` was called once too often and had no exception to raise

Raised *by tasks*, to say what shall become of them: Retry, Reject, Ignore, Replace.
Raised *in tasks*, to give them time to clean up: SoftTimeLimitExceeded.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any


class DrayError(Exception):
    """The root of everything dray raises on purpose."""


class ConfigurationError(DrayError):
    """Something was asked for that cannot be built. Trying again does not help; changing the settings does."""


class SettingError(ConfigurationError):
    """A setting that does not exist, or a value that its setting does not take."""


class UrlError(ConfigurationError):
    """A URL that cannot be read, or that carries an option its adapter does not know."""


class UnknownPlugin(ConfigurationError):
    """No plugin is installed under that URL scheme or short name."""


class PluginError(ConfigurationError):
    """A plugin cannot be loaded, two plugins claim one name, or it was built for another plugin API."""


class TaskOptionError(ConfigurationError):
    """An option that `@app.task` or `apply_async` does not know, or a value it does not take."""


class NotSupported(DrayError):
    """The broker or backend at hand cannot do what was asked, and the engine cannot do it in its place."""


class UnknownTask(DrayError):
    """No task is registered under that name."""


class ArgumentsError(DrayError, TypeError):
    """The arguments do not fit the task's signature. Raised where the task is sent, not in the worker."""


class SerializationError(DrayError):
    """A value cannot be written by the chosen serializer."""


class DecodeError(DrayError):
    """Bytes that cannot be read as what they claim to be: garbage, another version, too deep, too large."""


class ContentNotAccepted(DecodeError):
    """A content type that `accept_content` does not name. It was not decoded."""


class BrokerError(DrayError):
    """The broker refused. Adapters translate their driver's errors into this or `BrokerUnavailable`."""


class BrokerUnavailable(BrokerError):
    """The broker cannot be reached now. Whether the last command took effect is not known."""


class PublishError(BrokerError):
    """Some envelopes of a batch were refused; all others of that batch are safe with the broker.

    `rejected` maps the id of each refused envelope to the reason.
    """

    def __init__(self, rejected: Mapping[str, str]) -> None:
        self.rejected = dict(rejected)
        shown = "; ".join(f"{id}: {reason}" for id, reason in list(self.rejected.items())[:3])
        more = "" if len(self.rejected) <= 3 else f" (and {len(self.rejected) - 3} more)"
        super().__init__(f"{len(self.rejected)} message(s) not published: {shown}{more}")


class BackendError(DrayError):
    """The result backend refused. Adapters translate their driver's errors into this or `BackendUnavailable`."""


class BackendUnavailable(BackendError):
    """The result backend cannot be reached now."""


class StoreError(DrayError):
    """The store refused. Adapters translate their driver's errors into this or `StoreUnavailable`."""


class StoreUnavailable(StoreError):
    """The store cannot be reached now. Whether the last changes were made is not known."""


class LimitExceeded(DrayError):
    """A task was not run, for it would have exceeded its limit (`on_limit="error"`, or "reschedule" too often)."""


class AlreadySent(DrayError):
    """A call of a unique task is there already (`on_conflict="raise"`). `id` is its id."""

    def __init__(self, task: str, id: str) -> None:
        super().__init__(f"{task} is unique, and the call {id} is there already")
        self.id = id


class LockTaken(DrayError):
    """A lock, or every place of a semaphore, was held by others for as long as one was willing to wait."""


class LockLost(DrayError):
    """A lock was not renewed in time (the store was away, or the process frozen): others may have it meanwhile."""


class BlockingCallError(DrayError, RuntimeError):
    """A blocking call was made where it would stop an event loop or hold a worker's slot."""


class ResultError(DrayError):
    """What asking for a result can end in."""


class ResultTimeout(ResultError, TimeoutError):
    """The result was not there in time. The task goes on; ask again or revoke it."""


class UnknownResult(ResultError):
    """Neither the result backend nor the broker knows this id: never sent, expired, or forgotten."""


class TaskFailed(ResultError):
    """The task raised an exception whose class cannot be rebuilt in this process.

    `exc_type` is its qualified name (`module.Class`), `exc_message` its text.
    """

    def __init__(self, exc_type: str, exc_message: str = "") -> None:
        super().__init__(f"{exc_type}: {exc_message}" if exc_message else exc_type)
        self.exc_type = exc_type
        self.exc_message = exc_message


class TaskRevoked(ResultError):
    """The task was revoked before or while it ran."""


class TaskRejected(ResultError):
    """The message was moved to the dead letters, with the reason given here; it can be replayed from there."""


class TaskExpired(ResultError):
    """The task was not started before its `expires`."""


class TimeLimitExceeded(ResultError):
    """The task ran longer than its `time_limit` and was ended."""


class WorkerLost(ResultError):
    """The process that ran the task died under it, and the task is not to be run again (`reject_on_worker_lost`)."""


class MaxRetriesExceeded(ResultError):
    """The task asked for one retry more than `max_retries` allows and gave no exception to raise instead."""


class Retry(Exception):
    """Raised by a task to be run again: after `countdown` seconds, or at `eta`, or when its policy says.

    `exc` is the exception that is stored when no retries are left. `args` and `kwargs` replace the arguments.
    `task.retry()` raises this; raising it yourself is the same.
    """

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | None = None,
        *,
        countdown: float | None = None,
        eta: datetime | None = None,
        max_retries: int | None = None,
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message or (f"Retry: {exc!r}" if exc is not None else "Retry"))
        self.exc = exc
        self.countdown = countdown
        self.eta = eta
        self.max_retries = max_retries
        self.new_args = args
        self.new_kwargs = kwargs


class Reject(Exception):
    """Raised by a task to hand its message back: to the dead letters, or to the queue with `requeue=True`.

    A requeued message waits `delay` seconds and keeps its delivery count, so it cannot circle for ever.
    """

    def __init__(self, reason: object = "rejected by the task", requeue: bool = False, delay: float = 1.0) -> None:
        super().__init__(str(reason))
        self.reason = str(reason)
        self.requeue = requeue
        self.delay = delay


class Replace(Exception):
    """Raised by `self.replace(...)`: the call ends, and a canvas takes its place."""

    def __init__(self, canvas: Any) -> None:
        super().__init__(canvas)
        self.canvas = canvas


class Ignore(Exception):
    """Raised by a task that wants to end without a result: the message is acked and no state is stored."""


class SoftTimeLimitExceeded(Exception):
    """Raised in a task that has run for its `soft_time_limit`: time to clean up, before `time_limit` ends it."""
