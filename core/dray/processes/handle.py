"""One child as its worker sees it: the process, its pipes, and the jobs it has at hand. Used by one thread."""

from __future__ import annotations

import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from math import inf
from multiprocessing.connection import Connection
from typing import Protocol

from ..job import Ended, Job
from ..outcome import Done, Failed, Outcome, Rejected, Released, Requeued
from .frames import READ, Came, Cutter, Order, Run, Word, framed, read_word

#: Most seconds to wait for the exit code of a process that has ended.
LAST_WORD = 1.0
#: The worker's own ends of pipes to all children. A process that is forked off the worker closes its copies.
own_ends: set[int] = set()

_DONE = Done(None)


class Process(Protocol):
    """What has to be known of a process, however it was made: as multiprocessing has it."""

    @property
    def pid(self) -> int | None:
        """Its number; None before it was started."""

    @property
    def sentinel(self) -> int:
        """Can be read when it has ended."""

    @property
    def exitcode(self) -> int | None:
        """How it ended, -N by signal N; None while it runs. Asking takes it off the system's table."""

    def kill(self) -> None:
        """Send it a SIGKILL."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, for so many seconds at most."""

    def close(self) -> None:
        """Let go of what it needs here, once it has ended."""


class Outlet:
    """Writes into a pipe without ever waiting; what does not fit stays here until `flush`."""

    def __init__(self, end: Connection) -> None:
        self.descriptor = end.fileno()
        self._end = end
        self._rest: list[bytes] = []
        os.set_blocking(self.descriptor, False)
        own_ends.add(self.descriptor)

    @property
    def blocked(self) -> bool:
        """Whether something waits for room in the pipe."""
        return bool(self._rest)

    @property
    def closed(self) -> bool:
        """Whether the pipe is closed."""
        return self._end.closed

    def write(self, frame: bytes) -> None:
        """Write a frame, or keep it for later."""
        if not self._end.closed:
            self._rest.append(frame)
            if len(self._rest) == 1:
                self.flush()

    def flush(self) -> None:
        """Write what there is room for."""
        while self._rest:
            frame = self._rest[0]
            try:
                written = os.write(self.descriptor, frame)
            except BlockingIOError:
                return
            except OSError:
                self._rest.clear()  # it has died, which is seen elsewhere
                return
            if written < len(frame):
                self._rest[0] = frame[written:]
            else:
                del self._rest[0]

    def close(self) -> None:
        """Close the pipe. What waits is not written any more."""
        if not self._end.closed:
            own_ends.discard(self.descriptor)
            self._rest.clear()
            self._end.close()


