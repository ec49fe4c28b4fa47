"""`dray queues` and `dray purge`: what waits where, and deleting it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ..codec import unpack
from ..errors import DecodeError
from ..message import Message, Waiting
from ..urls import nearest
from .command import command, option
from .durations import age, iso, short
from .option_values import names
from .session import Session
from .tables import Cell, Styled, show_json, show_table

if TYPE_CHECKING:
    from ..app import Dray

#: What a broker counts.
COUNTS = ("ready", "delayed", "leased", "dead")


@command(
    "queues",
    examples=[
        ("dray queues", "how many messages are where"),
        ("dray queues --peek default -n 20", "what comes out next; arguments are never shown"),
        ("dray queues --json | jq '.queues[] | select(.dead > 0)'", "for scripts and alarms"),
    ],
)
@option("--peek", metavar="QUEUE", help="List what waits in this queue, next first, without touching it.")
@option(
    "-n",
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    default=10,
    help="With --peek: how many.",
    default_text="10",
)
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def queues(session: Session, peek: str | None, limit: int, as_json: bool) -> None:
    """Show what waits where.

    ready: may come out now. delayed: waits for its time. leased: in a worker's hands. dead: could not be run, kept.
    """
    app = session.app
    if peek is not None:
        _peek(app, peek, limit, as_json)
        return
    sizes = app.broker.sizes(known_queues(app))
    how = app.broker.capabilities.size
    rows = [(name, {count: sizes[name].get(count, 0) for count in COUNTS}) for name in sorted(sizes)]
    if as_json:
        show_json({"counted": how, "queues": [{"queue": name, **counts} for name, counts in rows]})
        return
    if not rows:
        click.echo(f"No queue of {app.broker.url} holds anything.")
        return
    show_table(
        ["queue", *COUNTS],
        [[name, *(_count(counts[count], count) for count in COUNTS)] for name, counts in rows],
        right=COUNTS,
    )
    if how == "approximate":
        click.echo(click.style("This broker counts approximately.", dim=True))


@command(
    "purge",
    examples=[
        ("dray purge -Q default", "asks first, and says how many it is about"),
        ("dray purge -Q default,low --force", "does not ask: for scripts"),
    ],
)
@option("-Q", "--queues", metavar="NAMES", multiple=True, callback=names, help="The queues to empty.", required=True)
@option("-f", "--force", is_flag=True, help="Do not ask.")
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def purge(session: Session, queues: list[str], force: bool, as_json: bool) -> None:
    """Delete everything that waits in queues, ready or delayed.

    What runs, and what is dead, stays (`dray dead purge`). The deleted tasks never run; nobody is told.
    """
    broker = session.app.broker
    if not force and not _confirmed(session.app, queues):
        return
    purged = {name: broker.purge(name) for name in queues}
    if as_json:
        show_json({"purged": purged})
        return
    for name, count in purged.items():
        click.echo(f"{name}: {count} message(s) deleted")


def known_queues(app: Dray) -> list[str]:
    """Return the queues that hold anything, and those that the settings name."""
    return list(dict.fromkeys([*app.broker.queues(), *(app.conf.task_queues or ())]))


def message_in(body: bytes) -> Message | None:
    """Return the message in a body, its arguments unread; None when it cannot be read."""
    try:
        return unpack(body)
    except DecodeError:
        return None


def task_of(message: Message | None) -> Cell:
    """Return the name of a message's task as a cell."""
    return message.task if message is not None else Styled("(unreadable)", "red")


def _peek(app: Dray, queue: str, limit: int, as_json: bool) -> None:
    waiting = app.broker.peek(queue, limit)
    rows = [(one, message_in(one.body)) for one in waiting]
    if as_json:
        show_json({"queue": queue, "messages": [_facts(one, message) for one, message in rows]})
        return
    if not rows:
        known = known_queues(app) if app.broker.capabilities.size else []
        click.echo(f"Nothing waits in {queue!r}{(queue not in known and nearest(queue, known)) or '.'}")
        return
    show_table(
        ["id", "task", "priority", "age", "state", "attempt"],
        [_cells(one, message) for one, message in rows],
        right=["priority", "age", "attempt"],
    )


def _cells(one: Waiting, message: Message | None) -> list[Cell]:
    state = f"due in {short(one.delay)}" if one.state == "delayed" else one.state
    return [one.id, task_of(message), str(one.priority), age(_sent(one, message)), state, str(one.attempt + 1)]


def _facts(one: Waiting, message: Message | None) -> dict[str, Any]:
    return {
        "id": one.id,
        "task": message.task if message else None,
        "priority": one.priority,
        "sent": iso(_sent(one, message)),
        "state": one.state,
        "delay": one.delay,
        "attempt": one.attempt + 1,
        "deliveries": one.delivery_count,
        "bytes": len(one.body),
    }


def _sent(one: Waiting, message: Message | None) -> float | None:
    return one.published if message is None or not message.created else message.created


def _count(count: int, what: str) -> Cell:
    if not count:
        return Styled("0", "dim")
    return Styled(f"{count:,}", "red") if what == "dead" else f"{count:,}"


def _confirmed(app: Dray, queues: Sequence[str]) -> bool:
    """Ask, with the counts if there are any; return False, and say so, where there is nothing to delete."""
    if not app.broker.capabilities.size:
        click.confirm(f"Delete everything that waits in {', '.join(queues)}?", abort=True, err=True)
        return True
    sizes = app.broker.sizes(queues)
    counts = {name: sizes[name].get("ready", 0) + sizes[name].get("delayed", 0) for name in queues}
    if not any(counts.values()):
        known = [name for name in known_queues(app) if name not in queues]
        hint = next((found for name in queues if (found := nearest(name, known))), "")
        click.echo(f"Nothing waits in {', '.join(queues)}{hint or '.'}", err=True)
        return False
    shown = ", ".join(f"{count:,} in {name}" for name, count in counts.items())
    click.confirm(f"Delete what waits on {app.broker.url}: {shown}?", abort=True, err=True)
    return True
