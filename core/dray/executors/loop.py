"""Runs `async def` tasks as coroutines on one event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from . import Executor

logger = logging.getLogger("dray.worker")


class LoopExecutor(Executor):
    """Touches no event-loop policy and no other loop of the process."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self._running: dict[Any, asyncio.Task[None]] = {}
        #: Those of the running that have taken their first step.
        self._begun: set[Any] = set()
        self._stopping = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="dray-loop", daemon=True)

    def start(self, run: Callable[[Any], Any], done: Callable[[Any, Any], None]) -> None:
        self._run, self._done = run, done
        self._thread.start()

    def submit(self, jobs: Sequence[Any]) -> None:
        self._line.extend(jobs)
        self._loop.call_soon_threadsafe(self._fill)

    def cancel(self, job: Any) -> None:
        self._loop.call_soon_threadsafe(self._cancel, job)

    def stop(self) -> None:
        self._stopping = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            while not self._stopping:
                try:
                    self._loop.run_forever()
                except BaseException:
                    # SystemExit in a task that a user's coroutine has started. The loop itself can go on.
                    logger.exception("something on the event loop tried to end it")
        finally:
            for task in self._running.values():
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*self._running.values(), return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            asyncio.set_event_loop(None)
            self._loop.close()

    def _fill(self) -> None:
        while self._line and len(self._running) < self.slots:
            try:
                job = self._line.popleft()
            except IndexError:
                return
            self._running[job] = self._loop.create_task(self._one(job))

    async def _one(self, job: Any) -> None:
        self._begun.add(job)
        try:
            self._done(job, await self._run(job))
        finally:
            self._begun.discard(job)
            del self._running[job]
            if self._line:
                self._fill()

    def _cancel(self, job: Any) -> None:
        # One that has not taken its first step would never take it, and nobody would hear of its end. It need not be
        # cancelled either: `run` looks once more whether the job may begin.
        if job in self._begun:
            self._running[job].cancel()
