"""Runs `async def` tasks as coroutines on one event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from . import Executor, Host

logger = logging.getLogger("dray.worker")


class LoopExecutor(Executor):
    """Touches no event-loop policy and no other loop of the process.

    A coroutine that blocks the loop stops all the others on it, and cannot be ended. When one is given up because of
    that, a new loop takes what comes from then on; what runs on the old one goes on when it is free again.
    """

    runs: ClassVar[frozenset[str]] = frozenset({"async"})

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        #: The last one takes new jobs; those before it were blocked, and perhaps still are.
        self._loops: list[_Loop] = []

    @classmethod
    def default_slots(cls, processors: int) -> int:
        return 100

    def start(self, host: Host) -> None:
        self._host = host
        self._open()

    def submit(self, jobs: Sequence[Any]) -> None:
        self._line.extend(jobs)
        self._loops[-1].fill()

    def cancel(self, job: Any) -> None:
        self._of(job).cancel(job)

    def interrupt(self, job: Any, error: type[BaseException]) -> None:
        self._of(job).throw(job, error)

    def abandon(self, job: Any) -> None:
        loop = self._of(job)
        if loop.deaf_to(job) and loop is self._loops[-1]:
            logger.error(
                "the event loop is blocked by one of its %d task(s): another one is started", len(loop.running)
            )
            loop.retired = True
            self._open()
        loop.give_up(job)

    def resize(self, slots: int) -> None:
        self.slots = slots
        self._loops[-1].fill()

    def stacks(self) -> list[str]:
        return [
            f"{job.message.task}[{job.message.id}]\n" + "".join(traceback.format_list(where(task)))
            for loop in list(self._loops)
            for job, task in list(dict(loop.running).items())
        ]

    def stop(self) -> None:
        for loop in self._loops:
            loop.stop()
        self._loops[-1].join(5)

    def _open(self) -> None:
        number = len(self._loops) + 1
        loop = _Loop(self, self._host, "dray-loop" if number == 1 else f"dray-loop-{number}", self._closed)
        # In this order: whatever was put in the line for the loop before it, this one finds.
        self._loops.append(loop)
        loop.start()

    def _closed(self, loop: _Loop) -> None:
        if loop.retired:
            self._loops.remove(loop)

    def _of(self, job: Any) -> _Loop:
        """Return the loop that runs a job; the last one, if none does."""
        loops = list(self._loops)
        return next((loop for loop in loops if job in loop.running), loops[-1])


class _Loop:
    """One event loop, its thread, and what runs there. Public methods: any thread."""

    def __init__(self, executor: LoopExecutor, host: Host, name: str, closed: Callable[[_Loop], None]) -> None:
        self.running: dict[Any, asyncio.Task[None]] = {}
        #: True once another loop takes the new jobs: it ends when what runs here has ended.
        self.retired = False
        self._executor, self._host, self._line = executor, host, executor._line
        self._closed = closed
        #: Those of the running that have taken their first step; and those that something is yet to be thrown into.
        self._begun: set[Any] = set()
        self._unheard: set[Any] = set()
        self._stopping = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()
        self.fill()

    def fill(self) -> None:
        self._call(self._fill)

    def cancel(self, job: Any) -> None:
        self._call(self._cancel, job)

    def throw(self, job: Any, error: type[BaseException]) -> None:
        self._unheard.add(job)
        self._call(self._throw, job, error)

    def deaf_to(self, job: Any) -> bool:
        """Return whether the loop has not come round since something was to be thrown into a job that runs on it."""
        return job in self._unheard and job in self.running

    def give_up(self, job: Any) -> None:
        self._call(self._give_up, job)

    def stop(self) -> None:
        self._stopping = True
        self._call(self._loop.stop)

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _call(self, what: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(what, *args)
        except RuntimeError:  # closed: everything on it has ended
            pass

    # On the loop's thread

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
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            asyncio.set_event_loop(None)
            self._loop.close()
            self._closed(self)

    def _fill(self) -> None:
        while self._line and len(self.running) < self._executor.slots and not self.retired:
            try:
                job = self._line.popleft()
            except IndexError:
                break
            self.running[job] = self._loop.create_task(self._one(job))
        if self.retired and not self.running:
            self.stop()

    async def _one(self, job: Any) -> None:
        self._begun.add(job)
        try:
            self._host.done(job, await self._host.arun(job))
        finally:
            self._begun.discard(job)
            self.running.pop(job, None)
            if self._line or self.retired:
                self._fill()

    def _cancel(self, job: Any) -> None:
        # One that has not taken its first step would never take it, and nobody would hear of its end. It need not be
        # cancelled either: `run` looks once more whether the job may begin.
        if job in self._begun and job in self.running:
            self.running[job].cancel()

    def _throw(self, job: Any, error: type[BaseException]) -> None:
        self._unheard.discard(job)
        if issubclass(error, Exception) and not job.exposed:
            return  # the user's code has ended; its hooks are not what the soft limit is about
        # Whoever awaits the task's coroutine looks at it when the cancellation comes (interrupts.Throwable).
        job.thrown = error
        self._cancel(job)

    def _give_up(self, job: Any) -> None:
        self._unheard.discard(job)
        self.running.pop(job, None)
        self._fill()


def where(task: asyncio.Task[None]) -> traceback.StackSummary:
    """Return where a coroutine waits, through all that it awaits."""
    frames: list[Any] = []
    step: Any = task.get_coro()
    while step is not None:
        frame = getattr(step, "cr_frame", None) or getattr(step, "gi_frame", None)
        if frame is not None:
            frames.append((frame, frame.f_lineno))
        step = getattr(step, "cr_await", None) or getattr(step, "gi_yieldfrom", None)
    return traceback.StackSummary.extract(iter(frames))
