"""A child of the pool: runs one job after the other in its main thread, and says so.

jobs read -> claimed -> "it begins now, and the one before came to this" -> run as in any worker -> ...

Its other thread (orders.py) hears the worker; what the two share are `Claims`.
"""

from __future__ import annotations

import asyncio
import atexit
import faulthandler
import logging
import os
import select
import signal
import sys
from collections import deque
from collections.abc import Callable
from functools import cached_property
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from ..crew import Crew
from ..epitaphs import epitaph
from ..hookspecs import Event
from ..job import Ended, Job
from ..message import Delivery
from ..outcome import Failed, Rejected, Released, Requeued
from ..report import Failure, Kept
from ..task import Task
from . import birth as born
from .birth import Birth
from .frames import READ, Broken, Came, Cutter, Leaving, Note, Progress, Ready, Run, Told, framed, read_runs
from .link import Link
from .orders import Claims, Orders

if TYPE_CHECKING:
    from ..app import Dray

logger = logging.getLogger("dray.worker")

#: Seconds between two looks at how large the process is.
MEASURE = 0.1
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
    try:
        child = Child(told, _app(told, app), claims, link, jobs, rearm=hearing.arm)
        child.get_ready()
    except BaseException as error:
        failure = Failure.of(error)
        link.say(Broken(f"{failure.qualname}: {failure.text}"))
        logger.error("a process of the pool cannot begin: %s", failure.text, exc_info=error)
        os._exit(UNFIT)
    try:
        child.work()
    except BaseException:
        # A signal handler that a task has left behind, for one. What was running is known to the worker.
        logger.critical("a process of the pool ends, something was raised in it outside of any task", exc_info=True)
        os._exit(UNFIT)
    child.leave()


def _app(told: Birth, app: Dray | None) -> Dray:
    if app is None:
        app = born.found(told)
        if told.prepare is not None:
            born.call(told.prepare)
    app.connections.known = told.capabilities
    app.load_tasks()
    return app


