"""Limits: what tasks and queues say about how often and how many at a time, and `app.limits`, which changes that.

What was changed at run time is kept in one partition of the store, and every worker that has work looks there every few
seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from .arguments import Parameters
from .errors import NotSupported, TaskOptionError
from .grouping import Key, partition, read_key, stable_id
from .rates import Rate, read_rate
from .store import Change, Delete, Put
from .urls import nearest

if TYPE_CHECKING:
    from .app import Dray
    from .settings import Settings
    from .task import Task

#: What becomes of a task that would exceed a limit.
POLICIES = ("wait", "drop", "reschedule", "error")
#: The store's partition of what was changed at run time, and how much of it is read.
CHANGES, MOST_CHANGES = "limits", 10_000
#: Seconds between two looks at it while tasks come, and while none do.
LOOK, LOOK_IDLE = 2.0, 15.0
#: Options of a task that are about limits.
WORDS = ("rate_limit", "burst", "max_concurrent", "limit_key", "on_limit")

_SAME: Final[Any] = object()


class Limit(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """How often something may begin, and how many of it may run at a time, over all workers; None: no limit."""

    rate: Rate | None = None
    max_concurrent: int | None = None

    def __bool__(self) -> bool:
        return self.rate is not None or self.max_concurrent is not None


NO_LIMIT = Limit()


class TaskLimits(msgspec.Struct, frozen=True):
    """What one task says about limits."""

    limit: Limit
    #: What its calls are grouped by: each group has the limit to itself. None: all calls together.
    key: Key | None
    on_limit: str


class Override(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was changed at run time about one task or queue: what is left out is as it was declared."""

    rate: Rate | None | msgspec.UnsetType = msgspec.UNSET
    max_concurrent: int | None | msgspec.UnsetType = msgspec.UNSET

    def over(self, limit: Limit) -> Limit:
        """Return a declared limit with these changes."""
        rate = limit.rate if self.rate is msgspec.UNSET else self.rate
        most = limit.max_concurrent if self.max_concurrent is msgspec.UNSET else self.max_concurrent
        return Limit(rate, most)


# Reading what is declared


def task_limits(said: Mapping[str, Any], parameters: Parameters, task: str, default_rate: Any = None) -> TaskLimits:
    """Return what the options of a task come to; raise `TaskOptionError` for what is no limit.

    `default_rate` is the setting for tasks that say nothing about their rate.
    """
    try:
        rate = read_rate(said.get("rate_limit", default_rate), said.get("burst"))
    except ValueError as error:
        raise TaskOptionError(f"{task}: rate_limit: {error}") from None
    if said.get("burst") is not None and rate is None:
        raise TaskOptionError(f"{task}: burst is how many may come at once within a rate_limit; say that one too")
    limit = Limit(rate, _most(said.get("max_concurrent"), task))
    on_limit = said.get("on_limit", "wait")
    if on_limit not in POLICIES:
        raise TaskOptionError(
            f"{task}: on_limit is one of {', '.join(map(repr, POLICIES))}; got {on_limit!r}"
            f"{nearest(str(on_limit), POLICIES)}"
        )
    key = said.get("limit_key")
    if key is None and is_limit_key(said.get("key")) and (limit or callable(said["key"])):
        key = said["key"]
    if key is not None and not limit:
        raise TaskOptionError(f"{task}: it is grouped by a key, and has no limit: say rate_limit or max_concurrent")
    return TaskLimits(limit, read_key(key, parameters, "limit_key"), on_limit)


def check_limits(task: Task[..., Any]) -> bool:
    """Return True, or raise `NotSupported` if a task cannot be kept within its limits, or unique, by its app."""
    own, app = task.resolved, task.app
    if own.unique is not None:
        app.require_store(f"{task.name}, which is unique,")
    if own.limits.limit:
        app.require_store(f"{task.name}, which has a limit,")
    waits = own.limits.on_limit == "wait" if own.limits.limit else own.unique is not None and own.unique.debounce > 0
    if waits and not app.connections.capabilities.max_delay:
        raise NotSupported(f"{task.name} waits for its turn now and then, and {app.broker.url} keeps no delays")
    return True


def is_limit_key(key: Any) -> bool:
    """Tell whether what a task says as its `key` is not the broker's, but names the groups of a limit."""
    return callable(key) or (isinstance(key, str) and "{" in key)


def _most(value: Any, name: str) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise TaskOptionError(f"{name}: max_concurrent is a whole number >= 1; got {value!r}. None means no limit.")
    return value


def queue_limits(conf: Settings) -> dict[str, Limit]:
    """Return the limits of queues that the settings name: `task_queue_limits`, and `rate_limit` in `task_routes`."""
    tables = [conf.task_routes] if isinstance(conf.task_routes, Mapping) else conf.task_routes
    said: dict[str, Any] = {}
    for table in tables:
        entries = table.items() if isinstance(table, Mapping) else table if isinstance(table, list) else ()
        for _, route in entries:
            if isinstance(route, Mapping) and "rate_limit" in route:
                said[route["queue"]] = {"rate_limit": route["rate_limit"]}
    said.update(conf.task_queue_limits)
    return {queue: _queue_limit(queue, one) for queue, one in said.items()}


def _queue_limit(queue: str, said: Mapping[str, Any]) -> Limit:
    try:
        rate = read_rate(said.get("rate_limit"), said.get("burst"))
    except ValueError as error:
        raise TaskOptionError(f"task_queue_limits: queue {queue!r}: rate_limit: {error}") from None
    return Limit(rate, _most(said.get("max_concurrent"), f"task_queue_limits: queue {queue!r}"))


