"""The worker's side of a pool of greenlets: feeds the one child, ends jobs in it, says what became of whom if it dies.

Who is charged when it dies under many jobs: if we have killed it, those whose end it was, and nobody else. If it died
by itself nobody knows whose doing that was, and all that had begun are charged; a message on its last delivery runs
alone (source.py), so that none is buried for what its neighbour did: docs/decisions/0012-who-is-charged-for-a-death.md.
"""

from __future__ import annotations

import logging
from collections import deque
from math import inf
from multiprocessing.connection import Connection
from signal import SIGTERM
from typing import TYPE_CHECKING

from ..clock import SYSTEM_CLOCK
from ..errors import SoftTimeLimitExceeded
from ..job import Ended, Job
from ..outcome import Failed, Released, Revoked
from ..processes.feeder import MOST, Feeder
from ..processes.frames import Cancel, End, Moved, Progress, Room, Throw
from ..processes.handle import Handle, Outlet, Process, ended
from ..processes.watch import FAREWELL, OBEY, Watch
from .nursery import GreenletNursery

if TYPE_CHECKING:
    from ..executors import Host

logger = logging.getLogger("dray.worker")

#: Seconds that a job has to end when something was thrown into it; then its process is killed.
LAST_CHANCE = 2.0
#: Seconds that jobs are with a child that runs nothing, and begins none of them, before they are called back; and for
#: an answer to that, before it is taken for dead.
IDLE, SICK = 2.0, 5.0


class Crowd(Handle):
    """A child that runs many jobs at a time."""

    def __init__(self, process: Process, jobs: Outlet, orders: Outlet, reports: Connection, now: float) -> None:
        super().__init__(process, jobs, orders, reports, now)
        #: What runs, by number.
        self.running: dict[int, Job] = {}
        #: The numbers of jobs that were told to end, and when (monotonic) the child is killed if they have not.
        self.ending: dict[int, float] = {}
        #: Those for which it was killed.
        self.guilty: frozenset[int] = frozenset()

    @property
    def busy(self) -> int:
        return len(self.running)

    def number_of(self, job: Job) -> int:
        """Return the number of a job that runs here; 0 if it does not."""
        return next((number for number, running in self.running.items() if running is job), 0)


