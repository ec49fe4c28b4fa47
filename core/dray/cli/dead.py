"""`dray dead`: the dead letters - what could not be run, kept whole with the reason - and what to do with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigurationError, NotSupported
from ..message import Message, Waiting
from ..redaction import visible_arguments
from .command import command, group, option
from .durations import age, iso, moment
from .exits import Stop
from .option_values import names
from .queues import known_queues, message_of, task_of
from .result import plain
from .session import Session
from .tables import Cell, Styled, show_facts, show_json, show_table

if TYPE_CHECKING:
    from ..app import Dray

#: How many letters are moved at once, and how many are looked at where the broker cannot count them.
BATCH, UNCOUNTED = 500, 10_000
#: Longest text (characters) of one argument.
LONGEST = 200


@group(
    "dead",
    examples=[
        ("dray dead list", "all of them, with their reasons"),
        ("dray dead show 0199c0de-...", "everything about one, arguments included"),
        ("dray dead replay --all -Q default", "the bug is fixed: run them again"),
    ],
)
def dead() -> None:
    """Show, replay or delete the dead letters: messages that could not be run, kept with the reason."""


_queues = option(
    "-Q", "--queues", metavar="NAMES", multiple=True, callback=names, help="Only these queues.", default_text="all"
)
_all = option("--all", "every", is_flag=True, help="All of them, instead of IDs.")
_json = option("--json", "as_json", is_flag=True, help="Print JSON.")


def _subcommand(name: str, **attributes: Any) -> Callable[[Callable[..., Any]], click.Command]:
    def add(function: Callable[..., Any]) -> click.Command:
        made = command(name, **attributes)(function)
        dead.add_command(made)
        return made

    return add


@_subcommand("list", examples=[("dray dead list -Q default -n 5", "the five oldest of one queue")])
@_queues
@option(
    "-n", "--limit", metavar="N", type=click.IntRange(min=1), default=50, help="How many at most.", default_text="50"
)
@_json
@click.pass_obj
def list_letters(session: Session, queues: list[str], limit: int, as_json: bool) -> None:
    """List dead letters, the oldest of each queue first."""
    app = session.app
    found = [letter for queue in _chosen(app, queues) for letter in app.broker.dead(queue, limit)]
    shown = found[:limit]
    if as_json:
        show_json({"dead": [_facts(letter, message_of(app, letter)) for letter in shown]})
        return
    if not shown:
        click.echo("No dead letters.")
        return
    show_table(
        ["id", "queue", "task", "age", "reason"],
        [
            [letter.id, letter.queue, task_of(message_of(app, letter)), age(letter.buried), letter.reason]
            for letter in shown
        ],
        right=["age"],
    )
    if len(found) > limit:
        click.echo(click.style(f"There are more; -n {limit * 2} shows more of them.", dim=True))


@_subcommand("show", examples=[("dray -A shop.tasks dead show ID", "arguments by the names that the task gives them")])
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@_queues
@_json
@click.pass_obj
def show(session: Session, ids: tuple[str, ...], queues: list[str], as_json: bool) -> None:
    """Show everything about dead letters: reason, task, arguments, deliveries, sizes.

    Sensitive arguments are not shown, nor those that a plugin redacts. Nothing is decoded that `accept_content` does
    not allow.
    """
    app = session.app_with_tasks()
    letters = [letter for _, found in _by_id(app, ids, queues) for letter in found]
    details = [(letter, message_of(app, letter)) for letter in letters]
    if as_json:
        show_json({"dead": [{**_facts(one, m), "arguments": _arguments(app, m)} for one, m in details]})
        return
    for n, (letter, message) in enumerate(details):
        if n:
            click.echo()
        show_facts(_lines(app, letter, message))


@_subcommand(
    "replay",
    examples=[
        ("dray dead replay ID1 ID2", "these two"),
        ("dray dead replay --all -Q default", "all of one queue"),
    ],
)
@click.argument("ids", nargs=-1, metavar="[ID...]")
@_queues
@_all
@_json
@click.pass_obj
def replay(session: Session, ids: tuple[str, ...], queues: list[str], every: bool, as_json: bool) -> None:
    """Put dead letters back into their queues, as if never delivered. Their state is PENDING again."""
    app = session.app
    moved: dict[str, int] = {}
    for queue, some in _selected(app, ids, queues, every):
        moved[queue] = moved.get(queue, 0) + app.sender.replay(queue, some)
    _tell(moved, "replayed", as_json)


@_subcommand(
    "purge",
    examples=[
        ("dray dead purge ID", "one"),
        ("dray dead purge --all -Q default", "all of one queue; asks first"),
    ],
)
@click.argument("ids", nargs=-1, metavar="[ID...]")
@_queues
@_all
@option("-f", "--force", is_flag=True, help="Do not ask.")
@_json
@click.pass_obj
def purge(session: Session, ids: tuple[str, ...], queues: list[str], every: bool, force: bool, as_json: bool) -> None:
    """Delete dead letters for good."""
    app = session.app
    if not force:
        what = f"{len(ids)} dead letter(s)" if ids else f"all dead letters of {', '.join(queues) or 'all queues'}"
        click.confirm(f"Delete {what} on {app.broker.url}?", abort=True, err=True)
    gone: dict[str, int] = {}
    for queue, some in _selected(app, ids, queues, every):
        gone[queue] = gone.get(queue, 0) + app.broker.discard(queue, some)
    _tell(gone, "deleted", as_json)


def _chosen(app: Dray, queues: Sequence[str]) -> list[str]:
    """Return the queues to look at: those named, else all that the broker knows."""
    if not app.broker.capabilities.dead_letters:
        raise NotSupported(
            f"{app.broker.url.scheme}:// keeps no dead letters: what cannot be run is logged and dropped"
        )
    if queues:
        return list(queues)
    if not app.broker.capabilities.size:
        raise ConfigurationError(f"{app.broker.url.scheme}:// cannot list its queues: name them with -Q")
    return known_queues(app)


def _selected(app: Dray, ids: Sequence[str], queues: Sequence[str], every: bool) -> Iterator[tuple[str, list[str]]]:
    """Yield (queue, ids of some of its dead letters) until every letter that was meant has been yielded once."""
    if bool(ids) == every:
        raise click.UsageError("name the IDs of dead letters (`dray dead list` shows them), or say --all")
    if ids:
        for queue, letters in _by_id(app, ids, queues):
            yield queue, [letter.id for letter in letters]
        return
    for queue in _chosen(app, queues):
        counted = app.broker.capabilities.size == "exact"
        left = app.broker.sizes([queue])[queue].get("dead", 0) if counted else UNCOUNTED
        # Counted beforehand: what dies again while we are at it comes after these, and must not keep us for ever.
        while left > 0 and (letters := app.broker.dead(queue, min(left, BATCH))):
            yield queue, [letter.id for letter in letters]
            left -= len(letters)


def _by_id(app: Dray, ids: Sequence[str], queues: Sequence[str]) -> list[tuple[str, Sequence[Waiting]]]:
    """Return the letters with these ids, by queue; end the command when one is not there."""
    wanted = list(dict.fromkeys(ids))
    found = [(queue, app.broker.dead(queue, len(wanted), wanted)) for queue in _chosen(app, queues)]
    known = {letter.id for _, letters in found for letter in letters}
    missing = [id for id in wanted if id not in known]
    if missing:
        raise Stop(f"no dead letter {', '.join(missing)} in {', '.join(queue for queue, _ in found) or 'any queue'}")
    return [(queue, letters) for queue, letters in found if letters]


def _tell(counts: dict[str, int], verb: str, as_json: bool) -> None:
    if as_json:
        show_json({verb: counts})
        return
    for queue, count in counts.items():
        click.echo(f"{queue}: {count} {verb}")
    if not counts:
        click.echo("No dead letters.")


def _facts(letter: Waiting, message: Message | None) -> dict[str, Any]:
    return {
        "id": letter.id,
        "queue": letter.queue,
        "task": message.task if message else None,
        "reason": letter.reason,
        "buried": iso(letter.buried),
        "sent": iso(message.created if message and message.created else letter.published),
        "deliveries": letter.delivery_count,
        "retries": message.retries if message else None,
        "priority": letter.priority,
        "bytes": len(letter.body),
    }


def _lines(app: Dray, letter: Waiting, message: Message | None) -> list[tuple[str, Cell]]:
    lines: list[tuple[str, Cell]] = [
        ("id", Styled(letter.id, "bold")),
        ("reason", Styled(letter.reason, "red")),
        ("task", task_of(message)),
        ("queue", letter.queue),
        ("buried", f"{moment(letter.buried)}, {age(letter.buried)} old" if letter.buried else ""),
        ("deliveries", str(letter.delivery_count)),
    ]
    if message is None:
        return [*lines, ("body", f"{len(letter.body):,} bytes, beginning {letter.body[:32]!r}")]
    packed = f", {message.content_encoding}" if message.content_encoding else ""
    return [
        *lines,
        ("retries", str(message.retries)),
        ("sent", f"{moment(message.created)} by {message.origin}"),
        ("priority", str(message.priority)),
        ("parent", message.parent_id or ""),
        (
            "size",
            f"{len(letter.body):,} bytes, {len(message.payload):,} of them arguments ({message.content_type}{packed})",
        ),
        ("arguments", _as_lines(_arguments(app, message))),
    ]


def _as_lines(arguments: Any) -> Cell:
    if isinstance(arguments, str):
        return Styled(arguments, "yellow")
    lines = []
    for name, value in arguments.items():
        text = json.dumps(value, default=repr, ensure_ascii=False)
        lines.append(f"{name} = {text if len(text) <= LONGEST else text[:LONGEST] + '...'}")
    return "\n".join(lines) or Styled("none", "dim")


def _arguments(app: Dray, message: Message | None) -> dict[str, Any] | str:
    """Return the arguments by name, redacted; or say why they are not shown."""
    if message is None:
        return "the message cannot be read"
    arguments = visible_arguments(app, message)
    if isinstance(arguments, str):
        return arguments
    return {str(name): plain(value) for name, value in arguments.items()}
