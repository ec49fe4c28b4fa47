"""Sends Celery's signals for what the engine does: says which, and tells it in Celery's keyword arguments.

Nothing here is called unless somebody is connected (`signals.Signal.receivers`); whoever calls looks there first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from . import signals, states
from .context import Context
from .errors import DrayError, TaskOptionError, UnknownTask
from .idempotency import check_one_queue
from .message import Message
from .options import check_send_options
from .outcome import Again, Done, Expired, Failed, Ignored, Outcome, Rejected, Revoked
from .tracebacks import trace

if TYPE_CHECKING:
    from .app import Dray

#: Takes a message with its arguments and returns it as it will travel.
Encode = Callable[[Message], Message]

#: What a receiver of before_task_publish may change about where a message goes.
_ROUTE = ("queue", "exchange", "routing_key", "priority")
#: What stands in the body after the arguments, as in Celery's messages.
_EMBED: Mapping[str, None] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


# Sending


def announced(app: Dray, encode: Encode) -> Encode:
    """Return `encode` with before_task_publish in front of it: what a receiver changes is what is encoded."""
    return lambda message: encode(_before_publish(app, message))


def published(app: Dray, messages: Iterable[Message]) -> None:
    """Send after_task_publish for each of the messages that the broker has now."""
    for message in messages:
        args, kwargs = _call(app, message)
        signals.after_task_publish.send(
            sender=message.task,
            headers={**message.headers, **_facts(message)},
            body=(args, kwargs, dict(_EMBED)),
            exchange=message.exchange,
            routing_key=message.routing_key or message.queue,
        )


def _before_publish(app: Dray, message: Message) -> Message:
    args, kwargs = _call(app, message)
    facts = _facts(message)
    headers = {**message.headers, **facts}
    properties = {"priority": message.priority, "correlation_id": message.id, "reply_to": message.reply_to}
    # Receivers change the dicts in place.
    told = dict(kwargs)
    signals.before_task_publish.send(
        sender=message.task,
        headers=headers,
        body=(args, told, dict(_EMBED)),
        properties=properties,
        exchange=message.exchange,
        routing_key=message.routing_key or message.queue,
        declare=[],
        retry_policy=dict(app.conf.task_publish_retry_policy),
    )
    if headers["priority"] == message.priority:
        headers["priority"] = properties.get("priority", message.priority)
    return _with_call(app, _with_headers(app, message, facts, headers), args, kwargs, told)


def _with_headers(app: Dray, message: Message, facts: Mapping[str, Any], headers: Mapping[str, Any]) -> Message:
    """Return a message with the route, and the headers of its own, that receivers have left."""
    changed = {name: headers.get(name) for name, value in facts.items() if headers.get(name) != value}
    for name in changed.keys() - set(_ROUTE):
        raise TaskOptionError(
            f"before_task_publish of {message.task}: a receiver changed headers[{name!r}], which says what the message "
            f"is; where it goes is what can be changed ({', '.join(_ROUTE)}), headers of your own, and the arguments"
        )
    own = {name: value for name, value in message.headers.items() if name in facts}
    own.update({name: value for name, value in headers.items() if name not in facts})
    if own != message.headers:
        message = message.but(headers=own)
    if not changed:
        return message
    said = {name: value for name, value in changed.items() if value is not None}
    if "queue" in said:
        # Whoever names the queue has said it all; Celery's own receivers name the key beside it.
        said = {name: value for name, value in said.items() if name in ("queue", "priority")}
    check_send_options(said, f"{message.task} (as a receiver of before_task_publish has it)")
    message = message.but(priority=said.pop("priority", message.priority))
    if said and (to := app.routes.place(message.task, said, None)) is not None:
        message = message.but(queue=to.queue, exchange=to.exchange, routing_key=to.routing_key)
    if message.idempotent:
        check_one_queue(message)
    return message


def _with_call(app: Dray, message: Message, args: Any, kwargs: Mapping[str, Any], told: dict[str, Any]) -> Message:
    """Return a message with the keyword arguments that receivers have left."""
    if told == kwargs:
        return message
    if not message.payload:
        return message.but(kwargs=told)
    serializer = app.payloads.reader(message.content_type).name
    written = app.payloads.encode(
        message.but(args=tuple(args), kwargs=told), serializer, message.content_encoding or None
    )
    return written.but(args=(), kwargs={})


def _facts(message: Message) -> dict[str, Any]:
    """Return what Celery has in the headers of a message, and where it goes."""
    return {
        "lang": "py",
        "task": message.task,
        "id": message.id,
        "root_id": message.root_id or message.id,
        "parent_id": message.parent_id,
        "retries": message.retries,
        "eta": _iso(message.eta),
        "expires": _iso(message.expires),
        "timelimit": [message.time_limit, message.soft_time_limit],
        "origin": message.origin,
        "ignore_result": message.ignore_result,
        "queue": message.queue,
        "exchange": message.exchange,
        "routing_key": message.routing_key,
        "priority": message.priority,
    }


def _iso(instant: float | None) -> str | None:
    return None if instant is None else datetime.fromtimestamp(instant, UTC).isoformat()


def _call(app: Dray, message: Message) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a message, wherever they are; none where they cannot be read."""
    if message.args or message.kwargs or not message.payload:
        return message.args, message.kwargs
    try:
        args, kwargs, _ = app.payloads.arguments(message)
    except DrayError:
        return (), {}
    return tuple(args), kwargs


