"""The messages that a run leads to: the next attempt, and the callbacks.

Their identity follows from the message that led to them - the same id and the next attempt, or the id and the place of
the callback - so that a run repeated after a crash sends the same again, which a broker that still has them
recognises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import signalling, signals
from .context import TRACE_HEADERS, Context
from .idempotency import given_id
from .message import Message, Step
from .signalling import Encode
from .task import blank_message

if TYPE_CHECKING:
    from .app import Dray


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
    """Return the messages of the callbacks that get the result."""
    return _callbacks(app, message, message.link, "l", value) if message.link else ()


def on_failure(app: Dray, message: Message) -> tuple[Message, ...]:
    """Return the messages of the callbacks that get the id of what failed."""
    return _callbacks(app, message, message.link_error, "e", message.id) if message.link_error else ()


def _callbacks(app: Dray, parent: Message, steps: tuple[Step, ...], mark: str, value: Any) -> tuple[Message, ...]:
    return tuple(callback(app, parent, step, f"{parent.id}-{mark}{n}", value) for n, step in enumerate(steps))


def callback(app: Dray, parent: Message, step: Step, id: str, value: Any = None) -> Message:
    """Return the message of one call that follows a run; `value` stands in front of its arguments if it takes that."""
    traced = {name: parent.headers[name] for name in TRACE_HEADERS if name in parent.headers}
    options = {
        **step.options,
        "headers": {**traced, **step.options.get("headers", {})},
        "root_id": parent.root_id or parent.id,
        "parent_id": parent.id,
    }
    task = app.tasks.get(step.task)
    message = blank_message(app, step.task, options, task.resolved if task is not None else None).but(
        reply_to=parent.reply_to,
        id=given_id(step.task, options) or id,
        content_type=step.content_type,
        content_encoding=step.content_encoding,
        link=step.link,
        link_error=step.link_error,
        payload=step.payload,
        sensitive=step.sensitive or (task.resolved.sensitive if task is not None else ()),
    )
    if not (message.queue or message.exchange):
        args, kwargs, _ = app.payloads.arguments(message)
        seen = message.but(args=tuple(args) if step.immutable else (value, *args), kwargs=kwargs)
        seen = app.routes.placed(seen, options, task.resolved if task is not None else None)
        message = seen.but(args=(), kwargs={})
    if not step.immutable:
        args, kwargs, serializer = app.payloads.arguments(message)
        message = message.but(args=(value, *args), kwargs=kwargs)
        message = app.payloads.encode(message, serializer.name, step.content_encoding or None)
    unchanged: Encode = lambda prepared: prepared  # noqa: E731
    announced = signals.before_task_publish.receivers
    return app.sender.prepare(message, signalling.announced(app, unchanged) if announced else unchanged)
