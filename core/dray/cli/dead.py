"""`dray dead`: the dead letters - what could not be run, kept whole with the reason - and what to do with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigurationError, NotSupported
from .command import command, group, option
from .dead_edit import edit
from .dead_facts import facts, lines
from .durations import age
from .exits import Stop
from .option_values import names, seconds
from .queues import known_queues, task_of
from .session import Session
from .tables import show_facts, show_json, show_table

if TYPE_CHECKING:
    from ..app import Dray
    from ..dead_letters import DeadLetter

#: Seconds in the units of a rate.
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@group(
    "dead",
    examples=[
        ("dray dead list", "all of them, with their reasons"),
        ("dray dead show 0199c0de-...", "everything about one, arguments included"),
        ("dray dead replay --all -Q default", "the bug is fixed: run them again"),
    ],
)
def dead() -> None:
    """Show, replay, edit or delete the dead letters: messages that could not be run, kept with the reason."""


dead.add_command(edit)


def _rate(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Read how many a second: "10/s", "100/m", "1000/h", or a number."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/([smh]))?", value.strip())
    if found is None or not float(found[1]):
        raise click.BadParameter(f"{value!r} is no rate; write 10/s, 100/m or 1000/h")
    return float(found[1]) / _UNITS[found[2] or "s"]


_queues = option(
    "-Q", "--queues", metavar="NAMES", multiple=True, callback=names, help="Only these queues.", default_text="all"
)
_all = option("--all", "every", is_flag=True, help="All of them, instead of IDs.")
_json = option("--json", "as_json", is_flag=True, help="Print JSON.")
#: Which of them; the words of `dray.dead_letters.Which`.
_FILTERS = (
    option("--task", metavar="NAME", help="Only those of this task, or of tasks that a pattern fits: 'shop.*'."),
    option("--reason", metavar="TEXT", help="Only those in whose reason this text stands."),
    option("--older-than", metavar="SECONDS", callback=seconds, help="Only those buried longer ago: 90, 5m, 7d."),
    option("--younger-than", metavar="SECONDS", callback=seconds, help="Only those buried since then: 90, 5m, 7d."),
    option("--max-deliveries", metavar="N", type=click.IntRange(min=0), help="Only those delivered N times at most."),
)


def _filters(function: Any) -> Any:
    for each in reversed(_FILTERS):
        function = each(function)
    return function


def _subcommand(name: str, **attributes: Any) -> Callable[[Callable[..., Any]], click.Command]:
    def add(function: Callable[..., Any]) -> click.Command:
        made = command(name, **attributes)(function)
        dead.add_command(made)
        return made

    return add


@_subcommand(
    "list",
    examples=[
        ("dray dead list -Q default -n 5", "the five oldest of one queue"),
        ("dray dead list --task 'shop.*' --younger-than 1h", "what the last hour has brought of some tasks"),
    ],
)
@_queues
@_filters
@option(
    "-n", "--limit", metavar="N", type=click.IntRange(min=1), default=50, help="How many at most.", default_text="50"
)
@_json
@click.pass_obj
def list_letters(session: Session, /, queues: list[str], limit: int, as_json: bool, **which: Any) -> None:
    """List dead letters, the oldest of each queue first."""
    app = session.app
    found = app.dead_letters.find(queues=_chosen(app, queues), limit=limit + 1, **which)
    shown = found[:limit]
    if as_json:
        show_json({"dead": [facts(letter) for letter in shown]})
        return
    if not shown:
        click.echo("No dead letters.")
        return
    show_table(
        ["id", "queue", "task", "age", "reason"],
        [
            [letter.id, letter.queue, task_of(letter.message), age(letter.letter.buried), letter.reason]
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
    """Show everything about dead letters: reason and traceback, task, arguments, headers, counters, times, sizes.

    Sensitive arguments are not shown, nor those that a plugin redacts. Nothing is decoded that `accept_content` does
    not allow.
    """
    app = session.app_with_tasks()
    letters = _by_id(app, ids, queues)
    if as_json:
        show_json({"dead": [facts(letter, app) for letter in letters]})
        return
    for n, letter in enumerate(letters):
        if n:
            click.echo()
        show_facts(lines(app, letter))


@_subcommand(
    "replay",
    examples=[
        ("dray dead replay ID1 ID2", "these two"),
        ("dray dead replay --all -Q default", "all of one queue"),
        ("dray dead replay --task shop.charge --reason Timeout --rate 10/s", "what the bank's outage left, gently"),
    ],
)
@click.argument("ids", nargs=-1, metavar="[ID...]")
@_queues
@_all
@_filters
@option("--rate", metavar="N/s", callback=_rate, help="So many at most: 10/s, 100/m, 1000/h.", default_text="at once")
@_json
@click.pass_obj
def replay(
    session: Session,
    /,
    ids: tuple[str, ...],
    queues: list[str],
    every: bool,
    rate: float | None,
    as_json: bool,
    **which: Any,
) -> None:
    """Put dead letters back into their queues, as if never delivered. Their state is PENDING again.

    Without IDs: all that fit the filters, or --all. Stopped in the middle, what is replayed is replayed and the rest is
    still dead.
    """
    app = session.app
    wanted, chosen = _selected(app, ids, queues, every, which)
    _tell(app.dead_letters.replay(wanted, chosen, rate=rate, **which), "replayed", as_json)


@_subcommand(
    "purge",
    examples=[
        ("dray dead purge ID", "one"),
        ("dray dead purge --all -Q default", "all of one queue; asks first"),
        ("dray dead purge --older-than 30d", "what nobody has missed for a month"),
    ],
)
@click.argument("ids", nargs=-1, metavar="[ID...]")
@_queues
@_all
@_filters
@option("-f", "--force", is_flag=True, help="Do not ask.")
@_json
@click.pass_obj
def purge(
    session: Session,
    /,
    ids: tuple[str, ...],
    queues: list[str],
    every: bool,
    force: bool,
    as_json: bool,
    **which: Any,
) -> None:
    """Delete dead letters for good: those with the IDs, all that fit the filters, or --all."""
    app = session.app
    wanted, chosen = _selected(app, ids, queues, every, which)
    if not force:
        fitting = " that fit" if any(value is not None for value in which.values()) else ""
        what = (
            f"{len(ids)} dead letter(s)" if ids else f"all dead letters{fitting} of {', '.join(queues) or 'all queues'}"
        )
        click.confirm(f"Delete {what} on {app.broker.url}?", abort=True, err=True)
    _tell(app.dead_letters.purge(wanted, chosen, **which), "deleted", as_json)


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


def _selected(
    app: Dray, ids: Sequence[str], queues: Sequence[str], every: bool, which: Mapping[str, Any]
) -> tuple[list[str] | None, list[str]]:
    """Return the ids meant, None for all that fit, and the queues to look at; end the command if nothing is said."""
    filtered = any(value is not None for value in which.values())
    if bool(ids) + (every or filtered) != 1:
        raise click.UsageError(
            "name the IDs of dead letters (`dray dead list` shows them), filter (--task, --reason ...), or say --all"
        )
    if ids:
        return [letter.id for letter in _by_id(app, ids, queues)], _chosen(app, queues)
    return None, _chosen(app, queues)


def _by_id(app: Dray, ids: Sequence[str], queues: Sequence[str]) -> list[DeadLetter]:
    """Return the letters with these ids; end the command when one is not there."""
    wanted, chosen = list(dict.fromkeys(ids)), _chosen(app, queues)
    found = app.dead_letters.find(wanted, chosen)
    known = {letter.id for letter in found}
    missing = [id for id in wanted if id not in known]
    if missing:
        raise Stop(f"no dead letter {', '.join(missing)} in {', '.join(chosen) or 'any queue'}")
    return found


def _tell(counts: dict[str, int], verb: str, as_json: bool) -> None:
    if as_json:
        show_json({verb: counts})
        return
    for queue, count in counts.items():
        click.echo(f"{queue}: {count} {verb}")
    if not counts:
        click.echo("No dead letters.")
