"""`dray queues` and `dray purge`: what waits where, and deleting it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ..errors import BrokerError, BrokerUnavailable, DecodeError
from ..message import Message, Queue, Waiting
from ..queues import bound
from ..sealing import message_in
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
    Queues that `task_queues` declares are shown even when they are empty, with what they are bound to.
    """
    app = session.app
    if peek is not None:
        _peek(app, peek, limit, as_json)
        return
    sizes = app.broker.sizes(known_queues(app))
    how = app.broker.capabilities.size
    rows = [(name, {count: sizes[name].get(count, 0) for count in COUNTS}) for name in sorted(sizes)]
    bindings = {queue.name: queue for queue in bound(app.conf)}
    if as_json:
        show_json(
            {
                "counted": how,
                "queues": [{"queue": name, **counts, "declared": _declared(bindings, name)} for name, counts in rows],
            }
        )
        return
    if not rows:
        click.echo(f"No queue of {app.broker.url} holds anything.")
        return
    gets = {name: _binding(bindings[name]) if name in bindings else "" for name, _ in rows}
    shown: list[list[Cell]] = [[name, *(_count(counts[count], count) for count in COUNTS)] for name, counts in rows]
    if any(gets.values()):
        shown = [[*row, Styled(gets[name], "dim")] for row, (name, _) in zip(shown, rows, strict=True)]
        show_table(["queue", *COUNTS, "gets"], shown, right=COUNTS)
    else:
        show_table(["queue", *COUNTS], shown, right=COUNTS)
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
    known = [queue.name for queue in app.conf.task_queues or ()]
    try:
        known = [*app.broker.queues(), *known]
    except BrokerUnavailable:
        raise
    except BrokerError:
        pass  # who may not list the queues can still be told of those it names
    if app.broker.capabilities.size != "exact":
        # Such a broker may know of those queues only that it has been asked for.
        known += served_queues(app)
    return list(dict.fromkeys(known))


def served_queues(app: Dray) -> list[str]:
    """Return the queues that a worker without -Q takes from."""
    return app.worker().queues


def message_of(app: Dray, waiting: Waiting) -> Message | None:
    """Return the message that waits, its arguments unread; None when it cannot be read."""
    try:
        return message_in(app.sealing, waiting.body, waiting.id)
    except DecodeError:
        return None


def task_of(message: Message | None) -> Cell:
    """Return the name of a message's task as a cell."""
    return message.task if message is not None else Styled("(unreadable)", "red")


def _peek(app: Dray, queue: str, limit: int, as_json: bool) -> None:
    waiting = app.broker.peek(queue, limit)
    rows = [(one, message_of(app, one)) for one in waiting]
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


def _binding(queue: Queue) -> str:
    """Say what a declared queue gets besides what is sent to it by name."""
    where = f"{queue.type} {queue.exchange}" if queue.exchange else ""
    key = f" {queue.routing_key}" if queue.exchange and queue.type != "fanout" else ""
    copies = "a copy for each worker" if queue.broadcast else ""
    return "; ".join(filter(None, (where + key, copies)))


def _declared(bindings: dict[str, Queue], name: str) -> dict[str, Any] | None:
    if name not in bindings:
        return None
    queue = bindings[name]
    return {word: getattr(queue, word) for word in ("exchange", "type", "routing_key", "broadcast", "arguments")}


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
