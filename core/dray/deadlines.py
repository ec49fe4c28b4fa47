"""Time limits: one thread that watches how long the jobs of a worker run. It does no I/O and runs no user code.

A job begins unnoticed here; what is known beforehand is the shortest limit of those that wait for a slot. So the thread
looks often enough that none can begin and exceed its limit between two looks, and sleeps while nothing can.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .clock import Clock
from .errors import TimeLimitExceeded
from .job import Job
from .outcome import Failed

logger = logging.getLogger("dray.worker")

#: Seconds between two looks while anything is held: most, and, however short a limit is, fewest.
LOOK, SHORTEST = 1.0, 0.002
#: Seconds that a job has for its end once it was told to end: after that it is given up.
LAST_CHANCE = 3.0


class Deadlines:
    """Watches the jobs of one worker's table; calls `warn` at the soft limit, `end` at the hard one, each once.

    And `give_up` when a job has not ended `LAST_CHANCE` seconds after `ending` was called for it.
    """

    def __init__(
        self,
        clock: Clock,
        jobs: Mapping[Any, Job],
        warn: Callable[[Job], None],
        end: Callable[[Job], None],
        give_up: Callable[[Job], None],
    ) -> None:
        self._clock = clock
        self._jobs = jobs
        self._warn = warn
        self._end = end
        self._give_up = give_up
        self._warned: set[Job] = set()
        #: When (monotonic) those that were told to end are given up.
        self._ending: dict[Job, float] = {}
        self._bell = threading.Event()
        self._stopping = False
        #: How long the thread sleeps now, at most.
        self._sleep = math.inf
        self._thread = threading.Thread(target=self._run, name="dray-deadlines", daemon=True)

    def start(self) -> None:
        """Begin watching."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching: from now on limits are not enforced."""
        self._stopping = True
        self._bell.set()
        self._thread.join(timeout=5)

    def expect(self, jobs: Iterable[Job]) -> None:
        """Take note that jobs are about to begin. Any thread; costs nothing while looks are frequent enough."""
        for job in jobs:
            if job.limit < self._sleep:
                self._bell.set()
                return

    def ending(self, job: Job) -> None:
        """Take note that a job has been told to end, by force or not. Any thread."""
        self._ending[job] = self._clock.monotonic() + LAST_CHANCE
        self._bell.set()

    def _run(self) -> None:
        while True:
            # Before it looks whether to stop: a stop rings between the two, and nobody would hear it.
            self._bell.clear()
            if self._stopping:
                return
            # Whoever expects a job while we look cannot know whether we have seen it: they all ring.
            self._sleep = math.inf
            try:
                self._sleep = self._look()
            except Exception:
                logger.exception("watching the time limits failed; trying again")
                self._sleep = LOOK
            self._clock.wait(self._bell, max(SHORTEST, min(self._sleep, threading.TIMEOUT_MAX)))

    def _look(self) -> float:
        """Do what is due; return in how many seconds something may be."""
        now, next_look = self._clock.monotonic(), math.inf
        for job in list(dict(self._jobs).values()):
            if job.limit == math.inf or job.ran is not None or job.closed:
                continue
            next_look = min(next_look, LOOK, self._due(job, now) if job.began else job.limit)
        for job, last in list(self._ending.items()):
            if job.ran is not None or job.closed:
                del self._ending[job]
            elif last <= now:
                del self._ending[job]
                self._give_up(job)
            else:
                next_look = min(next_look, last - now)
        self._warned = {job for job in self._warned if not job.closed}
        return next_look

    def _due(self, job: Job, now: float) -> float:
        """Warn or end a job if it is time; return the seconds until its next limit."""
        age = now - job.began
        if job.time_limit is not None and job.verdict is None and age >= job.time_limit:
            self._end(job)
            return math.inf
        soft = job.soft_time_limit
        if soft is not None and job not in self._warned:
            if age < soft:
                return soft - age
            self._warned.add(job)
            if job.verdict is None:
                self._warn(job)
        return math.inf if job.time_limit is None or job.verdict is not None else job.time_limit - age


def over_limit(job: Job) -> Failed:
    """Return the verdict on a job that has run for its `time_limit`."""
    limit = f"{job.message.task} ran for longer than its time_limit of {job.time_limit:g} s"
    return Failed(TimeLimitExceeded(limit), job.task.resolved.dead_letter)
