"""The words that `@app.task` and `apply_async` understand, and the check that catches all others on the spot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from .errors import ArgumentsError, SettingError, TaskOptionError
from .idempotency import check_idempotency_key
from .limits import is_limit_key
from .message import HIGHEST_PRIORITY
from .queues import LONGEST_KEY
from .retries import seconds
from .schedules import every, read_schedule
from .setting_values import read_seconds
from .settings import read_setting
from .task_hooks import check_hooks
from .urls import nearest
from .webhook_options import read_webhooks

if TYPE_CHECKING:
    from .canvas import Signature
    from .result import AsyncResult


class TaskOptions(TypedDict, total=False):
    """What a task says about itself. A value left out comes from `task_annotations`, then from the settings."""

    #: Registered name; "module.function" when left out.
    name: str
    #: A subclass of Task to make the task from.
    base: type[Any]
    #: Queue and priority (0-9, 9 is the most urgent) it is sent with.
    queue: str | None
    priority: int | None
    #: Instead of a queue: to the queue or queues in `task_queues` that are bound to this exchange with a fitting key.
    exchange: str | None
    routing_key: str | None
    #: Whom or what it is about, such as "customer-7": brokers that know keys let them take turns, or keep their order.
    #: A function, or text with a parameter in it, is a `limit_key`.
    key: str | Callable[..., Any] | None
    #: True: only a broker that runs the messages of one key one by one, in order, takes it.
    ordered: bool
    #: How often it may begin, over all workers: "10/s", "10/m", "10/h", "10/d", or a number per second.
    rate_limit: str | float | None
    #: How many may begin at once after a rest, within its `rate_limit`.
    burst: int | None
    #: How many of it may run at a time, over all workers.
    max_concurrent: int | None
    #: What its calls are grouped by, each group having the limits to itself: "{user_id}", or a function of arguments.
    limit_key: str | Callable[..., Any] | None
    #: What becomes of a call that would exceed a limit: "wait" for its turn, "drop", "reschedule" (a retry), "error".
    on_limit: Literal["wait", "drop", "reschedule", "error"]
    #: By what one call keeps out another: True (all arguments), a list of parameters, or a function of the arguments.
    unique: bool | Iterable[str] | Callable[..., Any] | None
    #: When another call may be sent: at its "start", when it is "done", or after a time.
    unique_until: Literal["start", "done"] | float | timedelta | str | None
    #: Longest time for which it keeps out others, whatever becomes of it: a day if not said.
    unique_for: float | timedelta | str | None
    #: What becomes of a second call: the handle on the "existing" one, "skip", "replace" the one that waits, "raise".
    on_conflict: Literal["existing", "skip", "replace", "raise"]
    #: True: unique whatever its arguments: one call of it waits or runs at a time.
    singleton: bool
    #: Seconds it waits for a later call that takes its place; only the last one runs.
    debounce: float | timedelta | str | None
    #: Seconds after a call for which no other one is sent.
    throttle: float | timedelta | str | None
    #: Seconds (or timedelta) after sending beyond which it is not started any more.
    expires: float | timedelta | None
    #: How its arguments are written and packed: "json", "msgpack" ...; "gzip", "zstd" or None.
    serializer: str | None
    compression: str | None
    #: True: acked when it has ended (at-least-once). False: acked before it starts (at-most-once).
    acks_late: bool
    #: True: no state and no result are stored.
    ignore_result: bool
    #: URL of a result backend for this task alone.
    backend: str | None
    #: True: a failure is stored although results are ignored.
    store_errors_even_if_ignored: bool
    #: True: the state STARTED is stored when it begins.
    track_started: bool
    #: Seconds a run may take before it is ended and has failed, and before SoftTimeLimitExceeded is raised in it.
    time_limit: float | timedelta | str | None
    soft_time_limit: float | timedelta | str | None
    #: True: a task whose process died runs again, `max_deliveries` times. False: it has failed with WorkerLost.
    reject_on_worker_lost: bool
    #: Names of parameters whose arguments are shown nowhere; annotating them `Annotated[str, Sensitive]` is the same.
    sensitive: Iterable[str]
    #: A URL that is called when it has ended; or a table of `url`, `on` and `timeout`; or several of these.
    webhook: str | Mapping[str, Any] | Iterable[str | Mapping[str, Any]] | None
    #: Functions, also `async def` ones, called where it ran, with those facts that their parameters name.
    before_start: Callable[..., Any] | None
    on_success: Callable[..., Any] | None
    on_retry: Callable[..., Any] | None
    on_failure: Callable[..., Any] | None
    after_return: Callable[..., Any] | None
    #: True: arguments are checked against the signature when it is sent.
    typing: bool
    #: Exceptions that are part of its work: a failure with one is logged without a traceback.
    throws: type[BaseException] | tuple[type[BaseException], ...]
    #: True: when it has failed for good, the message is kept in the dead letters too.
    dead_letter: bool
    #: The same the other way round, in Celery's words: False: when it has failed for good, its message is kept.
    acks_on_failure: bool
    #: How often it may be delivered without ending (worker killed) before it is buried.
    max_deliveries: int
    max_retries: int | None
    default_retry_delay: float | timedelta
    autoretry_for: type[BaseException] | tuple[type[BaseException], ...]
    dont_autoretry_for: type[BaseException] | tuple[type[BaseException], ...]
    retry_kwargs: Mapping[str, Any]
    retry_backoff: bool | float | list[float] | tuple[float, ...]
    retry_backoff_max: float | timedelta
    retry_jitter: bool
    retry_until: float | timedelta | datetime | None
    #: When schedulers send it: "0 3 * * *", crontab(...), seconds, or a table with the words of an entry.
    schedule: Any
    #: The same for an interval: seconds, a timedelta or "15m".
    every: float | timedelta | str | None


class SendOptions(TypedDict, total=False):
    """What one sending says about itself, over the task's own options."""

    #: Seconds from now, or the instant, before which it is not started.
    countdown: float | timedelta | None
    eta: datetime | None
    #: Seconds from now, or the instant, after which it is not started any more.
    expires: float | timedelta | datetime | None
    queue: str | None
    priority: int | None
    #: Instead of a queue: to the queue or queues in `task_queues` that are bound to this exchange with a fitting key.
    exchange: str | None
    routing_key: str | None
    #: Whom or what it is about, such as "customer-7": brokers that know keys let them take turns, or keep their order.
    key: str | None
    #: True: only a broker that runs the messages of one key one by one, in order, takes it.
    ordered: bool | None
    #: Whose work it is: tenants take turns in a queue, if its broker's keys do or it has lanes (`task_tenant_lanes`).
    tenant: str | None
    #: Your own id. While a task with this id waits or runs, sending it again changes nothing.
    task_id: str | None
    #: Whom or what it does its work for, such as "order-7": what has succeeded for a key does not run for it again.
    idempotency_key: str | None
    headers: Mapping[str, Any] | None
    serializer: str | None
    compression: str | None
    ignore_result: bool | None
    #: Seconds this call's runs may take, over the task's own limits.
    time_limit: float | timedelta | str | None
    soft_time_limit: float | timedelta | str | None
    #: A connection of yours (the database driver's, or SQLAlchemy's) in whose transaction the message is stored.
    connection: Any
    #: Whether, and how, *sending* is tried again while the broker is away (max_retries, interval_start, _step, _max).
    retry: bool | None
    retry_policy: Mapping[str, Any] | None
    #: Tasks to call with the result, and with the failed id.
    link: Signature | Iterable[Signature] | None
    link_error: Signature | Iterable[Signature] | None
    root_id: str | None
    parent_id: str | None
    #: Handles on (or ids of) calls that were sent before and have to end well first.
    depends_on: AsyncResult[Any] | str | Iterable[AsyncResult[Any] | str] | None
    #: True: those that it depends on have to end, well or badly.
    allow_failure: bool | None


