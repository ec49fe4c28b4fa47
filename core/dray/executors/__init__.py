"""The executor port: what runs jobs. `threads` for `def` tasks and `loop` for `async def` tasks are built in.

An executor knows nothing of brokers, leases or results: it is given jobs and two functions, and calls
`done(job, run(job))` for each, on a thread or loop of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any


class Executor(ABC):
    """Runs up to `slots` jobs at a time; more wait inside it until `drain` takes them back."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        #: Jobs that have not begun. The operations of a deque are atomic: any thread may take from it.
        self._line: deque[Any] = deque()

    @abstractmethod
    def start(self, run: Callable[[Any], Any], done: Callable[[Any, Any], None]) -> None:
        """Get ready. `run(job)` never raises (for a loop it is awaited); `done(job, ended)` is quick."""

    @abstractmethod
    def submit(self, jobs: Sequence[Any]) -> None:
        """Take jobs and return at once. Called from one thread."""

    def drain(self) -> list[Any]:
        """Take back and return the jobs that have not begun. Any thread."""
        taken = []
        while self._line:
            try:
                taken.append(self._line.popleft())
            except IndexError:  # another thread took the last one
                break
        return taken

    @abstractmethod
    def cancel(self, job: Any) -> None:
        """Interrupt a running job if that can be done; otherwise do nothing. Any thread."""

    @abstractmethod
    def stop(self) -> None:
        """Let go of threads and loops. What still runs is abandoned. Called once, after `drain`."""
