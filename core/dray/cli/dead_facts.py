"""What is shown of a dead letter: for scripts (`facts`), and for people (`lines`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..redaction import visible_arguments
from .durations import age, iso, moment
from .queues import task_of
from .result import plain
from .tables import Cell, Styled

if TYPE_CHECKING:
    from ..app import Dray
    from ..dead_letters import DeadLetter

#: Longest text (characters) of one argument or header.
LONGEST = 200


def facts(letter: DeadLetter, app: Dray | None = None) -> dict[str, Any]:
    """Return what there is to say about a letter, for JSON; with an app also what was sent in it, as far as shown."""
    waiting, message = letter.letter, letter.message
    told: dict[str, Any] = {
        "id": letter.id,
        "queue": letter.queue,
        "task": letter.task,
        "reason": letter.reason,
        "buried": iso(waiting.buried),
        "sent": iso(message.created if message and message.created else waiting.published),
        "deliveries": letter.deliveries,
        "retries": message.retries if message else None,
        "releases": message.handed_back if message else None,
        "priority": waiting.priority,
        "bytes": len(waiting.body),
    }
    if app is None:
        return told
    return {
        **told,
        "traceback": app.dead_letters.traceback(letter) or None,
        "headers": message.headers if message else None,
        "arguments": _arguments(app, letter),
    }


def lines(app: Dray, letter: DeadLetter) -> list[tuple[str, Cell]]:
    """Return everything about a letter, in lines."""
    waiting, message = letter.letter, letter.message
    shown: list[tuple[str, Cell]] = [
        ("id", Styled(letter.id, "bold")),
        ("reason", Styled(letter.reason, "red")),
        ("traceback", app.dead_letters.traceback(letter).rstrip()),
        ("task", task_of(message)),
        ("queue", letter.queue),
        ("buried", f"{moment(waiting.buried)}, {age(waiting.buried)} old" if waiting.buried else ""),
        ("deliveries", str(letter.deliveries)),
    ]
    if message is None:
        return [*shown, ("body", f"{len(waiting.body):,} bytes, beginning {waiting.body[:32]!r}")]
    packed = f", {message.content_encoding}" if message.content_encoding else ""
    size = f"{len(waiting.body):,} bytes, {len(message.payload):,} of them arguments ({message.content_type}{packed})"
    return [
        *shown,
        ("retries", str(message.retries)),
        ("releases", str(message.handed_back)),
        ("sent", f"{moment(message.created)} by {message.origin}"),
        ("priority", str(message.priority)),
        ("parent", message.parent_id or ""),
        ("headers", _as_lines(message.headers) if message.headers else ""),
        ("size", size),
        ("arguments", _as_lines(_arguments(app, letter))),
    ]


def _as_lines(values: Mapping[str, Any] | str) -> Cell:
    if isinstance(values, str):
        return Styled(values, "yellow")
    told = []
    for name, value in values.items():
        text = json.dumps(value, default=repr, ensure_ascii=False)
        told.append(f"{name} = {text if len(text) <= LONGEST else text[:LONGEST] + '...'}")
    return "\n".join(told) or Styled("none", "dim")


def _arguments(app: Dray, letter: DeadLetter) -> dict[str, Any] | str:
    """Return the arguments by name, redacted; or say why they are not shown."""
    if letter.message is None:
        return "the message cannot be read"
    arguments = visible_arguments(app, letter.message)
    if isinstance(arguments, str):
        return arguments
    return {str(name): plain(value) for name, value in arguments.items()}