TASK_WORDS = frozenset(TaskOptions.__annotations__)
SEND_WORDS = frozenset(SendOptions.__annotations__)

#: Celery's words for things dray does in another way, and what to say instead.
_ELSEWHERE = {
    "bind": "`bind=True` belongs in the decorator: @app.task(bind=True)",
    "delivery_mode": "every message is stored durably where the broker can",
    "acks_late": "say acks_late in the decorator, @app.task(acks_late=...)",
    "max_retries": "say max_retries in the decorator; retry= and retry_policy= are about sending",
    **dict.fromkeys(
        ("rate_limit", "max_concurrent", "unique"),
        "it is the task's: say it in the decorator, so that all workers heed it",
    ),
}


def check_task_options(options: Mapping[str, Any], task: str) -> None:
    """Raise `TaskOptionError` for a word or value that a task declaration does not take."""
    for word in options:
        if word not in TASK_WORDS:
            raise TaskOptionError(f"@app.task of {task} has no option {word!r}{nearest(word, TASK_WORDS)}")
    _check_shared({**options, "key": None} if is_limit_key(options.get("key")) else options, task)
    name = options.get("name", task)
    if not isinstance(name, str) or not 0 < len(name) <= 255:
        raise TaskOptionError(f"@app.task(name=...) is a text of 1 to 255 characters; got {name!r}")
    deliveries = options.get("max_deliveries", 1)
    if isinstance(deliveries, bool) or not isinstance(deliveries, int) or deliveries < 1:
        raise TaskOptionError(f"{task}: max_deliveries is a whole number >= 1; got {deliveries!r}")
    if (expires := options.get("expires")) is not None:
        seconds(expires, "expires", task)
    check_hooks(options, task)
    read_webhooks(options.get("webhook"), task)
    _check_schedule(options, task)
    names = options.get("sensitive", ())
    if isinstance(names, str) or not (isinstance(names, Iterable) and all(isinstance(name, str) for name in names)):
        raise TaskOptionError(f"{task}: sensitive is a list of parameter names, ('password',); got {names!r}")


