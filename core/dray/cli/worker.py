"""`dray worker`: run tasks, in a process that belongs to the worker alone."""

from __future__ import annotations

from typing import Any

import click

from .command import command, option
from .exits import INTERRUPTED, MEANINGS, OK
from .option_values import names, seconds
from .session import Session

#: Options of Celery's worker that need no counterpart, and what to do instead.
CELERY = {
    "-E": "plugins hear of every event anyway: leave it out",
    "--task-events": "plugins hear of every event anyway: leave it out",
    "-O": "a worker never takes more than it can run soon: leave it out",
    "--autoscale": "say how many run at once with -c; `async def` tasks: --async-concurrency",
    "--detach": "let systemd, a container or your shell keep it in the background",
    "-D": "let systemd, a container or your shell keep it in the background",
    "--pidfile": "let systemd or a container keep track of it",
    "--logfile": "it logs to stderr: 2>> worker.log",
    "-f": "it logs to stderr: 2>> worker.log",
    "--without-gossip": "workers do not gossip here: leave it out",
    "--without-mingle": "workers do not mingle here: leave it out",
    "--without-heartbeat": "leases stand in for heartbeats: leave it out",
    "--prefetch-multiplier": "it is a setting: DRAY_WORKER_PREFETCH_MULTIPLIER=4",
}


def _reject_celery(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value:
        ctx.fail(f"dray has no {param.opts[0]}: {CELERY[param.opts[0]]}")


def _celery_options(function: Any) -> Any:
    """Know Celery's options well enough to say what to do instead. They are not shown."""
    flags = ("-E", "--task-events", "--detach", "-D", "--without-gossip", "--without-mingle", "--without-heartbeat")
    for n, spelling in enumerate(CELERY):
        function = option(
            spelling,
            f"celery_{n}",
            hidden=True,
            expose_value=False,
            is_flag=spelling in flags,
            callback=_reject_celery,
        )(function)
    return function


@command(
    "worker",
    own_logs=True,
    codes={
        **MEANINGS,
        OK: "told to stop, and everything it held was finished or given back; or a burst has come to its end",
        INTERRUPTED: "told twice to stop, by Ctrl-C (by SIGTERM: 143)",
    },
    examples=[
        ("dray -A shop.tasks worker", "run everything that the app in shop/tasks.py sends"),
        ("dray -A shop.tasks worker -Q urgent,default -c 8", "two queues, the first one first, 8 tasks at a time"),
        ("dray -A shop.tasks worker --burst", "run what is due, and end: for cron, CI and scripts"),
        ("dray -A shop.tasks worker --json -l warning", "log lines as JSON, and only those that need attention"),
    ],
)
@option(
    "-Q",
    "--queues",
    metavar="NAMES",
    multiple=True,
    callback=names,
    help="Queues to take from. The first is looked at first, unless worker_queue_order is 'weighted'.",
    default_text="all that its tasks use",
)
@option(
    "-X",
    "--exclude",
    metavar="NAMES",
    multiple=True,
    callback=names,
    help="Queues to leave alone.",
    also=["--exclude-queues"],
)
@option(
    "-c",
    "--concurrency",
    metavar="N",
    type=click.IntRange(min=1),
    help="How many `def` tasks run at once.",
    default_text="twice the CPUs, at least 4",
)
@option(
    "--async-concurrency",
    metavar="N",
    type=click.IntRange(min=1),
    help="How many `async def` tasks run at once, on one event loop.",
    default_text="100",
)
@option("-P", "--pool", metavar="NAME", help="What `def` tasks run on.", default_text="threads")
@option(
    "-l",
    "--loglevel",
    "level",
    metavar="LEVEL",
    type=click.Choice(["debug", "info", "warning", "error", "critical"], case_sensitive=False),
    help="Log lines of this level and above: debug, info, warning, error or critical.",
    default_text="info",
    also=["--log-level"],
)
@option(
    "-n",
    "--name",
    "name",
    metavar="NAME",
    help="The worker's name; %h in it stands for the host.",
    default_text="APP-PID@%h",
    also=["--hostname"],
)
@option("-I", "--include", metavar="MODULES", multiple=True, callback=names, help="More modules with tasks, to import.")
@option("--burst", is_flag=True, help="End when nothing is left that is due.")
@option(
    "--shutdown-timeout",
    metavar="SECONDS",
    callback=seconds,
    help="How long running tasks may go on after the first signal; then they are given back.",
    default_text="25",
)
@option("--json", "as_json", is_flag=True, help="Log one JSON object per line, and print no banner.")
@_celery_options
@click.pass_context
def worker(ctx: click.Context, /, level: str | None, as_json: bool, include: list[str], **options: Any) -> None:
    """Run the tasks that wait in queues, until it is told to stop.

    The first Ctrl-C or SIGTERM: nothing new is begun, what waits here is given back at once, running tasks may finish.
    The second: stop now; what still runs is given back and will run again elsewhere.
    """
    from . import logs
    from .worker_process import run_worker

    session = ctx.find_object(Session)
    assert session is not None
    app = session.app
    if include:
        app.conf.update({"include": [*app.conf.include, *include]}, origin="--include")
    session.named_app("worker")
    with logs.as_log(level, as_json) as ours:
        ctx.exit(run_worker(app, place=session.app_place, as_json=as_json, own_log=ours, **options))
