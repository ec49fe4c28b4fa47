"""The other thread of a child: it hears what the worker wants of a job, and sees when the worker is gone."""

from __future__ import annotations

import asyncio
import logging
import math
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
from .birth import MEANT_FOR_THE_WORKER
from .frames import READ, Cancel, Cutter, End, Order, Recall, Recalled, Show, Stack, Throw, read_order
from .link import Link

logger = logging.getLogger("dray.worker")

#: Gets the main thread out of whatever it waits for, to raise something there.
POKE: int = signal.SIGRTMIN + 9 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2


class Claims:
    """Which job is running, and which may begin: what the two threads of a child share."""

    def __init__(self) -> None:
        #: Held while a job begins or ends, and while one is chosen to be ended: it hits that one or none.
        self.lock = threading.Lock()
        self.job: Job | None = None
        self.number = 0
        #: What runs it, if it is a coroutine.
        self.coroutine: asyncio.Task[Any] | None = None
        #: The last number that was claimed, and the last one that must not be.
        self._begun, self._recalled = 0, 0.0
        self._unwanted: set[int] = set()

    def claim(self, number: int, job: Job) -> str:
        """Begin a job; return "" or why not: it was "recalled", or is to be "returned"."""
        with self.lock:
            if number <= self._recalled:
                return "recalled"
            self._begun = number
            if self._unwanted and number in self._unwanted:
                self._unwanted.discard(number)
                return "returned"
            self.job, self.number = job, number
            return ""

    def release(self) -> None:
        """End the job: whatever comes for it now comes too late."""
        with self.lock:
            self.job = self.coroutine = None

    def recall(self, upto: float = math.inf) -> int:
        """Let none up to this number begin any more; return the last one that has."""
        with self.lock:
            self._recalled = max(self._recalled, upto)
            return self._begun

    def cancel(self, number: int) -> None:
        """Tell a job that it is not wanted: before it begins, it does not; after that it sees or feels it."""
        with self.lock:
            if number > self._begun:
                self._unwanted.add(number)
            elif self.job is not None and number == self.number:
                self.job.cancel()
                if self.coroutine is not None:
                    self.coroutine.get_loop().call_soon_threadsafe(self.coroutine.cancel)


class Orders:
    """Obeys the worker, on a thread that runs no task."""

    def __init__(self, claims: Claims, link: Link, descriptor: int) -> None:
        self._claims = claims
        self._link = link
        self._descriptor = descriptor
        #: What is to be raised in which job; taken away by whoever raises it.
        self._wish: tuple[Job, type[BaseException]] | None = None
        self._handler = self._poked
        self._thread = threading.Thread(target=self._run, name="dray-orders", daemon=True)

    def start(self) -> None:
        """Begin to listen. Called by the main thread."""
        self._main = threading.get_ident()
        self.arm()
        self._thread.start()

    def arm(self) -> None:
        """See to it that the main thread can be poked: a task may have changed what signals do. For the main thread."""
        if signal.getsignal(POKE) is not self._handler:
            signal.signal(POKE, self._handler)

    def _run(self) -> None:
        cutter = Cutter()
        while True:
            try:
                data = os.read(self._descriptor, READ)
            except OSError:
                data = b""  # a task has closed it
            if not data:
                # The worker has died. Its loans will run out, and what runs here runs elsewhere then.
                end_with_all()
            for frame in cutter.cut(data):
                try:
                    self._obey(read_order(frame))
                except Exception:
                    logger.exception("an order of the worker failed")

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
        job.verdict = Revoked(reason)
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


def end_with_all() -> None:
    """Kill this process, and with it what its task has started."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _ours(number: int, handler: Any) -> bool:
    return number in MEANT_FOR_THE_WORKER and getattr(handler, "__module__", "").startswith("dray.")
