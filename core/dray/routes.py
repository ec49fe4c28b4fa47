"""Which queue and priority a task is sent with, and which options the settings lay over it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import translate
from typing import Any, NamedTuple

from .errors import SettingError, TaskOptionError
from .message import HIGHEST_PRIORITY
from .options import check_queue
from .settings import Settings
from .urls import nearest


class Route(NamedTuple):
    """Where a task goes when neither the call nor the task says so."""

    queue: str
    priority: int


class Routes:
    """`task_routes` and `task_annotations`, compiled. An exact name wins, then the globs in the order written."""

    def __init__(self, conf: Settings) -> None:
        self._default = Route(conf.task_default_queue, conf.task_default_priority)
        self._routes = _Table({name: _route(name, value, self._default) for name, value in conf.task_routes.items()})
        self._annotations = _Table(conf.task_annotations)
        self._known = None if conf.task_create_missing_queues else {*(conf.task_queues or ()), self._default.queue}

    def route(self, task: str) -> Route:
        """Return where `task` goes."""
        found = self._routes.first(task)
        return self._default if found is None else found

    def annotations(self, task: str) -> dict[str, Any]:
        """Return the options that the settings lay over those of `task`, the most specific last."""
        merged: dict[str, Any] = {}
        for options in reversed(self._annotations.all(task)):
            merged.update(options)
        return merged

    def check(self, queue: str, task: str) -> None:
        """Raise `TaskOptionError` for a queue that may not be created by sending to it."""
        if self._known is not None and queue not in self._known:
            raise TaskOptionError(
                f"sending {task}: no queue {queue!r} in task_queues, and task_create_missing_queues is off"
                f"{nearest(queue, self._known) or '.'} Known: {', '.join(sorted(self._known))}."
            )


class _Table:
    """Values by exact name or glob."""

    def __init__(self, entries: Mapping[str, Any]) -> None:
        self._exact = {name: value for name, value in entries.items() if not any(c in name for c in "*?[")}
        self._globs = [(re.compile(translate(name)), v) for name, v in entries.items() if name not in self._exact]
        self._cache: dict[str, Any] = {}

    def first(self, task: str) -> Any:
        if task not in self._cache:
            found = self.all(task)
            self._cache[task] = found[0] if found else None
        return self._cache[task]

    def all(self, task: str) -> list[Any]:
        own = [self._exact[task]] if task in self._exact else []
        return own + [value for pattern, value in self._globs if pattern.match(task)]


def _route(name: str, value: Any, default: Route) -> Route:
    if isinstance(value, str):
        value = {"queue": value}
    if not isinstance(value, Mapping) or not value.keys() <= {"queue", "priority"}:
        raise SettingError(
            f"task_routes[{name!r}] is a queue name or a dict with 'queue' and 'priority'; got {value!r}"
        )
    priority = value.get("priority", default.priority)
    if type(priority) is not int or not 0 <= priority <= HIGHEST_PRIORITY:
        raise SettingError(f"task_routes[{name!r}]: priority is a whole number from 0 to 9; got {priority!r}")
    return Route(check_queue(value.get("queue", default.queue), f"task_routes[{name!r}]"), priority)