# Running


def received(worker: str, request: Context) -> None:
    """Send task_received: a worker has the message, and will run it."""
    signals.task_received.send(sender=worker, request=request)


def began(context: Context) -> None:
    """Send task_prerun, in the thread, loop, greenlet or process that runs the task."""
    signals.task_prerun.send(
        sender=context.task, task_id=context.id, task=context.task, args=context.args, kwargs=context.kwargs
    )


def ended(app: Dray, context: Context, outcome: Outcome, heard: bool = True) -> None:
    """Send what a run came to, and task_postrun, where task_prerun was sent.

    What is not `heard` was said already: its run was given up, and went on.
    """
    if heard:
        came_to(app, context, outcome)
    state, value = _state(outcome)
    signals.task_postrun.send(
        sender=context.task,
        task_id=context.id,
        task=context.task,
        args=context.args,
        kwargs=context.kwargs,
        retval=value,
        state=state,
    )


def came_to(app: Dray, context: Context, outcome: Outcome) -> None:
    """Send task_success, task_failure, task_retry or task_revoked, whichever it is."""
    match outcome:
        case Done(value):
            signals.task_success.send(sender=context.task, result=value, task_id=context.id)
        case Again(_, error):
            signals.task_retry.send(
                sender=context.task, task_id=context.id, request=context, reason=error, einfo=trace(error)
            )
        case Failed(error):
            # In a process that only heard of the end, nobody has decoded them.
            args, kwargs = _call(app, context.message.but(args=context.args, kwargs=context.kwargs))
            signals.task_failure.send(
                sender=context.task,
                task_id=context.id,
                exception=error,
                args=args,
                kwargs=kwargs,
                traceback=error.__traceback__,
                einfo=trace(error),
            )
        case Revoked() | Expired():
            _revoked(context, outcome)


def not_run(context: Context, outcome: Outcome, known: bool) -> None:
    """Send what becomes of a message that a worker does not run: it does not know the task, or must or can not."""
    message, worker = context.message, context.hostname
    match outcome:
        case Revoked() | Expired():
            _revoked(context, outcome)
        case Rejected(reason) if not known:
            signals.task_unknown.send(
                sender=worker, message=message, exc=UnknownTask(reason), name=message.task, id=message.id
            )
        case Rejected(reason):
            signals.task_rejected.send(sender=worker, message=message, exc=DrayError(reason))


def went_wrong(context: Context, error: BaseException) -> None:
    """Send task_internal_error: the engine itself failed while a task ran."""
    signals.task_internal_error.send(
        sender=context.task,
        task_id=context.id,
        args=context.args,
        kwargs=context.kwargs,
        request=context,
        exception=error,
        traceback=error.__traceback__,
        einfo=trace(error),
    )


def _revoked(context: Context, outcome: Revoked | Expired) -> None:
    number = outcome.signal if isinstance(outcome, Revoked) else None
    signals.task_revoked.send(
        sender=context.task,
        task_id=context.id,
        request=context,
        terminated=number is not None,
        signum=number,
        expired=isinstance(outcome, Expired),
    )


def _state(outcome: Outcome) -> tuple[str, Any]:
    match outcome:
        case Done(value):
            return states.SUCCESS, value
        case Again(_, error):
            return states.RETRY, error
        case Failed(error):
            return states.FAILURE, error
        case Rejected(reason):
            return states.REJECTED, reason
        case Revoked(reason):
            return states.REVOKED, reason
        case Ignored():
            return "IGNORED", None
        case _:
            return states.PENDING, None