class Child:
    """Runs the jobs that come down a pipe, until it is closed. One thread."""

    def __init__(
        self, told: Birth, app: Dray, claims: Claims, link: Link, jobs: int, rearm: Callable[[], None]
    ) -> None:
        self._told = told
        self._app = app
        self._claims = claims
        self._link = link
        self._jobs = jobs
        os.set_blocking(jobs, False)
        self._rearm = rearm
        self._pid = os.getpid()
        self._cutter = Cutter()
        self._line: deque[Run] = deque()
        # What runs a job in a worker's thread runs it here. It need not look whether a job may begin: that was done.
        self._crew = Crew(
            app, told.worker, {}, 0.0, {}, settle=_nowhere, note=self._note, fail=_nowhere, prepare_child=None
        )
        #: What the worker does not know yet.
        self._ended: list[Came] = []
        self._returned: list[int] = []
        self._measured = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    def get_ready(self) -> None:
        """Do what tasks rely on. Raises whatever the functions raise that are called for it."""
        if self._told.listening:
            self._app.teller = self._tell
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                # What a task has printed shall not be lost with its process.
                stream.reconfigure(line_buffering=True)
        try:
            faulthandler.register(signal.SIGUSR1, all_threads=True)
        except (AttributeError, ValueError, OSError):
            pass  # no stderr
        self._announce("worker-process-init")
        self._link.say(Ready())

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
        try:
            self._announce("worker-process-shutdown")
        except BaseException:
            logger.exception("a function for worker-process-shutdown raised")
        if self._loop is not None:
            self._loop.close()
        self._app.close()
        # Before 3.13 not every start method does this.
        atexit._run_exitfuncs()

    def _announce(self, type: str) -> None:
        """Tell of this process, here: whoever listens wants to do something in it."""
        app = self._app
        event = Event(type=type, at=app.clock.time(), worker=self._told.worker, details={"pid": self._pid})
        app.plugins.observe("event", event=event)
        for function in app.listeners(type):
            function(event)

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
        return bool(data)

    def _one(self, run: Run) -> bool:
        """Run a job, if it may still begin; return whether it did."""
        job = self._job(run)
        refused = self._claims.claim(run.number, job)
        if refused:
            if refused == "returned":
                self._returned.append(run.number)
            return False
        at = self._app.clock.monotonic()
        if at > run.begin_by:
            # This process was frozen, or stood behind a long task: before the job ends, someone else may have it.
            self._claims.release()
            self._returned.append(run.number)
            return False
        # Killed before this, it has not begun. Killed after it, this job is the one, and no other.
        self._report(run.number, at)
        ended = self._run(job)
        self._claims.release()
        self._ended.append(self._came(run.number, job, ended))
        return True

    def _job(self, run: Run) -> Job:
        message = run.message
        delivery = Delivery(id=message.id, queue=run.queue, body=b"", receipt=None, delivery_count=run.delivery_count)
        # Whether the loan lasts is the worker's business from here on.
        return Job(delivery, message, self._app.tasks.get(message.task, self._no_task), float("inf"))

    def _run(self, job: Job) -> Ended:
        if job.task is self._no_task:
            reason = f"unknown task {job.message.task!r}: the worker has it, its child processes have not"
            return self._crew.triage.unrun(job, Rejected(f"{reason}; is it declared when its module is imported?"))
        if not job.task.is_async:
            return self._crew.run(job)
        ended = self._run_coroutine(job)
        if os.getpid() != self._pid:
            os._exit(1)  # the task has forked, and its child has come back
        return ended

    def _run_coroutine(self, job: Job) -> Ended:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        # Again each time: a `def` task may have used `asyncio.run`.
        asyncio.set_event_loop(self._loop)
        running = self._claims.coroutine = self._loop.create_task(self._crew.arun(job))
        while not running.done():
            try:
                self._loop.run_until_complete(running)
            except BaseException:
                # SystemExit in a task that a user's coroutine has started. The loop itself can go on.
                logger.exception("something on the event loop tried to end it")
        ended: Ended = running.result()
        return ended

    def _came(self, number: int, job: Job, ended: Ended) -> Came:
        fate, delay, reason = "done", 0.0, ""
        match ended.outcome:
            case Failed(error, True, traceback):
                fate, reason = "rejected", epitaph(Failure.of(error, traceback))
            case Rejected(why):
                fate, reason = "rejected", why
            case Requeued(seconds):
                fate, delay = "requeued", seconds
            case Released():
                fate = "released"
        if job.verdict is not None and ended.outcome is job.verdict:
            fate = "judged"
        # Written already, each argument in its payload; as they were they might not be writable.
        followups = tuple(message.but(args=(), kwargs={}) for message in ended.followups)
        return Came(number, job.ran or 0.0, fate, delay, reason, ended.report, followups)

    def _report(self, begun: int, at: float) -> None:
        """Say what has happened, in one frame, if anything has."""
        ended, returned = self._ended, self._returned
        if not begun and not ended and not returned:
            return
        self._ended, self._returned = [], []
        try:
            frame = framed(Progress(ended, returned, begun, at))
        except Exception as error:
            # What was returned, raised or sent is data by now; headers of a task's own making may be none.
            why = f"what it came to cannot be handed to the worker: {type(error).__name__}: {error}"
            logger.error("%s", why)
            lost = [Came(came.number, came.ran, "rejected", 0.0, why, None, ()) for came in ended]
            frame = framed(Progress(lost, returned, begun, at))
        self._link.write(frame)

    def _tell(self, event: Event) -> None:
        try:
            self._link.say(Told(event))
        except Exception:
            # A text that is none, a number too large: what one plugin does not hear must not fail the task.
            logger.exception("an event cannot be handed to the worker: %s", event.type)

    def _note(self, state: Kept) -> None:
        self._link.say(Note(state))

    def _too_large(self) -> bool:
        """Return whether this process is larger than it may be; then everything it has is taken back."""
        most, now = self._told.max_memory, self._app.clock.monotonic()
        if most is None or now - self._measured < MEASURE:
            return False
        self._measured, size = now, resident()
        if size <= most:
            return False
        self._claims.recall()
        self._report(0, 0.0)
        self._link.say(Leaving(size))
        return True

    @cached_property
    def _no_task(self) -> Task[..., None]:
        return Task(self._app, lambda: None, {"name": "(none)"})


def resident() -> int:
    """Return the resident memory of this process (bytes); where nobody tells, the most it ever was."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _nowhere(*_: object) -> None:
    """Take what nobody calls for here."""