class Handle(ABC):
    """One child, from its birth on. `now` and `..._at` are monotonic; inf: never."""

    def __init__(self, process: Process, jobs: Outlet, orders: Outlet, reports: Connection, now: float) -> None:
        assert process.pid is not None
        self.process = process
        self.pid = process.pid
        self.jobs = jobs
        self.orders = orders
        self._reports = reports
        self.descriptor = reports.fileno()
        os.set_blocking(self.descriptor, False)
        self._cutter = Cutter()
        #: What it has at hand, by number, in order: what runs, and what has not begun.
        self.sent: dict[int, Job] = {}
        #: The number of the job that it was sent last, and when; and when anything of it was written last.
        self.last, self.moved_at = 0, now
        #: The number of the job that began last (0: none has), and how many have ended.
        self.begun, self.ended = 0, 0
        self.ready = False
        #: `leaving`: it takes no more jobs, and ends. `replaced`: another one is there in its place already.
        self.leaving = self.replaced = False
        #: Why it could not begin.
        self.broken = ""
        #: Up to where jobs were called back without an answer so far (0: nowhere), and since when.
        self.recalled, self.recalled_at = 0, inf
        #: When it is killed if it is still there.
        self.gone_at = inf
        #: Can be read when the process has ended.
        self.watched, self._watch = _watch(process)
        own_ends.add(self.watched)

    @property
    @abstractmethod
    def busy(self) -> int:
        """How many jobs it has that run."""

    @property
    def waiting(self) -> int:
        """How many jobs it has that have not begun."""
        return len(self.sent) - self.busy

    # To it

    def send(self, jobs: Iterable[Job], lease: float, now: float) -> None:
        """Hand it jobs; `lease` 0: they are not lent."""
        runs = []
        for job in jobs:
            self.last += 1
            self.sent[self.last] = job
            late = job.lease_until - lease / 2 if lease and not job.acked else inf
            runs.append(Run(self.last, job.message, job.delivery.queue, job.delivery.delivery_count, late))
        self.moved_at = now
        self.jobs.write(framed(runs))

    def order(self, order: Order) -> None:
        """Tell it something."""
        self.orders.write(framed(order))

    def take_back(self, after: int = 0, upto: float = inf) -> list[Job]:
        """Strike jobs off that it will not begin; return them."""
        numbers = [number for number in self.sent if after < number <= upto]
        return [self.sent.pop(number) for number in numbers]

    def kill(self) -> None:
        """Kill it, and what its task has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        # Perhaps it leads no group yet. It has not been waited for: the number is still its own.
        with suppress(ProcessLookupError, PermissionError):
            self.process.kill()

    # From it

    def hear(self) -> list[Word] | None:
        """Return what it says now, without waiting; None when nothing is there.

        Raises `EOFError` when it will never say anything any more, and what msgspec raises for nonsense.
        """
        try:
            data = os.read(self.descriptor, READ)
        except BlockingIOError:
            return None
        if not data:
            raise EOFError
        return [read_word(frame) for frame in self._cutter.cut(data)]

    def end(self) -> str:
        """Close everything about a process that has ended; return how it did, in words."""
        code = self.process.exitcode
        if code is None:
            # Its server has waited for it, and tells us in a moment.
            self.process.join(LAST_WORD)
            code = self.process.exitcode
        self.jobs.close()
        self.orders.close()
        own_ends.discard(self.descriptor)
        self._reports.close()
        own_ends.discard(self.watched)
        if self._watch is not None:
            os.close(self._watch)
        if code is None:
            return "it ended, nobody knows how"
        self.process.join(0)
        self.process.close()
        if code >= 0:
            return f"exited with code {code}"
        try:
            return f"killed by signal {-code} ({signal.Signals(-code).name})"
        except ValueError:
            return f"killed by signal {-code}"


class Single(Handle):
    """A child that runs one job at a time."""

    def __init__(self, process: Process, jobs: Outlet, orders: Outlet, reports: Connection, now: float) -> None:
        super().__init__(process, jobs, orders, reports, now)
        #: The number of the job that runs (0: none), and when the last one began.
        self.current, self.began_at = 0, now
        #: The job that is to end (0: none), whether by the last means, and when there is to be a next step.
        self.ending, self.by_force, self.ending_at = 0, False, inf

    @property
    def running(self) -> Job | None:
        """The job that runs."""
        return self.sent.get(self.current)

    @property
    def busy(self) -> int:
        return self.current in self.sent


def ended(came: Came, job: Job) -> Ended:
    """Return what a job came to, as far as it has to be settled."""
    outcome: Outcome = _DONE
    match came.fate:
        case "judged":
            # Without a verdict it was ended because the worker stops.
            outcome = job.verdict or Released()
            if isinstance(outcome, Failed):
                outcome = Failed(outcome.error, outcome.bury, came.reason)
        case "released":
            outcome = Released()
        case "requeued":
            outcome = Requeued(came.delay)
        case "rejected":
            outcome = Rejected(came.reason)
    return Ended(outcome, came.report, came.followups, came.onward)


def _watch(process: Process) -> tuple[int, int | None]:
    """Return a descriptor that can be read when a process has ended, twice if it is ours to close.

    What multiprocessing has for that stays silent as long as any process lives that the task has forked.
    """
    if hasattr(os, "pidfd_open"):
        with suppress(OSError):
            assert process.pid is not None
            own = os.pidfd_open(process.pid)
            return own, own
    return process.sentinel, None
