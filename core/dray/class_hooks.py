"""Calls the hooks of a task's own class or of its options: `before_start`, `on_success`, `on_retry` and the like."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import Any

from . import states
from .context import Context
from .job import Ended, Job
from .outcome import Again, Done, Failed
from .tracebacks import trace

logger = logging.getLogger("dray.task")


def hooks_after(job: Job, ended: Ended) -> list[tuple[str, tuple[Any, ...]]]:
    """Return the names of the hooks to call after a run, and what each is told first."""
    overridden = job.task.hooks
    match ended.outcome:
        case Done(value):
            calls = [("on_success", (value,)), ("after_return", (states.SUCCESS, value))]
        case Again(_, error):
            calls = [("on_retry", (error,)), ("after_return", (states.RETRY, error))]
        case Failed(error):
            calls = [("on_failure", (error,)), ("after_return", (states.FAILURE, error))]
        case _:
            return []
    return [(hook, arguments) for hook, arguments in calls if hook in overridden]


def call_hook(context: Context, hook: str, *arguments: Any) -> None:
    """Call a hook of a `def` task. What it raises is logged; only `before_start` fails the task with it."""
    try:
        found = _call(context, hook, arguments)
        if inspect.iscoroutine(found):
            asyncio.run(found)
    except BaseException:
        # Whatever a hook raises, SystemExit included, must not end the thread or the loop it runs on.
        if hook == "before_start":
            raise
        logger.exception("%s of %s[%s] raised", hook, context.message.task, context.id)


async def acall_hook(context: Context, hook: str, *arguments: Any) -> None:
    """As `call_hook`, on the loop of an `async def` task."""
    try:
        found = _call(context, hook, arguments)
        if inspect.isawaitable(found):
            await found
    except BaseException:
        # Whatever a hook raises, SystemExit included, must not end the thread or the loop it runs on.
        if hook == "before_start":
            raise
        logger.exception("%s of %s[%s] raised", hook, context.message.task, context.id)


def _call(context: Context, hook: str, arguments: tuple[Any, ...]) -> Any:
    task = context.task
    assert task is not None
    values: list[Any] = [*arguments, context.id, context.args, context.kwargs]
    if hook in ("on_retry", "on_failure", "after_return"):
        values.append(trace(arguments[-1]) if isinstance(arguments[-1], BaseException) else "")
    return getattr(task, hook)(*values)
