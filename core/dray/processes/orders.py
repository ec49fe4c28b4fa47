"""The other thread of a child: it hears what the worker wants of a job, and sees when the worker is gone."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import traceback
from types import FrameType
from typing import Any

from ..errors import SoftTimeLimitExceeded
from ..executors.loop import where
from ..interrupts import LATER, SOON, TIMES, Interrupted, throw, touchable
from ..job import Job
from ..outcome import Revoked
from .beginnings import Beginnings
from .birth import MEANT_FOR_THE_WORKER
from .frames import Cancel, Cutter, End, Order, Recall, Recalled, Show, Stack, Throw
from .hearing import POKE, Hearing, end_with_all
from .link import Link

logger = logging.getLogger("dray.worker")


class Claims(Beginnings[Job]):
    """Which job is running, and which may begin."""

    def __init__(self) -> None:
        super().__init__(threading.Lock())
        self.job: Job | None = None
        self.number = 0
        #: What runs it, if it is a coroutine.
        self.coroutine: asyncio.Task[Any] | None = None

    def _begin(self, number: int, what: Job) -> None:
        self.job, self.number = what, number

    def release(self) -> None:
        """End the job: whatever comes for it now comes too late."""
        with self.lock:
            self.job = self.coroutine = None

    def cancel(self, number: int) -> None:
        """Tell a job that it is not wanted: before it begins, it does not; after that it sees or feels it."""
        if self.refuse(number):
            return
        with self.lock:
            if self.job is not None and number == self.number:
                self.job.cancel()
                if self.coroutine is not None:
                    self.coroutine.get_loop().call_soon_threadsafe(self.coroutine.cancel)


class Orders(Hearing):
    """Obeys the worker, on a thread that runs no task."""

    def __init__(self, claims: Claims, link: Link, descriptor: int) -> None:
        super().__init__(descriptor)
        self._claims = claims
        self._link = link
        #: What is to be raised in which job; taken away by whoever raises it.
        self._wish: tuple[Job, type[BaseException]] | None = None
        self._thread = threading.Thread(target=self._run, name="dray-orders", daemon=True)

    def start(self) -> None:
        """Begin to listen. Called by the main thread."""
        self._main = threading.get_ident()
        self.arm()
        self._thread.start()

    def _run(self) -> None:
        cutter = Cutter()
        while True:
            self._read(cutter)

    def _failed(self, error: Exception) -> None:
        logger.error("an order of the worker failed", exc_info=error)

    def _obey(self, order: Order) -> None:
        match order:
            case Cancel(number):
                self._claims.cancel(number)
            case Recall(upto):
                self._link.say(Recalled(upto, self._claims.recall(upto)))
            case Throw(number, soft):
                with self._claims.lock:
                    if (job := self._running(number)) is not None:
                        self._interrupt(job, SoftTimeLimitExceeded if soft else Interrupted)
            case End(number, wanted, reason):
                with self._claims.lock:
                    if (job := self._running(number)) is not None:
                        self._end(job, wanted, reason)
            case Show():
                self._link.say(Stack(self._what_runs()))

    def _running(self, number: int) -> Job | None:
        claims = self._claims
        return claims.job if claims.number == number else None

    def _end(self, job: Job, wanted: int, reason: str) -> None:
        if wanted == signal.SIGKILL:
            end_with_all()
        job.verdict = Revoked(reason, wanted)
        handler = signal.getsignal(wanted)
        if callable(handler) and handler is not signal.default_int_handler and not _ours(wanted, handler):
            # The task has its own idea of what is to be done then.
            signal.pthread_kill(self._main, wanted)
        else:
            self._interrupt(job, Interrupted)

    # To raise something in the main thread

    def _interrupt(self, job: Job, error: type[BaseException]) -> None:
        coroutine = self._claims.coroutine
        if coroutine is not None:
            # Whoever awaits the task's coroutine looks at it when the cancellation comes (interrupts.Throwable).
            job.thrown = error
            coroutine.get_loop().call_soon_threadsafe(coroutine.cancel)
            return
        self._wish = job, error
        threading.Thread(target=self._insist, args=(self._wish,), name="dray-interrupt", daemon=True).start()

    def _insist(self, wish: tuple[Job, type[BaseException]]) -> None:
        """Poke the main thread until it is where something can be raised, or the job has ended."""
        tries, never = 0, threading.Event()
        while self._wish is wish and self._claims.job is wish[0]:
            if signal.getsignal(POKE) is not self._handler:
                throw(*wish)  # a task has put its own handler in our place: without it, no wait is broken off
                return
            signal.pthread_kill(self._main, POKE)
            tries += 1
            never.wait(SOON if tries < TIMES else LATER)
        if self._wish is wish:
            self._wish = None  # it came too late; the job is not kept for it

    def _poked(self, number: int, frame: FrameType | None) -> None:
        wish = self._wish
        if wish is None:
            return
        job, error = wish
        if job is self._claims.job and job.exposed and touchable(frame, error):
            self._wish = None
            raise error

    def _what_runs(self) -> str:
        job, coroutine = self._claims.job, self._claims.coroutine
        if job is None:
            return ""
        if coroutine is not None:
            stack = where(coroutine)
        else:
            stack = traceback.extract_stack(sys._current_frames()[self._main])
        lead = f"{job.message.task}[{job.message.id}], process {os.getpid()}\n"
        return lead + "".join(traceback.format_list(stack))


def _ours(number: int, handler: Any) -> bool:
    return number in MEANT_FOR_THE_WORKER and getattr(handler, "__module__", "").startswith("dray.")