class Herd(Watch[Crowd]):
    """Runs the jobs in `line`, as many at a time as there are slots. What may be called from any thread says so.

    There is one child that takes jobs; beside it there may be others that end what they run.
    """

    kind = Crowd
    _nursery: GreenletNursery

    def __init__(
        self, host: Host, line: deque[Job], nursery: GreenletNursery, slots: int, *, lease: float, most_jobs: int | None
    ) -> None:
        """Lease 0: messages are not lent. `most_jobs`: of one child, in all its life."""
        super().__init__(host, line, nursery, "gevent")
        self._slots = slots
        self._lease = lease
        self._most_jobs = inf if most_jobs is None else most_jobs
        self._feeder = Feeder(host, line, lease, most_jobs)

    def _wanted(self) -> int:
        return 1

    def _welcome(self, each: Crowd) -> None:
        each.jobs.write(self._nursery.letter())
        self._see_to(each, each.jobs)
        each.order(Room(self._slots))

    def _feed(self, now: float) -> None:
        each = next((each for each in self._children if each.ready and not each.leaving and not each.recalled), None)
        if each is None:
            return
        # What is being ended elsewhere keeps its slot: no more than so many run at a time.
        has = sum(len(each.sent) for each in self._children)
        window = min(self._slots * self._feeder.window(), self._slots + MOST)
        # Half of what goes beyond the slots is enough for a while: jobs then go out many at a time.
        if has >= self._slots and has > (self._slots + window) / 2:
            return
        room = min(window - has, self._most_jobs - each.ended - len(each.sent))
        if room > 0 and (jobs := self._feeder.admitted(int(room))):
            each.send(jobs, self._lease, now)
            self._see_to(each, each.jobs)
            self._at(now + IDLE)

    def _progress(self, each: Crowd, word: Progress | Moved) -> None:
        assert isinstance(word, Moved)
        host, sent = self._host, each.sent
        for came in word.ended:
            each.running.pop(came.number, None)
            each.ending.pop(came.number, None)
            if (job := sent.pop(came.number, None)) is not None:
                job.ran = came.ran
                each.ended += 1
                self._feeder.learn(came.ran)
                host.done(job, ended(came, job))
        if word.returned:
            self._put_back([sent.pop(number) for number in word.returned if number in sent])
        for number, at in word.begun:
            each.begun = number
            if (begun := sent.get(number)) is not None:
                each.running[number] = begun
                host.began(begun, at)
                if begun.cancelled or begun.lost:
                    each.order(Cancel(number))
        if each.ended + each.busy >= self._most_jobs:
            # It has begun its last one: another takes its place.
            self._let_go(each)
        if each.leaving and not each.running:
            each.gone_at = SYSTEM_CLOCK.monotonic() + FAREWELL
            self._at(each.gone_at)

    # Wishes of the executor

    def interrupt(self, job: Job, error: type[BaseException]) -> None:
        """Raise something in a job that runs."""
        for each in self._children:
            if number := each.number_of(job):
                each.order(Throw(number, error is SoftTimeLimitExceeded))

    def kill(self, job: Job, number: int) -> None:
        """End a job that runs: it has a moment to go by itself, for the sake of all others in its process.

        Whatever the signal: it would be the same for all of them.
        """
        reason = job.verdict.reason if isinstance(job.verdict, Revoked) else ""
        overdue = isinstance(job.verdict, Failed)
        for each in self._children:
            if number := each.number_of(job):
                each.order(End(number, SIGTERM, reason, overdue))
                each.ending.setdefault(number, SYSTEM_CLOCK.monotonic() + LAST_CHANCE)
                self._at(each.ending[number])

    def resize(self, slots: int) -> None:
        """Run so many jobs at a time."""
        self._slots = slots
        for each in self._children:
            each.order(Room(slots))
        self._at(0.0)

    # What is overdue

    def _look_at(self, each: Crowd, now: float) -> None:
        self._look_for_idleness(each, now)
        self._look_for_disobedience(each, now)

    def _look_for_idleness(self, each: Crowd, now: float) -> None:
        """Call back what a child does not begin although it runs nothing: it is frozen, or something blocks it."""
        if each.busy or not each.waiting:
            return
        if not each.recalled and now - each.moved_at >= IDLE:
            self._recall(each)
        if each.recalled and now - each.recalled_at >= SICK:
            logger.error("process %d does nothing, not even answer: it is killed", each.pid)
            each.kill()
        self._at(each.recalled_at + SICK if each.recalled else each.moved_at + IDLE)

    def _look_for_disobedience(self, each: Crowd, now: float) -> None:
        """Kill a child for what was told to end and has not."""
        if not each.ending or each.guilty:
            return
        due = min(each.ending.values())
        if due > now:
            self._at(due)
            return
        # All of them at once: of what was told to end it is decided already what becomes of it.
        each.guilty = frozenset(each.ending)
        names = ", ".join(f"{job.message.task}[{job.message.id}]" for job in map(each.running.__getitem__, each.guilty))
        innocent = each.busy - len(each.guilty)
        logger.error(
            "process %d is killed, for nothing else ends %s; %d other task(s) in it are given back",
            each.pid,
            names,
            innocent,
        )
        each.kill()
        each.gone_at = now + OBEY

    def _bury(self, each: Crowd, how: str) -> None:
        now = SYSTEM_CLOCK.monotonic()
        for number, job in each.running.items():
            del each.sent[number]
            again = not job.acked and job.task.resolved.reject_on_worker_lost
            if each.guilty and number not in each.guilty and again and job.verdict is None:
                # Not put back in the line: it has begun, and who takes it from the broker has it for the first time.
                job.ran = now - job.began
                self._host.done(job, Ended(Released()))
            else:
                self._host.lost(job, how)
