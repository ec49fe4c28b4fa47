"""Options of Celery's worker that need no counterpart, and what to do instead."""

from __future__ import annotations

from typing import Any

import click

from .command import option

#: What to say of each; those that take no value are flags.
ANSWERS = {
    "-O": "a worker never takes more than it can run soon: leave it out",
    "-B": "there is no scheduler yet: let cron run `dray call`",
    "--beat": "there is no scheduler yet: let cron run `dray call`",
    "--purge": "say it on its own: `dray purge QUEUE`",
    "--discard": "say it on its own: `dray purge QUEUE`",
    "-s": "there is no scheduler yet: leave it out",
    "--statedb": "what is revoked is kept by the broker: leave it out",
    "-S": "what is revoked is kept by the broker: leave it out",
    "--disable-prefetch": "a worker never takes more than it can run soon: --prefetch-multiplier 1 bounds that",
    "--without-gossip": "workers do not gossip here: leave it out",
    "--without-mingle": "workers do not mingle here: leave it out",
    "--without-heartbeat": "leases stand in for heartbeats: leave it out",
    "--heartbeat-interval": "leases stand in for heartbeats: leave it out",
    "--executable": "the Python that runs this runs the worker: leave it out",
}
_WITH_VALUE = {"-O", "-s", "--statedb", "-S", "--heartbeat-interval", "--executable"}


def celery_options(function: Any) -> Any:
    """Know Celery's options well enough to say what to do instead. They are not shown."""
    for n, spelling in enumerate(ANSWERS):
        function = option(
            spelling,
            f"celery_{n}",
            hidden=True,
            expose_value=False,
            is_flag=spelling not in _WITH_VALUE,
            callback=_answer,
        )(function)
    return function


def _answer(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value:
        ctx.fail(f"dray has no {param.opts[0]}: {ANSWERS[param.opts[0]]}")