# The names of what stands for a limit in the store


@lru_cache(4096)
def rate_part(name: str, rate: Rate, *group: Any) -> str:
    """Return the partition of a bucket. Another rate is another bucket: nothing that an old one promised binds it."""
    return partition("rate", name, rate.every, rate.burst, *group)


@lru_cache(4096)
def places_part(name: str, *group: Any) -> str:
    """Return the partition of the places of a `max_concurrent`."""
    return partition("places", name, *group)


def of_task(name: str) -> str:
    """Return the key of what was changed about a task."""
    return f"t/{name}" if len(name) <= 200 else f"t/{name[:200]}/{stable_id(name)}"


def of_queue(name: str) -> str:
    """Return the key of what was changed about a queue."""
    return f"q/{name}"


# At run time


class Limits:
    """`app.limits`: changes the limits of tasks and queues while workers run. They heed it within a few seconds."""

    def __init__(self, app: Dray) -> None:
        self._app = app

    def set(
        self,
        task: str | Task[..., Any] | None = None,
        *,
        queue: str | None = None,
        rate: Any = _SAME,
        burst: int | None = None,
        max_concurrent: Any = _SAME,
    ) -> None:
        """Have a task or a queue keep to another rate or concurrency from now on, restarts included.

        What is left out stays as it is; None lifts a limit. Tasks may be named that are not known here.
        """
        name = self._name(task, queue)
        changes: dict[str, Any] = {}
        if rate is not _SAME:
            try:
                changes["rate"] = read_rate(rate, burst)
            except ValueError as error:
                raise TaskOptionError(f"limits.set: rate: {error}") from None
        elif burst is not None:
            raise TaskOptionError("limits.set: burst is how many may come at once within a rate; say that one too")
        if max_concurrent is not _SAME:
            changes["max_concurrent"] = _most(max_concurrent, "limits.set")
        if not changes:
            raise TaskOptionError("limits.set: say what is to change: rate=... or max_concurrent=...")
        store = self._app.store("app.limits")
        kept = store.get(CHANGES, name).get(name)
        before = Override() if kept is None else _decode(kept)
        store.commit([Change(CHANGES, writes=(Put(name, _encode(msgspec.structs.replace(before, **changes))),))])

    def get(self, task: str | Task[..., Any] | None = None, *, queue: str | None = None) -> Limit:
        """Return the limit that a task or queue has now, changes at run time included."""
        name = self._name(task, queue)
        kept = self._app.store("app.limits").get(CHANGES, name).get(name)
        declared = self._declared(task, queue)
        return declared if kept is None else _decode(kept).over(declared)

    def clear(self, task: str | Task[..., Any] | None = None, *, queue: str | None = None) -> None:
        """Forget what was changed: from now on it is as declared."""
        self._app.store("app.limits").commit([Change(CHANGES, writes=(Delete(self._name(task, queue)),))])

    def _declared(self, task: str | Task[..., Any] | None, queue: str | None) -> Limit:
        if queue is not None:
            return queue_limits(self._app.conf).get(queue, NO_LIMIT)
        found = self._app.tasks.get(task if isinstance(task, str) else task.name) if task is not None else None
        return found.resolved.limits.limit if found is not None else NO_LIMIT

    @staticmethod
    def _name(task: str | Task[..., Any] | None, queue: str | None) -> str:
        if (task is None) == (queue is None):
            raise TaskOptionError("app.limits: say a task, or queue=..., one of them")
        return of_queue(queue or "") if task is None else of_task(task if isinstance(task, str) else task.name)


class Book:
    """The limits in force, as one worker knows them. `look` may be called from any thread, all else as well."""

    def __init__(self, app: Dray) -> None:
        self._app = app
        self._queues = queue_limits(app.conf)
        self._changes: Mapping[str, Override] = {}
        #: Grows whenever they are others than before.
        self.version = 0
        #: How many tasks there were when it was looked whether any has a limit; and whether any has.
        self._tasks, self._declared = -1, False

    def look(self) -> None:
        """Read what was changed at run time, where there is a store. Raises what the store raises."""
        store = self._app.connections.records
        if store is not None:
            found = {name: _decode(value) for name, value in store.scan(CHANGES, limit=MOST_CHANGES)}
            if found != self._changes:
                self._changes, self.version = found, self.version + 1

    @property
    def any(self) -> bool:
        """Whether there is a task or a queue with a limit, or a task that is unique. Cheap."""
        return bool(self._changes or self._queues) or self.declared

    @property
    def declared(self) -> bool:
        """Whether a task of this app has a limit or is unique, or a queue has a limit, as declared."""
        tasks = self._app.tasks
        if len(tasks) != self._tasks:
            self._tasks = len(tasks)
            self._declared = any(task.resolved.limits.limit or task.resolved.unique for task in [*tasks.values()])
        return self._declared or bool(self._queues)

    def of_task(self, task: Task[..., Any]) -> Limit:
        """Return the limit of a task."""
        changed, declared = self._changes.get(of_task(task.name)), task.resolved.limits.limit
        return declared if changed is None else changed.over(declared)

    def of_queue(self, queue: str) -> Limit:
        """Return the limit of a queue."""
        changed, declared = self._changes.get(of_queue(queue)), self._queues.get(queue, NO_LIMIT)
        return declared if changed is None else changed.over(declared)


_encode = msgspec.msgpack.Encoder().encode


def _decode(value: bytes) -> Override:
    return msgspec.msgpack.decode(value, type=Override)
