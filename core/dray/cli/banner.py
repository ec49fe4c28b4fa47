"""What a worker says when it starts: who it is, where its work comes from, and what it can do."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from .. import __version__
from ..builtin_tasks import own_tasks
from ..urls import Url
from .durations import short
from .tables import Cell, Styled, show_facts

if TYPE_CHECKING:
    from ..app import Dray
    from ..worker import Worker

#: How many tasks are listed.
SHOWN = 12


def show_banner(worker: Worker, *, place: str, own_log: bool) -> None:
    """Print the banner of a worker that is about to start, on stderr."""
    app = worker.app
    title = f"{click.style(f'dray {__version__}', bold=True)}  {worker.name}"
    click.echo(f"\n {title}\n", err=True)
    facts: list[tuple[str, Cell]] = [
        ("app", f"{app.name} ({place})"),
        ("broker", _broker(app)),
        ("results", _results(app)),
        ("queues", _queues(worker)),
        ("pool", _pool(worker)),
        ("tasks", _tasks(app)),
        ("plugins", _plugins(app)),
        ("log", "" if own_log else "as the app has set it up; -l or --json take over"),
    ]
    show_facts(facts, file=sys.stderr, indent=" ")
    click.echo(err=True)


def _broker(app: Dray) -> str:
    said = str(Url.parse(app.connections.broker_url))
    return said if app.conf.broker_url else f"{said} (the built-in default: set DRAY_BROKER_URL or --url)"


def _results(app: Dray) -> Cell:
    url = app.connections.backend_url
    if url is None:
        return Styled("not kept: set DRAY_RESULT_BACKEND to keep them", "dim")
    expires = app.conf.result_expires
    kept = "for ever" if expires is None else f"for {short(expires)}"
    return f"{Url.parse(url)}, kept {kept}"


def _queues(worker: Worker) -> str:
    if len(worker.queues) == 1:
        return worker.queues[0]
    if worker.app.conf.worker_queue_order == "weighted":
        weights = worker.app.conf.worker_queue_weights
        return ", ".join(f"{name} (x{weights.get(name, 1)})" for name in worker.queues)
    return " > ".join(worker.queues)


def _pool(worker: Worker) -> str:
    scale = worker.app.conf.worker_autoscale
    slots = f"{scale[1]} to {scale[0]}" if scale else str(worker.concurrency)
    if worker.async_pool == worker.pool:
        return f"{worker.pool}: {slots} at once, `def` and `async def`"
    where = "" if worker.async_pool == "loop" else f" ({worker.async_pool})"
    return f"{worker.pool}: {slots} at once; async{where}: {worker.async_concurrency} at once"


def _tasks(app: Dray) -> Cell:
    names = own_tasks(app)
    if not names:
        return Styled("none: whatever arrives goes to the dead letters. Name their modules with -I", "yellow")
    lines = []
    for name in names[:SHOWN]:
        task = app.tasks[name]
        queue = app.routes.queue_of(name, task.resolved)
        notes = [
            *(["async"] if task.is_async else []),
            *([f"-> {queue}"] if queue not in ("", app.conf.task_default_queue) else []),
        ]
        lines.append(f"{name}  {' '.join(notes)}".rstrip())
    if len(names) > SHOWN:
        lines.append(f"and {len(names) - SHOWN} more")
    return "\n".join(lines)


def _plugins(app: Dray) -> Cell:
    report = [plugin for plugin in app.plugins.report() if plugin.source != "built-in"]
    broken = [plugin for plugin in report if plugin.state in ("failed", "incompatible")]
    loaded = ", ".join(plugin.name for plugin in report if plugin.state == "loaded")
    if broken:
        lines = [*([loaded] if loaded else []), *(f"{plugin.name} left out: it {plugin.reason}" for plugin in broken)]
        return Styled("\n".join(lines), "red")
    return loaded
