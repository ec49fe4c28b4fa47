"""`dray events`: what tasks and workers do, as it happens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import click

from .command import command, option
from .option_values import names
from .session import Session
from .tables import printable

if TYPE_CHECKING:
    from ..app import Dray
    from ..events import KeptEvent

#: How the ends of event types are coloured.
COLOURS = {
    "succeeded": "green",
    "failed": "red",
    "buried": "red",
    "rejected": "red",
    "lost": "red",
    "dropped": "red",
    "retried": "yellow",
    "revoked": "yellow",
    "expired": "yellow",
}


@command(
    "events",
    examples=[
        ("dray -A shop.tasks worker -E", "a worker that keeps what it does"),
        ("dray -A shop.tasks events", "what happens from now on, until Ctrl-C"),
        ("dray -A shop.tasks events --type 'task-failed,worker-*'", "only some of it"),
        ("dray -A shop.tasks events --kept --json | jq .type", "what is kept up to now, for scripts"),
    ],
)
@option("--kept", is_flag=True, help="Show what is kept up to now, and end.")
@option(
    "--after",
    metavar="CURSOR",
    help="Begin behind this event, as --json shows it; '': with the first that is kept.",
    default_text="now",
)
@option("-t", "--type", "types", metavar="PATTERNS", multiple=True, callback=names, help="Only these types.")
@option("-n", "--limit", metavar="N", type=click.IntRange(min=1), help="End after so many.")
@option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.pass_obj
def events(session: Session, kept: bool, after: str | None, types: list[str], limit: int | None, as_json: bool) -> None:
    """Show what tasks and workers do, as it happens.

    They tell when they were asked to: workers by `-E` (worker_send_task_events), those who send by
    task_send_sent_event. The latest of it is kept in the store.
    """
    app = session.named_app("events")
    shown = 0
    for event in _all(app, after or "") if kept else app.events.follow(after):
        if types and not any(fnmatchcase(event.type, pattern) for pattern in types):
            continue
        click.echo(json.dumps(_facts(app, event), default=str) if as_json else _line(event))
        shown += 1
        if shown == limit:
            return


def _all(app: Dray, after: str) -> Iterator[KeptEvent]:
    while found := app.events.read(after):
        yield from found
        after = found[-1].cursor


def _facts(app: Dray, event: KeptEvent) -> dict[str, Any]:
    """Return an event as plain data: with the arguments of its task as far as they are to be shown."""
    facts: dict[str, Any] = {"type": event.type, "at": event.at, "cursor": event.cursor, "worker": event.worker}
    if (message := event.message) is not None:
        from ..redaction import visible_arguments

        facts.update(
            task=message.task,
            task_id=message.id,
            queue=message.queue,
            retries=message.retries,
            arguments=visible_arguments(app, message) if message.payload else "not kept",
        )
    return {**facts, **event.details}


def _line(event: KeptEvent) -> str:
    at = datetime.fromtimestamp(event.at).strftime("%H:%M:%S.%f")[:-3]
    colour = COLOURS.get(event.type.rpartition("-")[2])
    what = click.style(f"{event.type:<18}", fg=colour)
    about = f"{event.message.task}[{event.message.id}]" if event.message is not None else event.worker
    details = " ".join(_said(event.details.items()))
    return (
        f"{click.style(at, dim=True)}  {what} {printable(about)}  {click.style(printable(details), dim=True)}".rstrip()
    )


def _said(details: Iterable[tuple[str, Any]]) -> Iterator[str]:
    for name, value in details:
        if isinstance(value, float):
            yield f"{name}={value:.3f}"
        elif value not in ("", None, [], {}):
            yield f"{name}={value}"
