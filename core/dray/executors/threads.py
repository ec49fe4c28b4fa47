"""Runs `def` tasks on a fixed number of threads that share one line of waiting jobs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from . import Executor


class ThreadExecutor(Executor):
    """Busy threads help themselves from the line without a lock; only a thread that finds it empty goes to sleep.

    So a burst of short jobs costs no hand-over at all, and a long job never has others stuck behind it.
    """

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self._line: deque[Any] = deque()
        #: One entry for each thread that is going to sleep or sleeps. deque and SimpleQueue operations are atomic.
        self._sleepers: deque[None] = deque()
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._stopping = False

    def start(self, run: Callable[[Any], Any], done: Callable[[Any, Any], None]) -> None:
        for number in range(self.slots):
            # Daemons: a task that never returns must not keep a stopped process alive.
            threading.Thread(target=self._work, args=(run, done), name=f"dray-thread-{number + 1}", daemon=True).start()

    def submit(self, jobs: Sequence[Any]) -> None:
        self._line.extend(jobs)
        self._wake(len(jobs))

    def drain(self) -> list[Any]:
        taken = []
        while self._line:
            try:
                taken.append(self._line.popleft())
            except IndexError:
                break
        return taken

    def cancel(self, job: Any) -> None:
        """A thread cannot be interrupted; the job's own flag is all it has."""

    def stop(self) -> None:
        self._stopping = True
        for _ in range(self.slots):
            self._bell.put(None)

    def _wake(self, count: int) -> None:
        for _ in range(count):
            try:
                self._sleepers.pop()
            except IndexError:
                return
            self._bell.put(None)

    def _work(self, run: Callable[[Any], Any], done: Callable[[Any, Any], None]) -> None:
        while not self._stopping:
            try:
                job = self._line.popleft()
            except IndexError:
                self._sleep()
                continue
            done(job, run(job))
            # Or the thread would keep the last job, with its arguments and result, alive until the next one.
            del job

    def _sleep(self) -> None:
        self._sleepers.append(None)
        if self._line:
            # Filled between our look and our going to sleep: whoever filled it may not have seen us. Stay awake. If our
            # entry was used already, its ring wakes somebody for nothing, which is harmless.
            try:
                self._sleepers.pop()
            except IndexError:
                pass
            return
        self._bell.get()
