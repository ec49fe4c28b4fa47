"""A child of the pool of processes: runs one job after the other in its main thread, and says so.

jobs read -> claimed -> "it begins now, and the one before came to this" -> run as in any worker -> ...

Its other thread (orders.py) hears the worker; what the two share are `Claims`.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import select
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Protocol

from ..job import Ended, Job
from ..report import Failure
from . import birth as born
from .birth import Birth
from .desk import Desk
from .frames import READ, Broken, Came, Cutter, Leaving, Progress, Run, read_runs
from .link import Link
from .orders import Claims, Orders

if TYPE_CHECKING:
    from ..app import Dray

logger = logging.getLogger("dray.worker")

#: The exit code of a child that cannot work, and has said why.
UNFIT = 4


def main(
    told: Birth, app: Dray | None, ends: tuple[Connection, Connection, Connection], foreign: tuple[int, ...]
) -> None:
    """Be a child: what the pool has its processes call.

    `ends` are those of jobs, orders and reports. When the process was forked off the worker, `app` comes along, and
    `foreign` are the worker's own ends of all such pipes.
    """
    if app is not None:
        atexit._clear()  # what is to be done at the worker's end is not ours to do
    for descriptor in foreign:
        # As long as anybody has the other end of a pipe, nobody is told that the worker is gone.
        os.close(descriptor)
    born.lead_a_group()
    born.die_with_parent(told.parent)
    born.let_the_server_end()
    born.settle_signals(told.mask)
    jobs, orders, reports = (born.private(end) for end in ends)
    claims, link = Claims(), Link(reports)
    hearing = Orders(claims, link, orders)
    hearing.start()

    def ready() -> Child:
        desk = Desk(told, born.loaded(told, app), link)
        child = Child(desk, claims, link, jobs, rearm=hearing.arm)
        desk.get_ready()
        return child

    live(link, ready)


class Lives(Protocol):
    """What runs jobs: `work()` until there will be no more, then `leave()`."""

    def work(self) -> None: ...

    def leave(self) -> None: ...


def live(link: Link, ready: Callable[[], Lives]) -> None:
    """Get ready, work and leave; end the process at once, and say why, where that goes wrong."""
    try:
        child = ready()
    except BaseException as error:
        failure = Failure.of(error)
        link.say(Broken(f"{failure.qualname}: {failure.text}"))
        logger.error("a process of the pool cannot begin: %s", failure.text, exc_info=error)
        os._exit(UNFIT)
    try:
        child.work()
    except BaseException:
        # A signal handler that a task has left behind, or a closed pipe. What was running is known to the worker.
        logger.critical("a process of the pool ends, something was raised in it outside of any task", exc_info=True)
        os._exit(UNFIT)
    child.leave()


class Child:
    """Runs the jobs that come down a pipe, until it is closed. One thread."""

    def __init__(self, desk: Desk, claims: Claims, link: Link, jobs: int, rearm: Callable[[], None]) -> None:
        self._desk = desk
        self._clock = desk.app.clock
        self._claims = claims
        self._link = link
        self._jobs = jobs
        os.set_blocking(jobs, False)
        self._rearm = rearm
        self._pid = os.getpid()
        self._cutter = Cutter()
        self._line: deque[Run] = deque()
        #: What the worker does not know yet.
        self._ended: list[Came] = []
        self._returned: list[int] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def work(self) -> None:
        """Run jobs until there will be no more."""
        while True:
            if not self._line:
                if not self._read():
                    return
            elif self._one(self._line.popleft()) and self._too_large():
                return

    def leave(self) -> None:
        """Let go of everything, in order."""
        self._desk.leave()
        if self._loop is not None:
            self._loop.close()

    def _read(self) -> bool:
        """Take in more jobs, if need be wait for them; return whether there will be any."""
        self._rearm()
        try:
            data = os.read(self._jobs, READ)
        except BlockingIOError:
            self._report(0, 0.0)
            select.select((self._jobs,), (), ())
            return True
        for frame in self._cutter.cut(data):
            self._line.extend(read_runs(frame))
        self._desk.attend()
        return bool(data)

    def _one(self, run: Run) -> bool:
        """Run a job, if it may still begin; return whether it did."""
        job = self._desk.job(run)
        refused = self._claims.claim(run.number, job)
        if refused:
            if refused == "returned":
                self._returned.append(run.number)
            return False
        at = self._clock.monotonic()
        if at > run.begin_by:
            # This process was frozen, or stood behind a long task: before the job ends, someone else may have it.
            self._claims.release()
            self._returned.append(run.number)
            return False
        # Killed before this, it has not begun. Killed after it, this job is the one, and no other.
        self._report(run.number, at)
        ended = self._run(job)
        self._claims.release()
        self._ended.append(self._desk.came(run.number, job, ended))
        return True

    def _run(self, job: Job) -> Ended:
        if not job.task.is_async or self._desk.is_unknown(job):
            return self._desk.run(job)
        ended = self._run_coroutine(job)
        if os.getpid() != self._pid:
            os._exit(1)  # the task has forked, and its child has come back
        return ended

    def _run_coroutine(self, job: Job) -> Ended:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        # Again each time: a `def` task may have used `asyncio.run`.
        asyncio.set_event_loop(self._loop)
        running = self._claims.coroutine = self._loop.create_task(self._desk.crew.arun(job))
        while not running.done():
            try:
                self._loop.run_until_complete(running)
            except BaseException:
                # SystemExit in a task that a user's coroutine has started. The loop itself can go on.
                logger.exception("something on the event loop tried to end it")
        ended: Ended = running.result()
        return ended

    def _report(self, begun: int, at: float) -> None:
        """Say what has happened, in one frame, if anything has."""
        ended, returned = self._ended, self._returned
        if not begun and not ended and not returned:
            return
        self._ended, self._returned = [], []
        self._desk.say(ended, lambda ended: Progress(ended, returned, begun, at))

    def _too_large(self) -> bool:
        """Return whether this process is larger than it may be; then everything it has is taken back."""
        size = self._desk.outgrown()
        if not size:
            return False
        self._claims.recall()
        self._report(0, 0.0)
        self._link.say(Leaving(size))
        return True
