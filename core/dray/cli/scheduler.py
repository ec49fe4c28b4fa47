"""`dray scheduler`: send tasks on their schedules, in a process that belongs to the scheduler alone."""

from __future__ import annotations

from typing import Any

import click

from .celery_options import scheduler_options
from .command import command, option
from .exits import FAILURE, MEANINGS, OK, TAKEN, USAGE
from .option_values import seconds
from .service_options import include_option, log_options, name_option, process_options
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
@log_options(banner=False)
@name_option("scheduler")
@option(
    "--max-interval",
    metavar="SECONDS",
    callback=seconds,
    help="Look so often for schedules that have changed.",
    default_text="5",
)
@include_option
@process_options("scheduler")
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
