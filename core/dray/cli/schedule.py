"""`dray schedule`: look at schedules, and change them while everything runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ..schedule_control import ScheduleEntry, ScheduleTick
from .call import ARGS, KWARGS
from .command import command, group, option
from .durations import iso, moment
from .option_values import json_of, seconds
from .session import Session
from .tables import Cell, Styled, show_facts, show_json, show_table

#: How what became of a tick is coloured.
_STYLES = {"missed": "yellow", "skipped": "yellow", "failed": "red", "sent": "green"}
_OPTIONS = json_of(dict, 'an object in quotes, --options \'{"queue": "slow"}\'')


@group(
    "schedule",
    examples=[
        ("dray -A shop.tasks schedule list", "all of them, and when each is due next"),
        ("dray -A shop.tasks schedule disable nightly", "let one rest; schedulers notice within seconds"),
        ("dray -A shop.tasks schedule run nightly", "now, once, besides its ticks"),
    ],
)
def schedule() -> None:
    """Show, add, change, disable, run and remove schedules. What is changed is kept in the store."""


_json = option("--json", "as_json", is_flag=True, help="Print JSON.")


def _subcommand(name: str, example: str) -> Callable[[Callable[..., Any]], click.Command]:
    def add(function: Callable[..., Any]) -> click.Command:
        line = f"dray -A shop.tasks schedule {name} {example}".rstrip()
        made = command(name, examples=[(line, (function.__doc__ or "").partition(".")[0])])(function)
        schedule.add_command(made)
        return made

    return add


#: The words of an entry that can be given and changed here.
_WORDS = (
    option("--args", "-a", "args", metavar="JSON", callback=ARGS, help="Positional arguments: a JSON list."),
    option("--kwargs", "-k", "kwargs", metavar="JSON", callback=KWARGS, help="Arguments by name: a JSON object."),
    option(
        "--options", metavar="JSON", callback=_OPTIONS, help="Options of the sending, such as queue: a JSON object."
    ),
    option("--timezone", metavar="ZONE", help="Whose times of day a cron expression speaks of."),
    option("--overlap", metavar="HOW", help="While the last run goes on: allow, skip or queue."),
    option("--missed", metavar="HOW", help="Of missed ticks make up for: once (the last), skip (none) or all."),
    option("--deadline", metavar="SECONDS", callback=seconds, help="Ticks that are later than this are not sent."),
    option("--jitter", metavar="SECONDS", callback=seconds, help="Send up to so much later, to spread the load."),
)


def _words(function: Any) -> Any:
    for each in reversed(_WORDS):
        function = each(function)
    return function


@_subcommand("list", "")
@_json
@click.pass_obj
def list_schedules(session: Session, as_json: bool) -> None:
    """List all schedules, with the next and the last instant of each."""
    found = session.named_app("schedule list").schedules.list()
    if as_json:
        show_json({"schedules": [_facts(entry) for entry in found]})
        return
    if not found:
        click.echo("No schedules.")
        return
    show_table(
        ["name", "task", "next", "last", "origin", "schedule"],
        [[e.name, e.task, _next(e), moment(e.last_run), _origin(e), e.schedule] for e in found],
    )


@_subcommand("show", "nightly")
@click.argument("name")
@_json
@click.pass_obj
def show(session: Session, name: str, as_json: bool) -> None:
    """Show everything about one schedule. Sensitive arguments are not shown."""
    entry = session.named_app("schedule show").schedules.get(name)
    if as_json:
        show_json(_facts(entry))
        return
    show_facts(
        [
            ("name", entry.name),
            ("call", repr(entry.call)),
            ("schedule", entry.schedule),
            ("next", _next(entry)),
            ("last", moment(entry.last_run)),
            ("overlap", entry.overlap),
            ("missed", entry.missed),
            ("deadline", "" if entry.deadline is None else f"{entry.deadline:g} s"),
            ("jitter", f"{entry.jitter:g} s" if entry.jitter else ""),
            ("origin", _origin(entry)),
        ]
    )


@_subcommand("history", "nightly")
@click.argument("name")
@_json
@click.pass_obj
def history(session: Session, name: str, as_json: bool) -> None:
    """Show what became of the last ticks of a schedule, the latest first."""
    found = session.named_app("schedule history").schedules.history(name)
    if as_json:
        show_json({"ticks": [_tick(tick) for tick in found]})
        return
    if not found:
        click.echo("No ticks yet.")
        return
    rows: list[list[Cell]] = [
        [moment(t.due), Styled(t.what, _STYLES.get(t.what, "")), t.id, t.by, t.note] for t in found
    ]
    show_table(["due", "what", "id", "by", "note"], rows)


@_subcommand("add", "nightly shop.clean '0 3 * * *' --timezone Europe/Berlin")
@click.argument("name")
@click.argument("task")
@click.argument("when", metavar="SCHEDULE")
@_words
@click.pass_obj
def add(session: Session, /, name: str, task: str, when: str, **words: Any) -> None:
    """Add a schedule: a cron expression ('0 8 * * mon-fri', '@daily'), an interval ('15m'), or an instant.

    Schedulers that run notice within seconds.
    """
    schedules = session.named_app("schedule add").schedules
    _tell(schedules.add(name, task, when, **_given(words)), "added")


@_subcommand("change", "nightly --schedule '0 4 * * *'")
@click.argument("name")
@option("--schedule", metavar="SCHEDULE", help="When: as for `dray schedule add`.")
@_words
@click.pass_obj
def change(session: Session, /, name: str, **words: Any) -> None:
    """Change a schedule, also one that the code declares: the change outlives restarts."""
    given = _given(words)
    if not given:
        raise click.UsageError("say what to change: --schedule, --args, --timezone ...")
    _tell(session.named_app("schedule change").schedules.change(name, **given), "changed")


@_subcommand("enable", "nightly")
@click.argument("name")
@click.pass_obj
def enable(session: Session, name: str) -> None:
    """Let a schedule go on; what was due while it rested is not made up for."""
    _tell(session.named_app("schedule enable").schedules.enable(name), "enabled")


@_subcommand("disable", "nightly")
@click.argument("name")
@click.pass_obj
def disable(session: Session, name: str) -> None:
    """Let a schedule rest."""
    session.named_app("schedule disable").schedules.disable(name)
    click.echo(f"{name}: disabled")


@_subcommand("remove", "nightly")
@click.argument("name")
@click.pass_obj
def remove(session: Session, name: str) -> None:
    """Remove a schedule that was added at run time. One that the code declares can be disabled."""
    session.named_app("schedule remove").schedules.remove(name)
    click.echo(f"{name}: removed")


@_subcommand("run", "nightly")
@click.argument("name")
@click.pass_obj
def run(session: Session, name: str) -> None:
    """Send the task of a schedule now, besides its ticks; print its id."""
    click.echo(session.named_app("schedule run").schedules.run_now(name).id)


def _given(words: dict[str, Any]) -> dict[str, Any]:
    return {word: value for word, value in words.items() if value is not None}


def _tell(entry: ScheduleEntry, what: str) -> None:
    following = moment(entry.next_run)
    click.echo(
        f"{entry.name}: {what}; {entry.schedule}; " + (f"next {following}" if following else "never comes again")
    )


def _next(entry: ScheduleEntry) -> Cell:
    if not entry.enabled:
        return Styled("disabled", "yellow")
    return moment(entry.next_run) or Styled("over", "dim")


def _origin(entry: ScheduleEntry) -> str:
    return f"{entry.origin}, changed: {', '.join(entry.changed)}" if entry.changed else entry.origin


def _facts(entry: ScheduleEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "task": entry.task,
        "call": repr(entry.call),
        "schedule": entry.schedule,
        "enabled": entry.enabled,
        "next": iso(entry.next_run),
        "last": iso(entry.last_run),
        "overlap": entry.overlap,
        "missed": entry.missed,
        "deadline": entry.deadline,
        "jitter": entry.jitter,
        "origin": entry.origin,
        "changed": list(entry.changed),
    }


def _tick(tick: ScheduleTick) -> dict[str, Any]:
    return {**tick._asdict(), "due": iso(tick.due), "at": iso(tick.at)}
