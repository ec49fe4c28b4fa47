"""Takes out of calls what is not for other people's eyes: arguments marked as sensitive, and what plugins redact.

Used wherever dray shows arguments or hands them to somebody who may: listings, events, stored calls, `repr`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .arguments import EVERY
from .errors import DrayError

if TYPE_CHECKING:
    from .app import Dray
    from .message import Message

#: What stands in the place of an argument that is not shown.
HIDDEN = "***"


class NotShown(Exception):
    """The arguments are not to be shown at all; the text says why."""


def hide(
    args: Sequence[Any], kwargs: Mapping[str, Any], marks: Collection[int | str]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments with those that `marks` names hidden (`Parameters.marks`)."""
    if EVERY in marks:
        return [HIDDEN] * len(args), dict.fromkeys(kwargs, HIDDEN)
    return (
        [HIDDEN if position in marks else value for position, value in enumerate(args)],
        {name: HIDDEN if name in marks else value for name, value in kwargs.items()},
    )


def redacted(app: Dray, message: Message) -> Message:
    """Return a message for others to look into: the same one if nothing in it is to be hidden.

    What cannot be decoded, and what a plugin that redacts fails on, is left out altogether.
    """
    marks = _marks(app, message)
    asked = app.plugins.has("redact")
    if not marks and not asked:
        return message
    try:
        args, kwargs, serializer = app.payloads.arguments(message)
        args, kwargs = hide(args, kwargs, marks)
        if asked:
            args, kwargs = _as_plugins_leave_them(app, message.task, args, kwargs)
        visible = app.payloads.encode(
            message.but(args=tuple(args), kwargs=kwargs), serializer.name, message.content_encoding or None
        )
    except (DrayError, NotShown):
        return message.but(args=(), kwargs={}, payload=b"")
    # A message from the wire carries its arguments in the payload alone.
    return visible if message.args or message.kwargs else visible.but(args=(), kwargs={})


def visible_arguments(app: Dray, message: Message) -> dict[str, Any] | str:
    """Return the arguments by name, redacted, for people; or say why they are not shown."""
    try:
        args, kwargs, _ = app.payloads.arguments(message)
    except DrayError as error:
        return f"not decoded: {error}"
    args, kwargs = hide(args, kwargs, _marks(app, message))
    found = _named(app, message.task, args, kwargs)
    if not app.plugins.has("redact"):
        numbered = {f"argument {n}": value for n, value in enumerate(args, 1)}
        return found[1] if found is not None else {**numbered, **kwargs}
    if found is None:
        return f"not shown: a plugin redacts arguments by name, and {message.task} is not known here; say -A"
    try:
        return _by_plugins(app, found[1])
    except NotShown as reason:
        return f"not shown: {reason}"


def _marks(app: Dray, message: Message) -> Collection[int | str]:
    """Return what the sender marked, and what the task, if it is known here, marks."""
    task = app.tasks.get(message.task)
    if task is None or task.resolved.sensitive == message.sensitive:
        return message.sensitive
    return {*message.sensitive, *task.resolved.sensitive}


def _named(
    app: Dray, task: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[str], dict[str, Any]] | None:
    """Return what `Parameters.named` does; None too when the task is none of this app's."""
    if not args:
        return [], dict(kwargs)
    return app.tasks[task].parameters.named(args, kwargs) if task in app.tasks else None


def _as_plugins_leave_them(
    app: Dray, task: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments redacted by plugins; those that are not known by name are hidden."""
    found = _named(app, task, args, kwargs)
    if found is None:
        return [HIDDEN] * len(args), _by_plugins(app, dict(kwargs))
    names, named = found
    left = _by_plugins(app, dict(named))

    def kept(name: str, value: Any) -> Any:
        now = left.get(name, HIDDEN)
        if now is named[name]:
            return value
        return HIDDEN if isinstance(named[name], tuple) else now  # those of *args stand or fall together

    return list(map(kept, names, args)), {name: left.get(name, HIDDEN) for name in kwargs}


def _by_plugins(app: Dray, named: dict[str, Any]) -> dict[str, Any]:
    failed = sum(app.plugins.failures.values())
    app.plugins.observe("redact", arguments=named)
    if sum(app.plugins.failures.values()) > failed:
        raise NotShown("a plugin that redacts arguments has failed")
    return named
