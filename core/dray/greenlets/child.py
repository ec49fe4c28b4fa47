"""A child with greenlets: runs each job in one of its own, as many at a time as the worker says, and tells of them.

jobs read -> in line -> a greenlet -> claimed -> "it begins now; others came to this" -> run as in any worker -> ...

Its native thread (orders.py) hears the worker; what the two share is the `Roll`.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections import deque
from collections.abc import Callable
from contextvars import Context
from multiprocessing import spawn
from multiprocessing.connection import Connection
from typing import Any

import gevent
from gevent.event import Event
from gevent.os import nb_read

from ..processes import birth as born
from ..processes.birth import Birth
from ..processes.child import UNFIT, live
from ..processes.desk import Desk
from ..processes.frames import HEAD, READ, Came, Cutter, Leaving, Moved, Run, read_runs
from ..processes.link import Link
from .orders import Orders, Roll, Seat, native_lock

logger = logging.getLogger("dray.worker")


class NativeLink(Link):
    """Whole frames from any greenlet and from the native thread. While the pipe is full no other greenlet runs."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._lock = native_lock()

    def write(self, frame: bytes) -> None:
        self._write(frame)


def main(*numbers: int) -> None:
    """Be a child: what nursery.py has its program call. `numbers` are the ends of pipes: jobs, orders, reports."""
    prepared, told = _letter(numbers[0])
    born.lead_a_group()
    born.die_with_parent(told.parent)
    born.settle_signals(told.mask)
    jobs, orders, reports = (born.private(Connection(number)) for number in numbers)
    roll, link = Roll(), NativeLink(reports)
    child = Child(roll, link, jobs)
    hearing = Orders(roll, link, orders, resized=child.go_round)
    hearing.start()

    def ready() -> Child:
        # Only now, with everything patched, what was started is imported again, and what it imports.
        spawn.prepare(prepared)
        child.sit_down(Desk(told, born.loaded(told), link), hearing)
        return child

    live(link, ready)


def _letter(descriptor: int) -> tuple[dict[str, Any], Birth]:
    """Read what the child is told first, and not a byte more: jobs come behind it."""
    found: tuple[dict[str, Any], Birth] = pickle.loads(
        _read(descriptor, int.from_bytes(_read(descriptor, HEAD), "little"))
    )
    return found


def _read(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = os.read(descriptor, size - len(data))
        if not more:
            os._exit(UNFIT)  # the worker has died
        data += more
    return data


class Child:
    """Runs the jobs that come down a pipe, until it is closed. Everything here happens in the main thread."""

    def __init__(self, roll: Roll, link: Link, jobs: int) -> None:
        self._roll = roll
        self._link = link
        self._jobs = jobs
        os.set_blocking(jobs, False)
        self._pid = os.getpid()
        self._cutter = Cutter()
        self._line: deque[Run] = deque()
        #: How many greenlets have been started that have not ended; the event is set while there are none.
        self._started = 0
        self._idle = Event()
        self._idle.set()
        #: What the worker does not know yet.
        self._ended: list[Came] = []
        self._returned: list[int] = []
        self._going_round = False

    def sit_down(self, desk: Desk, hearing: Orders) -> None:
        """Get ready. Raises whatever the functions raise that are called for it."""
        self._desk = desk
        self._hearing = hearing
        self._loop = gevent.get_hub().loop
        desk.get_ready()

    def work(self) -> None:
        """Run jobs until there will be no more, and those have ended."""
        while data := self._undisturbed(nb_read, self._jobs, READ):
            for frame in self._cutter.cut(data):
                self._line.extend(read_runs(frame))
            self._desk.attend()
            self._fill()
        while self._line or self._started:
            self._undisturbed(self._idle.wait)
            self._fill()

    def leave(self) -> None:
        """Let go of everything, in order, and end."""
        self._report()
        self._desk.leave()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        # Not further: the interpreter would wait for greenlets and threads that tasks have left behind.
        os._exit(0)

    def go_round(self) -> None:
        """See to it that what there is room for begins, and that what has ended is told. In the hub."""
        self._going_round = False
        self._fill()
        self._report()
        if self._started and (size := self._desk.outgrown()):
            self._roll.recall()
            self._link.say(Leaving(size))

    def _undisturbed(self, wait: Callable[..., Any], *args: Any) -> Any:
        """Wait for something, whatever else gevent raises where the main greenlet waits."""
        while True:
            try:
                return wait(*args)
            except OSError:
                raise
            except BaseException:
                # SystemExit in a greenlet that a task has started. Nothing else has ended.
                logger.exception("something in a greenlet tried to end the process")

    def _fill(self) -> None:
        while self._line and self._started < self._roll.slots:
            self._started += 1
            self._idle.clear()
            greenlet = gevent.Greenlet(self._one, self._line.popleft())
            # What one task sets in its context is nobody else's, even if this is called at the end of that one.
            greenlet.gr_context = Context()
            greenlet.start()

    # In a greenlet

    def _one(self, run: Run) -> None:
        """Run a job, if it may still begin."""
        seat = Seat(run.number, self._desk.job(run), gevent.getcurrent())
        try:
            self._seated(run, seat)
        finally:
            self._roll.release(seat)
            self._started -= 1
            if not self._started:
                self._idle.set()
            if not self._going_round:
                # Once, for all that end in this round of the hub.
                self._going_round = True
                self._loop.run_callback(self.go_round)

    def _seated(self, run: Run, seat: Seat) -> None:
        refused = self._roll.claim(run.number, seat)
        if refused == "recalled":
            return
        at = self._desk.app.clock.monotonic()
        if refused or at > run.begin_by:
            # Not wanted any more; or it stood behind long tasks: before it ends, someone else may have it.
            self._returned.append(run.number)
            return
        self._hearing.arm()
        seat.frame = sys._getframe()
        # Killed before this, it has not begun. Killed after it, it is one of those that may have been the reason.
        self._report((run.number, at))
        ended = self._desk.run(seat.job)
        seat.ended = True
        self._ended.append(self._desk.came(run.number, seat.job, ended))

    def _report(self, *begun: tuple[int, float]) -> None:
        """Say what has happened, in one frame, if anything has."""
        ended, returned = self._ended, self._returned
        if begun or ended or returned:
            self._ended, self._returned = [], []
            self._desk.say(ended, lambda ended: Moved(ended, returned, list(begun)))
