"""Runs `def` tasks on threads that share one line of waiting jobs."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from ..interrupts import throw
from . import Executor, Host
from .rivalry import Rivalry

#: Seconds below which a job is short: about what waking another thread costs.
SHORT = 0.00015
#: Seconds without progress after which the thread that runs the short jobs is taken to be stuck in a long one.
PATIENCE = 0.002
#: Weight of what was just seen in the running average.
LEARNING = 0.02
#: After so many jobs a thread looks whether the others are of use beside it.
ROUND = 64


class _Seat:
    """What one thread is doing."""

    __slots__ = ("given_up", "job")

    def __init__(self) -> None:
        self.job: Any = None
        #: True once another thread has been started in this one's place.
        self.given_up = False


class ThreadExecutor(Executor):
    """Busy threads help themselves from the line without a lock; only a thread that finds it empty goes to sleep.

    While jobs are so short that handing one over costs more than running it, one thread runs them all, and a second
    one keeps watch: as soon as the first one gets stuck in a longer job, everybody is woken. So it is, too, when all
    are awake and get no more done than one would: one of them goes on, and the others rest.
    """

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        #: One entry for each thread that is going to sleep or sleeps. deque and SimpleQueue operations are atomic.
        self._sleepers: deque[None] = deque()
        #: Wakes one sleeper: to work (False), or to keep watch (True).
        self._bell: SimpleQueue[bool] = SimpleQueue()
        #: Running average of how long a job takes (seconds), and how many have begun. Both are hints: two threads
        #: that change one at the same moment may lose a change.
        self._duration = 1.0
        self._begun = 0
        self._watched = False
        #: Beside this one the others rest; None: all that are awake work.
        self._leader: _Seat | None = None
        self._rivalry = Rivalry()
        self._stopping = False
        #: Held while threads are started or sent away; and how many of them are to go when they have ended their job.
        self._lock = threading.Lock()
        self._seats: list[_Seat] = []
        self._surplus = 0
        self._started = 0

    def start(self, host: Host) -> None:
        self._host = host
        with self._lock:
            self._add(self.slots)

    def submit(self, jobs: Sequence[Any]) -> None:
        self._line.extend(jobs)
        self._wake(len(jobs) if self._duration > SHORT else 1)

    def cancel(self, job: Any) -> None:
        """The job's own flag is all it has."""

    def interrupt(self, job: Any, error: type[BaseException]) -> None:
        throw(job, error)

    def abandon(self, job: Any) -> None:
        with self._lock:
            for seat in self._seats:
                if seat.job is job and not seat.given_up:
                    seat.given_up = True
                    self._leader = None
                    self._seats.remove(seat)
                    self._add(1)
                    return

    def resize(self, slots: int) -> None:
        with self._lock:
            more, self.slots = slots - self.slots, slots
            staying = min(max(more, 0), self._surplus)
            self._surplus += max(-more, 0) - staying
            self._add(max(more, 0) - staying)
            for _ in range(self._surplus):
                self._bell.put(False)

    def stop(self) -> None:
        self._stopping = True
        for _ in range(self._started):
            self._bell.put(False)

    def _add(self, count: int) -> None:
        for _ in range(count):
            self._started += 1
            self._seats.append(seat := _Seat())
            # Daemons: a task that never returns must not keep a stopped process alive.
            name = f"dray-thread-{self._started}"
            threading.Thread(target=self._work, args=(seat,), name=name, daemon=True).start()

    def _leaves(self, seat: _Seat) -> bool:
        """Return whether the thread of this seat is one too many, and let it go."""
        with self._lock:
            if seat.given_up:
                return True
            if not self._surplus:
                return False
            self._surplus -= 1
            self._leader = None
            self._seats.remove(seat)
            return True

    def _wake(self, count: int, to_watch: bool = False) -> bool:
        """Wake up to `count` sleepers; return whether there was one at all."""
        for number in range(count):
            try:
                self._sleepers.pop()
            except IndexError:
                return number > 0
            self._bell.put(to_watch)
        return count > 0

    def _work(self, seat: _Seat) -> None:
        line, now, round_ends = self._line, time.perf_counter, ROUND
        run, done = self._host.run, self._host.done
        while not self._stopping:
            if (self._surplus or seat.given_up) and self._leaves(seat):
                return
            leader = self._leader
            if leader is not None and leader is not seat and self._duration < SHORT:
                self._rest(seat)
                continue
            try:
                job = line.popleft()
            except IndexError:
                if leader is seat:
                    self._leader = None  # whoever is woken next shall work
                self._sleep()
                continue
            self._begun += 1
            # If nobody sleeps, everybody is busy, and there is nobody to be woken either.
            if line and not self._watched and self._sleepers:
                # Set first: the watch may be over before we are back from appointing it.
                self._watched = True
                if not self._wake(1, to_watch=True):
                    self._watched = False
            seat.job = job
            began = now()
            done(job, run(job))
            self._duration += LEARNING * (now() - began - self._duration)
            # Or the thread would keep the last job, with its arguments and result, alive until the next one.
            del job
            seat.job = None
            round_ends -= 1
            if not round_ends:
                round_ends = ROUND
                self._look(seat)

    def _look(self, seat: _Seat) -> None:
        """Find out whether threads beside this one get more done, or only take the interpreter from it."""
        if self._rivalry.look(time.process_time(), time.perf_counter(), self._begun):
            self._leader = seat
        elif self._leader is not None:
            self._leader = None
            self._wake(len(self._line))

    def _rest(self, seat: _Seat) -> None:
        """Leave the jobs to the leader; keep watch, if nobody does."""
        if not self._watched:
            self._watched = True
            self._watch()
            return
        self._sleepers.append(None)
        if self._leader is None or self._leader is seat:
            # Changed between our look and our going to sleep: perhaps nobody else is awake.
            self._stay_awake()
        elif self._bell.get():
            self._watch()

    def _sleep(self) -> None:
        self._sleepers.append(None)
        if self._line:
            # Filled between our look and our going to sleep: whoever filled it may not have seen us.
            self._stay_awake()
        elif self._bell.get():
            self._watch()

    def _stay_awake(self) -> None:
        # If our entry was used already, its ring wakes somebody for nothing, which is harmless.
        with suppress(IndexError):
            self._sleepers.pop()

    def _watch(self) -> None:
        """Wait while short jobs flow; wake everybody when they stop flowing, or are short no longer."""
        while self._line and not self._stopping:
            begun = self._begun
            time.sleep(PATIENCE)
            if self._begun == begun or self._duration > SHORT:
                self._leader = None
                self._wake(len(self._line))
                break
        # From here on the next one to begin a job with others behind it appoints a new watch.
        self._watched = False
