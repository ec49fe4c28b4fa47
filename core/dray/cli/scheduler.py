"""`dray scheduler`: send tasks on their schedules, in a process that belongs to the scheduler alone."""

from __future__ import annotations

from typing import Any

import click

from .celery_options import scheduler_options
from .command import command, option
from .exits import FAILURE, MEANINGS, OK, TAKEN, USAGE
from .option_values import mode, names, seconds
from .session import Session


@command(
    "scheduler",
    own_logs=True,
    codes={
        OK: "told to stop, and what it was sending is sent",
        FAILURE: "the scheduler itself failed",
        USAGE: MEANINGS[USAGE],
        TAKEN: "the pidfile cannot be written, or belongs to a scheduler that runs",
    },
    examples=[
        ("dray -A shop.tasks scheduler", "send what beat_schedule, @app.task(schedule=...) and the store say"),
        ("dray -A shop.tasks scheduler --check", "would it start? are all schedules sound?"),
        ("dray -A shop.tasks beat -l info", "the same, under Celery's name"),
    ],
)
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
@option("--json", "as_json", is_flag=True, help="Log one JSON object per line.")
@option("-f", "--logfile", metavar="PATH", help="Log to this file; it is opened anew when it is moved away.")
@option(
    "-n",
    "--name",
    metavar="NAME",
    help="The scheduler's name; %h in it stands for the host, %i for the process id.",
    default_text="APP-PID@%h",
)
@option(
    "--max-interval",
    metavar="SECONDS",
    callback=seconds,
    help="Look so often for schedules that have changed.",
    default_text="5",
)
@option("-I", "--include", metavar="MODULES", multiple=True, callback=names, help="More modules with tasks, to import.")
@option("-D", "--detach", is_flag=True, help="Go into the background, once the scheduler has started.")
@option("--pidfile", metavar="PATH", help="Write the process id there; %n stands for the name, %h the host.")
@option("--uid", metavar="USER", help="Run as this user: a name or number. For root.")
@option("--gid", metavar="GROUP", help="Run as this group.", default_text="the user's own")
@option("--umask", metavar="MODE", callback=mode, help="The rights that new files do not get, like 027.")
@option("--check", is_flag=True, help="Import the app, read its schedules, and end: would a scheduler start?")
@scheduler_options
@click.pass_context
def scheduler(ctx: click.Context, /, **options: Any) -> None:
    """Send tasks on their schedules, until it is told to stop (Ctrl-C, SIGTERM).

    Any number may run, on any hosts: each tick is sent once, and nobody is the leader. They meet in the store
    (`store_url`).
    """
    from .process.scheduler_start import start_scheduler

    session = ctx.find_object(Session)
    assert session is not None
    if not session.app_place:
        session.named_app("scheduler")
    ctx.exit(start_scheduler(session, options))
