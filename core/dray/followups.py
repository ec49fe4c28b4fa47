"""The messages that a run leads to: the next attempt, and the callbacks.

Their identity follows from the message that led to them - the same id and the next attempt, or the id and the place of
the callback - so that a run repeated after a crash sends the same again, which a broker that still has them
recognises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from . import signalling, signals
from .context import TRACE_HEADERS, Context
from .errors import TaskFailed
from .idempotency import given_id
from .message import Message, Step
from .report import Failure
from .signalling import Encode
from .task import Task, blank_message

if TYPE_CHECKING:
    from .app import Dray

#: `Message.given` of an error callback: its first two arguments are the failed call's id, and facts about the failure.
FAILURE_GIVEN = "!"


def next_attempt(app: Dray, context: Context, delay: float, args: Any, kwargs: Any) -> Message:
    """Return the message of the next attempt, due in `delay` seconds; `args` and `kwargs` replace the old ones."""
    message = context.message
    if not context.is_eager:
        # A broker without delays runs it at once; `dray doctor` says so.
        delay = min(delay, app.connections.capabilities.max_delay)
    again = message.but(retries=message.retries + 1, eta=app.clock.time() + delay if delay else None)
    if args is None and kwargs is None:
        return again
    serializer = app.payloads.reader(message.content_type).name
    again = again.but(
        args=context.args if args is None else tuple(args), kwargs=context.kwargs if kwargs is None else kwargs
    )
    return app.payloads.encode(again, serializer, message.content_encoding or None)


def on_success(app: Dray, message: Message, value: Any) -> tuple[Message, ...]:
    """Return the messages of the callbacks that get the result, and of what comes next in the chain."""
    calls = [
        _following(app, message, step, f"{message.id}-l{n}", () if step.immutable else (value,))
        for n, step in enumerate(message.link)
    ]
    if message.chain and not message.chain[0].fan:
        step = message.chain[0]
        following = _following(app, message, step, f"{message.id}-n", () if step.immutable else (value,))
        calls.append(following.but(chain=message.chain[1:], fan=message.fan, index=message.index))
    return tuple(calls)


def on_failure(app: Dray, message: Message, failure: Failure | None) -> tuple[Message, ...]:
    """Return the messages of the callbacks that are told of a failure."""
    failed = FailedCall(id=message.id, task=message.task, queue=message.queue, retries=message.retries)
    return tuple(
        _following(app, message, step, f"{message.id}-e{n}", errback_front(step, failed, failure)).but(
            given="" if step.immutable else FAILURE_GIVEN
        )
        for n, step in enumerate(message.link_error)
    )


class FailedCall(msgspec.Struct, frozen=True, kw_only=True):
    """The call that failed, as an error callback with three parameters gets it: `def on_error(request, exc, tb)`."""

    id: str
    task: str
    queue: str = ""
    retries: int = 0


def errback_front(step: Step, failed: FailedCall, failure: Failure | None) -> tuple[Any, ...]:
    """Return what stands in front of an error callback's own arguments."""
    if step.immutable:
        return ()
    return failed.id, {"call": msgspec.to_builtins(failed), "failure": msgspec.to_builtins(failure)}


def errback_arguments(task: Task[..., Any], args: list[Any]) -> list[Any]:
    """Return the arguments with which an error callback is called: the id of what failed in front of its own.

    One that cannot be called so, but with two more, gets (request, exception, traceback), as in Celery.
    """
    id, facts, *own = args
    if task.parameters.takes(1 + len(own)) or not task.parameters.takes(3 + len(own)):
        return [id, *own]
    failure = msgspec.convert(facts["failure"], Failure | None)
    error = failure.rebuild() if failure is not None else TaskFailed("it ended without an exception")
    return [msgspec.convert(facts["call"], FailedCall), error, failure.traceback if failure is not None else "", *own]


def callback(app: Dray, parent: Message, step: Step, id: str) -> Message:
    """Return the message of a call that follows a run and takes nothing of it."""
    return _following(app, parent, step, id, ())


def _following(app: Dray, parent: Message, step: Step, id: str, front: tuple[Any, ...]) -> Message:
    return call_of(
        app,
        step,
        id,
        front,
        root_id=parent.root_id or parent.id,
        parent_id=parent.id,
        reply_to=parent.reply_to,
        headers={name: parent.headers[name] for name in TRACE_HEADERS if name in parent.headers},
    )


def call_of(
    app: Dray,
    step: Step,
    id: str,
    front: tuple[Any, ...] = (),
    *,
    root_id: str | None,
    parent_id: str | None,
    reply_to: str,
    headers: Mapping[str, Any] = {},
) -> Message:
    """Return the message of a call that was kept as a step, with more arguments in `front` of its own.

    It has the id that the step names, or `id`.
    """
    options = {
        **step.options,
        "headers": {**headers, **step.options.get("headers", {})},
        "root_id": root_id,
        "parent_id": parent_id,
    }
    task = app.tasks.get(step.task)
    message = blank_message(app, step.task, options, task.resolved if task is not None else None).but(
        reply_to=reply_to,
        id=given_id(step.task, options) or id,
        content_type=step.content_type,
        content_encoding=step.content_encoding,
        link=step.link,
        link_error=step.link_error,
        payload=step.payload,
        replaced=step.options.get("replaces", 0),
        sensitive=step.sensitive or (task.resolved.sensitive if task is not None else ()),
    )
    if not (message.queue or message.exchange):
        args, kwargs, _ = app.payloads.arguments(message)
        seen = message.but(args=(*front, *args), kwargs=kwargs)
        seen = app.routes.placed(seen, options, task.resolved if task is not None else None)
        message = seen.but(args=(), kwargs={})
    if front:
        args, kwargs, serializer = app.payloads.arguments(message)
        message = message.but(args=(*front, *args), kwargs=kwargs)
        message = app.payloads.encode(message, serializer.name, step.content_encoding or None)
    unchanged: Encode = lambda prepared: prepared  # noqa: E731
    announced = signals.before_task_publish.receivers
    return app.sender.prepare(message, signalling.announced(app, unchanged) if announced else unchanged)
