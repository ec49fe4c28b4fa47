"""The tasks that every worker has: those that a canvas needs to be sent at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from . import states
from .errors import UnknownResult

if TYPE_CHECKING:
    from .app import Dray

#: Their names.
AFTER, COLLECT, MAP, STARMAP = "dray.after", "dray.collect", "dray.map", "dray.starmap"
#: Seconds between two looks at calls that have to end first: to begin with, and at most; and how many looks are made
#: before one that nobody knows is given up.
FIRST_LOOK, LONGEST_LOOK, LOOKS = 0.05, 2.0, 8


def install(app: Dray) -> None:
    """Register them with an app, once."""
    if AFTER in app.tasks:
        return
    app.task(name=AFTER, bind=True, max_retries=None, ignore_result=True)(after)
    app.task(name=COLLECT)(collect)
    app.task(name=MAP, bind=True)(map_one_by_one)
    app.task(name=STARMAP, bind=True)(starmap_one_by_one)


def own_tasks(app: Dray) -> list[str]:
    """Return the names of the tasks that somebody has declared, in order: all but these."""
    return sorted(app.tasks.keys() - {AFTER, COLLECT, MAP, STARMAP})


def after(self: Any, ids: list[str], allow_failure: bool) -> None:
    """End when all of these calls have ended; fail with what the first of them that failed has raised.

    It looks again and again, less and less often, and holds no slot in between.
    """
    found = self.app.backend_for_reading().fetch(ids)
    for id in ids:
        if id in found and found[id].final:
            result = self.app.AsyncResult(id)
            if not allow_failure and not result.successful():
                result.get(disable_sync_subtasks=False)
        elif id not in found and self.app.whereabouts(id) == states.UNKNOWN and self.request.retries > LOOKS:
            raise UnknownResult(f"{id!r}, which is to end first, is unknown: it was never sent, or has expired")
    if not all(id in found and found[id].final for id in ids):
        raise self.retry(countdown=min(FIRST_LOOK * 1.5**self.request.retries, LONGEST_LOOK))


def collect(values: Any) -> Any:
    """Return what it is given: the list of a group's results."""
    return values


def map_one_by_one(self: Any, task: str, items: Iterable[Any]) -> list[Any]:
    """Call a task for each item, one after the other, within this one call."""
    return _each(self.app.tasks[task], [(item,) for item in items])


def starmap_one_by_one(self: Any, task: str, items: Iterable[Iterable[Any]]) -> list[Any]:
    """Call a task with each list of arguments, one after the other, within this one call."""
    return _each(self.app.tasks[task], items)


def _each(task: Any, calls: Iterable[Iterable[Any]]) -> list[Any]:
    if not task.is_async:
        return [task(*args) for args in calls]

    async def run() -> list[Any]:
        return [await task(*args) for args in calls]

    return asyncio.run(run())
