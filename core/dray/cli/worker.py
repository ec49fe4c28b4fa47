"""`dray worker`: run tasks, in a process that belongs to the worker alone."""

from __future__ import annotations

from typing import Any

import click

from .celery_options import celery_options
from .command import command, option
from .exits import FAILURE, INTERRUPTED, MEANINGS, OK, TAKEN, UNREACHABLE, USAGE
from .option_values import names, seconds, size
from .service_options import include_option, log_options, name_option, process_options
from .session import Session

#: The options that set a setting, and say nothing else.
SETTINGS = {
    "time_limit": "task_time_limit",
    "soft_time_limit": "task_soft_time_limit",
    "async_pool": "worker_async_pool",
    "autoscale": "worker_autoscale",
    "start_method": "worker_start_method",
    "max_tasks_per_child": "worker_max_tasks_per_child",
    "max_memory_per_child": "worker_max_memory_per_child",
    "prefetch_multiplier": "worker_prefetch_multiplier",
    "heartbeat_file": "worker_heartbeat_file",
    "events": "worker_send_task_events",
}


#: Pools of Celery's that are called something else, or are not there.
POOLS = {
    "prefork": "processes",
    "eventlet": "gevent, or threads",
    "thread": "threads",
    "process": "processes",
}


def _pool(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value in POOLS:
        raise click.BadParameter(f"there is no pool {value!r}: say {POOLS[value]}")
    return value


@command(
    "worker",
    own_logs=True,
    codes={
        OK: "told to stop, and everything it held was finished or given back; or a burst or limit has come to its end",
        FAILURE: "the worker itself failed",
        USAGE: MEANINGS[USAGE],
        UNREACHABLE: "a burst could not reach the broker or the result backend: trying again may help",
        TAKEN: "the pidfile cannot be written, or belongs to a worker that runs",
        INTERRUPTED: "told twice to stop, by Ctrl-C (by SIGTERM: 143), or at once, by SIGQUIT (131)",
    },
    examples=[
        ("dray -A shop.tasks worker", "run everything that the app in shop/tasks.py sends"),
        ("dray -A shop.tasks worker -Q urgent,default -c 8", "two queues, the first one first, 8 tasks at a time"),
        ("dray -A shop.tasks worker -P processes -c 4", "tasks that compute: on four cores"),
        ("dray -A shop.tasks worker --watch", "start anew when the code changes"),
        ("dray -A shop.tasks worker --burst", "run what is due, and end: for cron, CI and scripts"),
        ("dray -A shop.tasks worker --json -l warning", "log lines as JSON, and only those that need attention"),
        (
            "dray -A shop.tasks worker -n shop@%h --detach --pidfile %n.pid --logfile %n.log",
            "in the background, as shop.pid and shop.log",
        ),
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
    default_text="as the pool and the CPUs it may use suggest",
)
@option(
    "--async-concurrency",
    metavar="N",
    type=click.IntRange(min=1),
    help="How many `async def` tasks run at once, on one event loop.",
    default_text="100",
)
@option("--autoscale", metavar="MAX,MIN", help="Let -c follow the work, between these two.")
@option(
    "-P",
    "--pool",
    metavar="NAME",
    help="What `def` tasks run on: threads, processes, gevent, solo, asyncio, or a plugin's.",
    default_text="threads",
    callback=_pool,
)
@option(
    "--async-pool",
    metavar="NAME",
    help="What `async def` tasks run on.",
    default_text="the pool if it runs them too, else an event loop",
)
@option(
    "--start-method",
    metavar="HOW",
    help="How the processes of a pool begin: forkserver, spawn or fork.",
    default_text="forkserver",
)
@option("--max-tasks-per-child", metavar="N", help="Replace a process of the pool after so many tasks.")
@option(
    "--max-memory-per-child",
    metavar="SIZE",
    callback=size,
    help="Replace a process of the pool that is larger, between two tasks: bytes, or 200M, 1G.",
)
@option(
    "--time-limit",
    metavar="SECONDS",
    callback=seconds,
    help="Tasks that say nothing else are ended after so long.",
    default_text="1h",
)
@option(
    "--soft-time-limit",
    metavar="SECONDS",
    callback=seconds,
    help="Tasks that say nothing else have SoftTimeLimitExceeded raised in them after so long.",
)
@option(
    "--prefetch-multiplier",
    metavar="N",
    help="Messages held per task that can run at once; 0: no limit.",
    default_text="as many as a moment's work",
)
@log_options(banner=True)
@name_option("worker", also=["--hostname"])
@include_option
@option("-B", "--beat", is_flag=True, help="Send tasks on their schedules too, as `dray scheduler` does.")
@option("--burst", is_flag=True, help="End when nothing is left that is due.")
@option("--max-tasks", metavar="N", type=click.IntRange(min=1), help="End when about so many messages were taken.")
@option("--max-idle", metavar="SECONDS", callback=seconds, help="End when there was nothing to do for so long.")
@option("--max-run-time", metavar="SECONDS", callback=seconds, help="End after so long.")
@option(
    "--shutdown-timeout",
    metavar="SECONDS",
    callback=seconds,
    help="How long running tasks may go on after the first signal; then they are given back.",
    default_text="25",
)
@option(
    "--watch",
    metavar="[PATHS]",
    is_flag=False,
    flag_value=".",
    multiple=True,
    callback=names,
    help="Start anew when a .py file changes, in the working directory or in PATHS. For development.",
)
@option(
    "-E",
    "--events",
    is_flag=True,
    default=None,
    help="Keep in the store what it and its tasks do, for `dray events`.",
    also=["--task-events"],
)
@option("--heartbeat-file", metavar="PATH", help="Write every other second how it is, for `dray healthcheck`.")
@process_options("worker")
@option("--check", is_flag=True, help="Import the app, read the settings, and end: would a worker start?")
@celery_options
@click.pass_context
def worker(ctx: click.Context, /, **options: Any) -> None:
    """Run the tasks that wait in queues, until it is told to stop.

    The first Ctrl-C or SIGTERM: nothing new is begun, what waits here is given back at once, running tasks may finish.
    The second, or SIGQUIT: stop now; what still runs is given back and will run again elsewhere. SIGHUP: start anew
    with the code as it is now. SIGUSR1: log what every thread is doing. SIGTSTP and SIGCONT: pause and go on. SIGTTIN
    and SIGTTOU: one task more, one less at once.
    """
    from .process.worker_start import start_worker

    session = ctx.find_object(Session)
    assert session is not None
    if not session.app_place:
        session.named_app("worker")
    ctx.exit(start_worker(ctx, session, options))
