"""Runs every task, one after the other, in the thread that called `Worker.run()`: for debuggers."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, ClassVar

from ..interrupts import LATER, SOON, TIMES, Interrupted, throw, touchable
from ..outcome import Released
from . import Executor, Host

logger = logging.getLogger("dray.worker")

#: What fetches the main thread out of a system call, to have something raised in it. Ignored by default, so one that
#: comes late harms nobody; SIGALRM and SIGUSR1, which tasks and the worker use, would end the process.
SIGNAL = getattr(signal, "SIGURG", None)
#: Seconds between two looks whether to end, and those that coroutines left over have for their own end.
LOOK, LAST_WORDS = 0.2, 1.0


class SoloExecutor(Executor):
    """No other thread runs a task: `breakpoint()` has the terminal for itself, and one stack shows all of a task.

    What cannot be ended blocks it: there is no other thread to go on in. Ctrl-C, where nobody else handles it, gives
    the task at hand back and ends `serve` with a KeyboardInterrupt.
    """

    runs: ClassVar[frozenset[str]] = frozenset({"def", "async"})
    eager: ClassVar[bool] = True
    needs_main_thread: ClassVar[bool] = True
    most_slots: ClassVar[int | None] = 1

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self._bell = threading.Event()
        self._stopping = self._interrupted = False
        #: What runs; and of a coroutine, once it has taken its first step, the task of the loop.
        self._current: Any = None
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        #: The main thread, while it serves and the signal means us.
        self._signalled: int | None = None

    @classmethod
    def default_slots(cls, processors: int) -> int:
        return 1

    def start(self, host: Host) -> None:
        self._host = host

    def submit(self, jobs: Sequence[Any]) -> None:
        self._line.extend(jobs)
        self._bell.set()

    def cancel(self, job: Any) -> None:
        if job.task.is_async:
            self._on_loop(self._cancel, job)

    def interrupt(self, job: Any, error: type[BaseException]) -> None:
        if job.task.is_async:
            self._on_loop(self._throw, job, error)
        elif self._signalled is None:
            throw(job, error)
        else:
            job.thrown = error
            threading.Thread(target=self._insist, args=(job,), name="dray-interrupt", daemon=True).start()

    def abandon(self, job: Any) -> None:
        if job.task.is_async:
            self._on_loop(self._give_up, job)

    def serve(self, until: threading.Event) -> None:
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        try:
            with self._signals():
                while not (until.is_set() or self._stopping):
                    self._bell.clear()
                    try:
                        job = self._line.popleft()
                    except IndexError:
                        self._bell.wait(LOOK)
                        continue
                    self._one(job)
                    del job  # or it would be kept alive, with its result, until the next one comes
        finally:
            self._close(self._loop)

    def stop(self) -> None:
        self._stopping = True
        self._bell.set()
        job = self._current
        if job is not None:
            # It has been given back already.
            job.verdict = job.verdict or Released()
            self.interrupt(job, Interrupted)
            self.abandon(job)

    # On the thread that serves

    def _one(self, job: Any) -> None:
        self._current = job
        if self._signalled is not None and signal.getsignal(SIGNAL) != self._hit:  # type: ignore[arg-type]
            signal.signal(SIGNAL, self._hit)  # type: ignore[arg-type]  # a task has taken it
        try:
            ended = self._coroutine(job) if job.task.is_async else self._host.run(job)
        finally:
            self._current = self._task = None
        if ended is not None:
            self._host.done(job, ended)
        if self._interrupted:
            raise KeyboardInterrupt

    def _coroutine(self, job: Any) -> Any:
        """Run a coroutine to its end and return what it came to, or None if it was given up before."""
        loop = self._loop
        assert loop is not None
        task = loop.create_task(self._first_step(job))
        task.add_done_callback(lambda _: loop.stop())
        while not task.done() and self._current is job:
            try:
                loop.run_forever()
            except BaseException:
                # SystemExit in a task that a user's coroutine has started. The loop itself can go on.
                logger.exception("something on the event loop tried to end it")
        return task.result() if task.done() else None

    async def _first_step(self, job: Any) -> Any:
        # Cancelled before this, it would never have begun, and nobody would hear of its end.
        self._task = asyncio.current_task()
        return await self._host.arun(job)

    def _cancel(self, job: Any) -> None:
        if self._current is job and self._task is not None:
            self._task.cancel()

    def _throw(self, job: Any, error: type[BaseException]) -> None:
        if issubclass(error, Exception) and not job.exposed:
            return  # the user's code has ended; its hooks are not what the soft limit is about
        # Whoever awaits the task's coroutine looks at it when the cancellation comes (interrupts.Throwable).
        job.thrown = error
        self._cancel(job)

    def _give_up(self, job: Any) -> None:
        if self._current is job and self._loop is not None:
            self._current = None
            self._loop.stop()

    def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = None
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=LAST_WORDS))
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()

    # Signals

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Listen to signals; only the main thread can."""
        if SIGNAL is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers: dict[int, Callable[[int, FrameType | None], None]] = {SIGNAL: self._hit}
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            handlers[signal.SIGINT] = self._ctrl_c
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        self._signalled = threading.get_ident()
        try:
            yield
        finally:
            self._signalled = None
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def _insist(self, job: Any) -> None:
        """Send the signal until the job has raised what is thrown into it, or has ended."""
        tries, never = 0, threading.Event()
        while job.thrown is not None and job.ran is None and self._signalled is not None:
            signal.pthread_kill(self._signalled, SIGNAL)  # type: ignore[arg-type]
            tries += 1
            never.wait(SOON if tries < TIMES else LATER)

    def _hit(self, number: int, frame: FrameType | None) -> None:
        job = self._current
        # It may have been meant for the job before, or come where raising would do harm: then nothing, it comes again.
        if job is None or job.task.is_async or job.thrown is None or not job.exposed:
            return
        error = job.thrown
        if touchable(frame, error):
            job.thrown = None
            raise error

    def _ctrl_c(self, number: int, frame: FrameType | None) -> None:
        job = self._current
        if job is None:
            raise KeyboardInterrupt
        self._interrupted = True
        job.verdict = job.verdict or Released()
        if job.task.is_async:
            self._on_loop(self._cancel, job)
        elif job.exposed:
            raise KeyboardInterrupt

    def _on_loop(self, what: Callable[..., None], *args: Any) -> None:
        loop = self._loop
        try:
            if loop is not None:
                loop.call_soon_threadsafe(what, *args)
        except RuntimeError:  # closed meanwhile: nothing runs any more
            pass
