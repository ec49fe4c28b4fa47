"""What takes part in a measure: dray on some broker, or the bare loop beside it, all with the same verbs."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["def", "async def"]


class Spot(NamedTuple):
    """Where one trial takes place: nobody has left anything there."""

    folder: Path
    #: The servers that run: their URLs, by name.
    servers: Mapping[str, str]

    def url(self, template: str) -> str:
        """Return a URL in which `{folder}`, and the names of servers, stand for themselves."""
        return template.format(folder=self.folder, **self.servers)


class Answer(NamedTuple):
    """How long one call took, in seconds from before it was sent."""

    started: float
    returned: float


Ask = Callable[[], Answer]


class Ledger:
    """Counts what has run, outside of whatever is measured: one byte appended to a file by each task.

    Appending is atomic, so threads and processes may share the file. It costs about a microsecond, on every side.
    Where the tasks run in this process, it also knows when the first and the last of them did.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._began: float | None = None
        self._ended = 0.0

    def tick(self, number: int) -> None:
        """Do the work of a `def` task, which is next to nothing."""
        os.write(self._file, b".")
        self._ended = time.perf_counter()
        if self._began is None:
            self._began = self._ended

    async def atick(self, number: int) -> None:
        """Do the work of an `async def` task."""
        self.tick(number)

    def stamp(self, number: int) -> float:
        """Return when the task started, on a clock that all processes of the machine share."""
        return time.monotonic()

    @property
    def count(self) -> int:
        """How many tasks have run."""
        return os.fstat(self._file).st_size

    @property
    def seconds(self) -> float:
        """How long it took from the first task to the last, of those that ran in this process."""
        return 0.0 if self._began is None else self._ended - self._began

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


class Contender(ABC):
    """One side of a measure, made anew on an empty spot for each trial.

    Calls are numbered from 0, and the number is their only argument.
    """

    def __init__(self, spot: Spot) -> None:
        self.spot = spot
        self.ledger = Ledger(spot.folder / "ledger")

    @abstractmethod
    def send(self, count: int) -> None:
        """Send `count` calls one by one, each safe in the queue before the next."""

    @abstractmethod
    def send_many(self, count: int, kind: Kind = "def", stored: bool = False) -> None:
        """Send `count` calls as fast as that can be done at once."""

    @abstractmethod
    def work(self, kind: Kind, stored: bool) -> float:
        """Run all that `send_many` has sent with these options, until the queue is empty; return the seconds it took.

        What a worker needs to start and to stop is left out.
        """

    @abstractmethod
    def answering(self) -> AbstractContextManager[Ask]:
        """Have a worker running; return what sends it a call and waits for the result."""

    def close(self) -> None:
        """Let go of files and connections."""
        self.ledger.close()


Make = Callable[[Spot], Contender]
