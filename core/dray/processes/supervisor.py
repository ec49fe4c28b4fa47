"""The supervisor of a pool of processes that run one job at a time: feeds them, ends them, says what became of whom."""

from __future__ import annotations

import logging
import signal
from collections import deque
from math import inf
from typing import TYPE_CHECKING

from ..clock import SYSTEM_CLOCK
from ..errors import SoftTimeLimitExceeded
from ..job import Job
from ..outcome import Revoked
from .feeder import STUCK, Feeder
from .frames import Cancel, End, Moved, Progress, Throw
from .handle import Single, ended
from .nursery import Nursery
from .watch import ANSWER, FAREWELL, OBEY, Watch

if TYPE_CHECKING:
    from ..executors import Host

logger = logging.getLogger("dray.worker")

#: Seconds that jobs are with a child that runs nothing, and begins none of them, before they are called back.
IDLE = 2.0
#: Seconds for an answer to that; then a child that runs nothing is taken for dead.
SICK = 5.0
#: Seconds that a job has to end when its task was told to.
LAST_CHANCE = 2.0


class Supervisor(Watch[Single]):
    """Runs the jobs in `line` in as many children as there are slots. What may be called from any thread says so."""

    kind = Single

    def __init__(
        self, host: Host, line: deque[Job], nursery: Nursery, slots: int, *, lease: float, most_jobs: int | None
    ) -> None:
        """Lease 0: messages are not lent. `most_jobs`: of one child, in all its life."""
        super().__init__(host, line, nursery, "processes")
        self._slots = slots
        self._feeder = Feeder(host, line, lease, most_jobs)

    def _wanted(self) -> int:
        return self._slots

    def _feed(self, now: float) -> None:
        for each in self._feeder.feed(self._children, self._slots, now):
            self._see_to(each, each.jobs)
            self._at(now + STUCK)

    def _bury(self, each: Single, how: str) -> None:
        if (lost := each.sent.pop(each.current, None)) is not None:
            self._host.lost(lost, how)

    def _progress(self, each: Single, word: Progress | Moved) -> None:
        assert isinstance(word, Progress)
        host, sent = self._host, each.sent
        for came in word.ended:
            if (job := sent.pop(came.number, None)) is not None:
                job.ran = came.ran
                each.ended += 1
                self._feeder.learn(came.ran)
                host.done(job, ended(came, job))
        if word.returned:
            self._put_back([sent.pop(number) for number in word.returned if number in sent])
        each.current = number = word.begun
        if number:
            each.begun, each.began_at = number, word.at
            self._at(word.at + STUCK)
            if (running := sent.get(number)) is not None:
                host.began(running, word.at)
                if running.cancelled or running.lost:
                    each.order(Cancel(number))
            if each.ended + 1 >= self._feeder.most_jobs and not each.replaced:
                # This is its last one: whoever takes its place can get ready meanwhile.
                each.replaced = True
                self._at(0.0)
        elif each.leaving:
            each.gone_at = SYSTEM_CLOCK.monotonic() + FAREWELL
            self._at(each.gone_at)
        elif each.ended >= self._feeder.most_jobs:
            self._let_go(each)

    # Wishes of the executor

    def interrupt(self, job: Job, error: type[BaseException]) -> None:
        """Raise something in a job that runs."""
        if (each := self._runner(job)) is not None:
            each.order(Throw(each.current, error is SoftTimeLimitExceeded))

    def kill(self, job: Job, number: int) -> None:
        """End a job that runs: its child does, that knows which one it is; or we do, if it cannot."""
        if (each := self._runner(job)) is None:
            return
        reason = job.verdict.reason if isinstance(job.verdict, Revoked) else ""
        each.order(End(each.current, number, reason))
        each.ending, each.by_force = each.current, number == signal.SIGKILL
        each.ending_at = SYSTEM_CLOCK.monotonic() + (OBEY if each.by_force else LAST_CHANCE)
        self._at(each.ending_at)

    def resize(self, slots: int) -> None:
        """Have so many children."""
        self._slots = slots
        staying = self._staying()
        # Those first that are not needed.
        staying.sort(key=lambda each: (each.ready, len(each.sent)))
        for each in staying[: max(0, len(staying) - slots)]:
            self._let_go(each)
        self._at(0.0)

    def _runner(self, job: Job) -> Single | None:
        return next((each for each in self._children if each.running is job), None)

    # What is overdue

    def _look_at(self, each: Single, now: float) -> None:
        self._look_for_idleness(each, now)
        self._look_for_disobedience(each, now)

    def _look_for_idleness(self, each: Single, now: float) -> None:
        """Call back what waits with a child for too long: behind a job that runs, or because it was frozen."""
        if not each.waiting:
            return
        since, most = (each.began_at, STUCK) if each.current else (each.moved_at, IDLE)
        if not each.recalled and now - since >= most:
            self._recall(each)
        if each.recalled and not each.current and now - each.recalled_at >= SICK:
            logger.error("process %d does nothing, not even answer: it is killed", each.pid)
            each.kill()
        self._at(now + ANSWER if each.recalled else since + most)

    def _look_for_disobedience(self, each: Single, now: float) -> None:
        """End a job by force that was told to end, and its child if that does not."""
        if not each.ending:
            return
        if each.ending != each.current:
            each.ending, each.ending_at = 0, inf
        elif each.ending_at <= now and not each.by_force:
            each.order(End(each.ending, signal.SIGKILL, ""))
            each.by_force, each.ending_at = True, now + OBEY
        elif each.ending_at <= now:
            # No thread of it gets to run. Should its job end at this very moment, it is the next one that is charged.
            each.kill()
            each.ending_at = now + OBEY
        self._at(each.ending_at)
