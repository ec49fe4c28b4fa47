"""Options of Celery's worker and beat that need no counterpart, and what to do instead."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import click

from .command import option

#: What to say of each; those that take no value are flags.
ANSWERS = {
    "-O": "a worker never takes more than it can run soon: leave it out",
    "--purge": "say it on its own: `dray purge QUEUE`",
    "--discard": "say it on its own: `dray purge QUEUE`",
    "-s": "schedules and their state are kept in the store (store_url): leave it out",
    "--schedule-filename": "schedules and their state are kept in the store (store_url): leave it out",
    "--scheduler": "there is one kind of scheduler, and any number of them may run: leave it out",
    "--statedb": "what is revoked is kept by the broker: leave it out",
    "-S": "what is revoked is kept by the broker: leave it out",
    "--disable-prefetch": "a worker never takes more than it can run soon: --prefetch-multiplier 1 bounds that",
    "--without-gossip": "workers do not gossip here: leave it out",
    "--without-mingle": "workers do not mingle here: leave it out",
    "--without-heartbeat": "leases stand in for heartbeats: leave it out",
    "--heartbeat-interval": "leases stand in for heartbeats: leave it out",
    "--executable": "the Python that runs this runs the worker: leave it out",
}
#: The same for `dray scheduler`.
BEAT_ANSWERS = {
    "-s": "schedules and their state are kept in the store (store_url): leave it out",
    "--schedule": "schedules and their state are kept in the store (store_url): leave it out",
    "-S": "there is one kind of scheduler, and any number of them may run: leave it out",
    "--scheduler": "there is one kind of scheduler, and any number of them may run: leave it out",
}
_WITH_VALUE = {
    *("-O", "-s", "--statedb", "-S", "--heartbeat-interval", "--executable"),
    *("--schedule-filename", "--schedule", "--scheduler"),
}


def celery_options(function: Any) -> Any:
    """Know the options of Celery's worker well enough to say what to do instead. They are not shown."""
    return _known(function, ANSWERS)


def scheduler_options(function: Any) -> Any:
    """Know the options of Celery's beat well enough to say what to do instead. They are not shown."""
    return _known(function, BEAT_ANSWERS)


def _known(function: Any, answers: Mapping[str, str]) -> Any:
    for n, spelling in enumerate(answers):
        function = option(
            spelling,
            f"celery_{n}",
            hidden=True,
            expose_value=False,
            is_flag=spelling not in _WITH_VALUE,
            callback=partial(_answer, answers[spelling]),
        )(function)
    return function


def _answer(told: str, ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value:
        ctx.fail(f"dray has no {param.opts[0]}: {told}")