def _check_schedule(options: Mapping[str, Any], task: str) -> None:
    """Raise `ConfigurationError` for what is no schedule; tables are read when a scheduler starts, with the plugins."""
    said, interval = options.get("schedule"), options.get("every")
    if said is not None and interval is not None:
        raise TaskOptionError(f"{task}: give schedule= or every=, not both")
    if interval is not None:
        every(interval)
    elif said is not None and not isinstance(said, Mapping):
        read_schedule(said, f"@app.task of {task}")


def check_send_options(options: Mapping[str, Any], task: str) -> None:
    """Raise `TaskOptionError` for a word or value that a sending does not take."""
    if not options.keys() <= SEND_WORDS:
        for word in options:
            if word not in SEND_WORDS:
                hint = f"; {_ELSEWHERE[word]}" if word in _ELSEWHERE else nearest(word, SEND_WORDS)
                raise TaskOptionError(f"sending {task}: there is no option {word!r}{hint}")
    _check_shared(options, task)
    if options.get("countdown") is not None and options.get("eta") is not None:
        raise TaskOptionError(f"sending {task}: give countdown (seconds from now) or eta (an instant), not both")
    task_id = options.get("task_id")
    if task_id is not None and not (isinstance(task_id, str) and 0 < len(task_id) <= 128):
        raise TaskOptionError(f"sending {task}: task_id is a text of 1 to 128 characters; got {task_id!r}")
    check_idempotency_key(options, task)
    tenant = options.get("tenant")
    if tenant is not None and not (isinstance(tenant, str) and 0 < len(tenant) <= 128):
        raise TaskOptionError(f"sending {task}: tenant is a text of 1 to 128 characters; got {tenant!r}")
    if tenant is not None and options.get("key") is not None:
        raise TaskOptionError(f"sending {task}: tenants take turns by their key; leave out key=")
    eta = options.get("eta")
    if eta is not None and not isinstance(eta, datetime):
        raise TaskOptionError(f"sending {task}: eta is a datetime; for seconds from now say countdown; got {eta!r}")
    headers = options.get("headers")
    if headers is not None and not (isinstance(headers, Mapping) and all(isinstance(name, str) for name in headers)):
        raise TaskOptionError(f"sending {task}: headers is a dict whose keys are texts; got {headers!r}")
    if options.get("retry_policy") is not None:
        _check_retry_policy(options["retry_policy"], task)


def _check_retry_policy(policy: Any, task: str) -> None:
    try:
        read_setting("task_publish_retry_policy", policy)
    except SettingError as error:
        raise TaskOptionError(f"sending {task}: retry_policy: {error}") from None


def kept_after_failure(options: Mapping[str, Any], task: str) -> bool | None:
    """Return whether a message whose task has failed is kept in the dead letters; None where `options` do not say.

    `dead_letter` and `acks_on_failure` say the same, the one as the opposite of the other. Raises `TaskOptionError`
    when they contradict each other, or nothing could be kept.
    """
    said = {word: options[word] for word in ("dead_letter", "acks_on_failure") if options.get(word) is not None}
    for word, value in said.items():
        if not isinstance(value, bool):
            raise TaskOptionError(f"{task}: {word} is true or false; got {value!r}")
    kept = {value is (word == "dead_letter") for word, value in said.items()}
    if len(kept) > 1:
        raise TaskOptionError(
            f"{task}: dead_letter={said['dead_letter']} and acks_on_failure={said['acks_on_failure']} contradict each "
            "other: the message of a failed task is kept in the dead letters, or acked. Say one of them."
        )
    if kept == {True} and options.get("acks_late") is False:
        raise TaskOptionError(
            f"{task}: with acks_late=False its message is acked before it begins, and is not there to be kept in the "
            "dead letters when it fails: leave out one of the two"
        )
    return kept.pop() if kept else None


def positional(args: Any, task: str) -> tuple[Any, ...]:
    """Return positional arguments given as a collection; raise `ArgumentsError` for what is none, such as a text."""
    if type(args) is tuple:
        return args
    if args is None:
        return ()
    if isinstance(args, str | bytes | Mapping) or not isinstance(args, Iterable):
        raise ArgumentsError(
            f"{task}: the arguments are given as a tuple; got {_kind(args)}: for a single one write (value,)"
        )
    return tuple(args)


