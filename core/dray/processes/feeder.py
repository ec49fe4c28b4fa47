"""Hands jobs to children: each has enough at hand for a moment, and none hoards what another could run."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import ceil, inf
from typing import TYPE_CHECKING

from ..job import Job
from .handle import Single

if TYPE_CHECKING:
    from ..executors import Host

#: Seconds of work that a child may have at hand - long enough for us to come round, whatever the other threads of the
#: worker do - and the most jobs, however short they are.
AHEAD, MOST = 0.01, 512
#: Weight of what was just seen in the running average of durations.
LEARNING = 0.1
#: Seconds that a job has run when what waits behind it is called back, and no more is handed to its child.
STUCK = 0.02


class Feeder:
    """Takes from the front of a line. One thread."""

    def __init__(self, host: Host, line: deque[Job], lease: float, most_jobs: int | None) -> None:
        """Lease 0: messages are not lent. `most_jobs`: of one child, in all its life."""
        self._host = host
        self._line = line
        self._lease = lease
        self.most_jobs = inf if most_jobs is None else most_jobs
        #: Running average of how long a job takes (seconds); None: nobody knows yet.
        self._duration: float | None = None

    def learn(self, ran: float) -> None:
        """Take note how long a job has run."""
        self._duration = ran if self._duration is None else self._duration + LEARNING * (ran - self._duration)

    def feed(self, children: Sequence[Single], slots: int, now: float) -> list[Single]:
        """Hand out what may begin, to those first who have least to do; return who got something."""
        window = self.window()
        # One that takes the place of another waits until that one is done.
        free = slots - sum(1 for each in children if each.sent)
        hungry = []
        for each in sorted(children, key=lambda each: len(each.sent)):
            idle = not each.sent
            if (room := self._room(each, window, now)) > 0 and (free > 0 or not idle):
                free -= idle
                hungry.append((each, room))
        fed = []
        for position, (each, room) in enumerate(hungry):
            share = ceil(len(self._line) / (len(hungry) - position))
            if jobs := self.admitted(min(room, share)):
                each.send(jobs, self._lease, now)
                fed.append(each)
        return fed

    def window(self) -> int:
        """Return how many jobs a child may have at hand that runs them one by one."""
        if self._duration is None:
            return 1
        return 1 + (min(MOST - 1, int(AHEAD / self._duration)) if self._duration > 0 else MOST - 1)

    def admitted(self, count: int) -> list[Job]:
        """Take up to so many jobs out of the line that may begin; settle those that may not."""
        jobs: list[Job] = []
        while len(jobs) < count and self._line:
            job = self._line.popleft()
            refused = self._host.admit(job)
            if refused is None:
                jobs.append(job)
            else:
                self._host.done(job, refused)
        return jobs

    def _room(self, each: Single, window: int, now: float) -> int:
        has = len(each.sent)
        # Half of it is enough for a while: jobs then go out many at a time.
        if not each.ready or each.leaving or each.recalled or has > window / 2:
            return 0
        if each.current and now - each.began_at > STUCK:
            return 0
        return int(min(window - has, self.most_jobs - each.ended - has))
