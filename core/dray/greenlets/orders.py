"""How a child with greenlets hears its worker: on a native thread, which has the hub do what only the hub can.

A greenlet that waits has things raised in it by the hub, as gevent does it. One that does not let the hub come round is
the one that runs: a signal fetches the main thread out of it, and the handler raises there. Both happen in the main
thread, between two steps of Python: neither can hit another greenlet, or come too late.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import gevent
from gevent.monkey import get_original

from ..deadlines import over_limit
from ..errors import SoftTimeLimitExceeded
from ..interrupts import LATER, SOON, TIMES, Interrupted, touchable
from ..job import Job
from ..outcome import Released, Revoked
from ..processes.beginnings import Beginnings
from ..processes.frames import Cancel, Cutter, End, Order, Recall, Recalled, Room, Show, Stack, Throw
from ..processes.hearing import POKE, Hearing
from ..processes.link import Link

logger = logging.getLogger("dray.worker")

#: A lock that lets no other greenlet run while somebody waits for it. Held for moments, and never while switching.
native_lock: Callable[[], Any] = get_original("_thread", "allocate_lock")
#: How often the hub is asked for what runs, until somebody else says so.
PATIENCE = 20
#: Where greenlets wait: frames of these files are none of the task's.
_WAITS = (os.path.dirname(gevent.__file__) + os.sep, threading.__file__)


class Seat:
    """A job, and the greenlet that runs it."""

    __slots__ = ("ended", "frame", "greenlet", "job", "number")

    def __init__(self, number: int, job: Job, greenlet: Any) -> None:
        self.number = number
        self.job = job
        self.greenlet = greenlet
        #: The outermost frame that is above the task's while it runs.
        self.frame: FrameType | None = None
        self.ended = False


class Roll(Beginnings[Seat]):
    """Which jobs run, and which may begin: what the native thread and the greenlets share."""

    def __init__(self) -> None:
        super().__init__(native_lock())
        #: How many may run at a time.
        self.slots = 1
        #: Changed by the main thread alone.
        self.seats: dict[int, Seat] = {}

    def _begin(self, number: int, what: Seat) -> None:
        self.seats[number] = what

    def release(self, seat: Seat) -> None:
        """End a job: whatever comes for it now comes too late."""
        seat.ended, seat.frame = True, None
        self.seats.pop(seat.number, None)


class Orders(Hearing):
    """Obeys the worker. `resized` is called by the hub when there may be room for more jobs."""

    def __init__(self, roll: Roll, link: Link, descriptor: int, resized: Callable[[], None]) -> None:
        super().__init__(descriptor)
        self._roll = roll
        self._link = link
        self._resized = resized
        #: What is to be raised in whom; taken away by the main thread, which raises it.
        self._wishes: dict[Seat, type[BaseException]] = {}
        #: What the hub is to do; and how often it has come round to that.
        self._errands: deque[Callable[[], None]] = deque()
        self._rounds = 0
        #: How often the hub was asked in vain what runs; None: the worker has not asked.
        self._asked: int | None = None
        self._bell = gevent.get_hub().loop.async_()

    def start(self) -> None:
        """Begin to listen. Called by the main thread."""
        self._main: int = get_original("_thread", "get_ident")()
        self._bell.start(self._come_round)
        self.arm()
        get_original("_thread", "start_new_thread")(self._run, ())

    # The native thread. No lock that gevent knows of is taken here, nor anything logged

    def _run(self) -> None:
        poll, cutter, tries = get_original("select", "poll")(), Cutter(), 0
        poll.register(self._descriptor)
        while True:
            if not self._wishes and not self._errands:
                tries = 0
                poll.poll()
                self._read(cutter)
                continue
            rounds = self._rounds
            self._bell.send()
            if poll.poll(1000 * (SOON if tries < TIMES else LATER)):
                self._read(cutter)
                continue
            tries += 1
            if self._rounds == rounds:
                self._press()

    def _failed(self, error: Exception) -> None:
        self._errands.append(partial(logger.error, "an order of the worker failed", exc_info=error))

    def _press(self) -> None:
        """Do without the hub, which some greenlet keeps from coming round."""
        if self._wishes and signal.getsignal(POKE) is self._handler:
            signal.pthread_kill(self._main, POKE)
        if self._asked is not None:
            self._asked += 1
            if self._asked > PATIENCE:
                self._asked = None
                here = traceback.extract_stack(sys._current_frames()[self._main])
                lead = f"process {os.getpid()}: one of its {len(self._roll.seats)} task(s) lets no other one run\n"
                self._link.say(Stack(lead + "".join(traceback.format_list(here))))

    def _obey(self, order: Order) -> None:
        match order:
            case Cancel(number):
                if not self._roll.refuse(number):
                    self._errands.append(partial(self._cancel, number))
            case Recall(upto):
                self._link.say(Recalled(upto, self._roll.recall(upto)))
            case Throw(number, soft):
                self._wish(number, SoftTimeLimitExceeded if soft else Interrupted)
            case End(number, wanted, reason, overdue):
                if (seat := self._roll.seats.get(number)) is not None:
                    # For no reason: because the worker stops.
                    otherwise = Revoked(reason, wanted) if reason else Released()
                    seat.job.verdict = over_limit(seat.job) if overdue else otherwise
                    self._wish(number, Interrupted)
            case Room(slots):
                self._roll.slots = slots
                self._errands.append(self._resized)
            case Show():
                self._asked = 0
                self._errands.append(self._show)

    def _wish(self, number: int, error: type[BaseException]) -> None:
        if (seat := self._roll.seats.get(number)) is not None:
            self._wishes[seat] = error

    # The main thread: in the hub

    def _come_round(self) -> None:
        self._rounds += 1
        while self._errands:
            try:
                self._errands.popleft()()
            except Exception:
                logger.exception("an order of the worker failed")
        for seat, error in list(self._wishes.items()):
            if seat.ended:
                self._wishes.pop(seat, None)
            elif seat.job.exposed and touchable(_outside_of_waits(seat.greenlet.gr_frame), error):
                self._wishes.pop(seat, None)
                # It runs on at once, until it waits again.
                seat.greenlet.throw(error)

    def _cancel(self, number: int) -> None:
        if (seat := self._roll.seats.get(number)) is not None:
            seat.job.cancel()

    def _show(self) -> None:
        if self._asked is None:
            return
        self._asked = None
        shown = []
        for seat in list(self._roll.seats.values()):
            stack = traceback.extract_stack(seat.greenlet.gr_frame)
            label = f"{seat.job.message.task}[{seat.job.message.id}], greenlet in process {os.getpid()}\n"
            shown.append(label + "".join(traceback.format_list(stack)))
        self._link.say(Stack("\n".join(shown)))

    # The main thread: wherever it is

    def _poked(self, number: int, frame: FrameType | None) -> None:
        if not self._wishes:
            return
        running = set()
        outer = frame
        while outer is not None:
            running.add(outer)
            outer = outer.f_back
        for seat, error in list(self._wishes.items()):
            if seat.frame in running and seat.job.exposed and touchable(frame, error):
                self._wishes.pop(seat, None)
                raise error


def _outside_of_waits(frame: FrameType | None) -> FrameType | None:
    """Return the frame of the task from which a greenlet waits; None where nothing may be raised.

    A greenlet that waits for a lock does not have it yet, so there nothing is left behind - except in a condition that
    gets its lock back: whoever waits there gives it back in any case.
    """
    while frame is not None and frame.f_code.co_filename.startswith(_WAITS):
        if frame.f_code.co_name == "_acquire_restore":
            return None
        frame = frame.f_back
    return frame
