"""dray's worker by its own command, in a process of its own; here are its tasks to send."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from contender import Spot
from places import PLACES
from watched import Watched, watching

from dray import Dray, Task

HERE = Path(__file__).parent
#: The tasks of `plain`, each with one argument.
TASKS = ("tick", "nap", "anap", "burn", "carry")


class Commanded:
    """The app `plain` at a place, from outside: its tasks by their names, and its workers. Close it, or use `with`."""

    def __init__(self, place: str, spot: Spot) -> None:
        self._folder = spot.folder
        self._url, results = spot.url(PLACES[place].url), PLACES[place].results
        self._results = spot.url(results) if results else ""
        self._app = Dray("bench", broker=self._url, backend=self._results or None, set_as_current=False)
        self.tasks: dict[str, Task[[Any], None]] = {
            name: self._app.task(name=f"plain.{name}", ignore_result=True)(lambda argument: None) for name in TASKS
        }

    def worker(self, *options: str, level: str = "warning") -> AbstractContextManager[Watched]:
        """Have a worker with these options within the context."""
        command = [sys.executable, "-m", "dray", "-A", "plain", "worker", "-l", level, *options]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DRAY_")}
        path = os.pathsep.join(filter(None, (str(HERE), inherited.get("PYTHONPATH"))))
        settings = {"PYTHONPATH": path, "DRAY_BROKER_URL": self._url}
        if self._results:
            settings["DRAY_RESULT_BACKEND"] = self._results
        return watching(command, self._folder, inherited | settings)

    def __enter__(self) -> Commanded:
        return self

    def __exit__(self, *raised: object) -> None:
        self._app.close()


def in_chunks(count: int, size: int = 5000) -> Iterator[range]:
    """Yield the numbers below `count` in ranges: what one bulk call takes of a long queue."""
    for first in range(0, count, size):
        yield range(first, min(first + size, count))