def one_of_many(call: Any, task: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of one call of `delay_many`: given as a tuple, or as a dict of keyword arguments."""
    if type(call) is tuple:
        return call, {}
    if isinstance(call, Mapping):
        return (), dict(call)
    return positional(call, task), {}


def by_name(kwargs: Any, task: str) -> dict[str, Any]:
    """Return keyword arguments given as a mapping; raise `ArgumentsError` for what is none."""
    if not kwargs and (kwargs is None or type(kwargs) is dict):
        return {}
    if not isinstance(kwargs, Mapping):
        raise ArgumentsError(f"{task}: keyword arguments are given as a dict; got {_kind(kwargs)}")
    return dict(kwargs)


def _kind(value: Any) -> str:
    """Return what a value is, without showing it: it may be one that is not to be shown."""
    return f"a value of type {type(value).__qualname__}"


def _check_shared(options: Mapping[str, Any], task: str) -> None:
    priority = options.get("priority")
    if priority is not None and (type(priority) is not int or not 0 <= priority <= HIGHEST_PRIORITY):
        raise TaskOptionError(
            f"{task}: priority is a whole number from 0 to 9, 9 being the most urgent; got {priority!r}"
        )
    queue = options.get("queue")
    if queue is not None:
        check_queue(queue, task)
    for word in ("exchange", "routing_key"):
        text = options.get(word)
        if text is not None and not (isinstance(text, str) and len(text.encode(errors="replace")) <= LONGEST_KEY):
            raise TaskOptionError(f"{task}: {word} is a text of up to {LONGEST_KEY} bytes; got {text!r}")
    key = options.get("key")
    if key is not None and not (isinstance(key, str) and 0 < len(key) <= 128):
        raise TaskOptionError(f"{task}: key is a text of 1 to 128 characters; got {key!r}")
    if not isinstance(options.get("ordered"), bool | None):
        raise TaskOptionError(f"{task}: ordered is true or false; got {options['ordered']!r}")
    time_limits(options, task)
    for word in ("serializer", "compression"):
        if not isinstance(options.get(word), str | None):
            raise TaskOptionError(f"{task}: {word} is a name such as 'json' or 'gzip'; got {options[word]!r}")


def time_limits(
    options: Mapping[str, Any], task: str, hard: float | None = None, soft: float | None = None
) -> tuple[float | None, float | None]:
    """Return the hard and the soft time limit in seconds, None for none; `hard` and `soft` are those it has anyway.

    Raises `TaskOptionError` for what is no limit, and for a soft one that the hard one leaves no time for.
    """
    if "time_limit" in options:
        hard = _time_limit(options["time_limit"], "time_limit", task)
    if "soft_time_limit" in options:
        soft = _time_limit(options["soft_time_limit"], "soft_time_limit", task)
    if hard is None or soft is None or soft < hard:
        return hard, soft
    if "soft_time_limit" not in options and "time_limit" in options:
        return hard, None  # what the settings say for tasks in general, a short one has no use for
    which = "soft_time_limit" if "soft_time_limit" in options else "task_soft_time_limit"
    other, hint = "time_limit", ""
    if "time_limit" not in options:
        other, hint = "the time_limit that it has anyway", ": say time_limit= as well"
    raise TaskOptionError(
        f"{task}: {which} ({soft:g} s) is to be less than {other} ({hard:g} s), or it never comes{hint}"
    )


def _time_limit(value: Any, option: str, task: str) -> float | None:
    """Read a time limit given as a number of seconds, a timedelta or text such as "5m"."""
    if value is None:
        return None
    try:
        limit = read_seconds(value)
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise TaskOptionError(
            f"{task}: {option} is a number of seconds > 0, a timedelta or text such as '5m'; got {value!r}. "
            "None means no limit."
        )
    return limit


def check_queue(queue: Any, task: str) -> str:
    """Return `queue` if it can be the name of one; raise `TaskOptionError` otherwise."""
    if not isinstance(queue, str) or not queue or len(queue) > 128 or any(c.isspace() for c in queue):
        raise TaskOptionError(f"{task}: a queue is named by 1 to 128 characters without whitespace; got {queue!r}")
    return queue


def instant(value: float | timedelta | datetime, now: float, option: str, task: str, zone: tzinfo) -> float:
    """Return an instant given as seconds from now, a timedelta or a datetime (a naive one is in `zone`)."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=zone)).timestamp()
    if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
        return now + value
    return now + seconds(value, option, f"sending {task}")
