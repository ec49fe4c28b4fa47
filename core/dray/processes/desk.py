"""What every child of a pool has, however it runs its jobs: unpacks them, and puts in words what they came to.

Used by the main thread of a child, or by the greenlets that share it.
"""

from __future__ import annotations

import atexit
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .. import signals
from ..crew import Crew
from ..epitaphs import epitaph
from ..garbage import settle_down
from ..hookspecs import Event
from ..job import Ended, Job
from ..message import Delivery
from ..outcome import Failed, Rejected, Released, Requeued
from ..report import Failure, Kept
from ..task import Task
from .birth import Birth
from .frames import Came, Note, Ready, Run, Told, framed
from .link import Link

if TYPE_CHECKING:
    from ..app import Dray

logger = logging.getLogger("dray.worker")

#: Seconds between two looks at how large the process is.
MEASURE = 0.1


class Desk:
    """Unpacks and runs the jobs of one child, and writes to its worker what they come to."""

    def __init__(self, told: Birth, app: Dray, link: Link) -> None:
        self.app = app
        self._told = told
        self._link = link
        # What runs a job in a worker's thread runs it here. It need not look whether a job may begin: that was done.
        self.crew = Crew(
            app, told.worker, {}, 0.0, {}, settle=_nowhere, note=self._note, fail=_nowhere, prepare_child=None
        )
        self._measured = 0.0

    def get_ready(self) -> None:
        """Do what tasks rely on. Raises whatever the functions raise that are called for it."""
        if self._told.listening:
            self.app.teller = self._tell
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                # What a task has printed shall not be lost with its process.
                stream.reconfigure(line_buffering=True)
        try:
            faulthandler.register(signal.SIGUSR1, all_threads=True)
        except (AttributeError, ValueError, OSError):
            pass  # no stderr
        self._announce("worker-process-init")
        settle_down()
        self._link.say(Ready())

    def leave(self) -> None:
        """Let go of everything, in order."""
        try:
            self._announce("worker-process-shutdown")
        except BaseException:
            logger.exception("a function for worker-process-shutdown raised")
        self.app.close()
        # Before 3.13 not every start method does this.
        atexit._run_exitfuncs()

    def attend(self) -> None:
        """Look what does not change for every job. Called when some have come."""
        self.crew.execution.attend()

    def job(self, run: Run) -> Job:
        """Return a job as the execution needs it."""
        message = run.message
        delivery = Delivery(id=message.id, queue=run.queue, body=b"", receipt=None, delivery_count=run.delivery_count)
        # Whether the loan lasts is the worker's business from here on.
        return Job(delivery, message, self.app.tasks.get(message.task, self._no_task), float("inf"))

    def run(self, job: Job) -> Ended:
        """Run a job of a `def` task, or of one that is not known here."""
        if self.is_unknown(job):
            reason = f"unknown task {job.message.task!r}: the worker has it, its child processes have not"
            return self.crew.triage.unrun(job, Rejected(f"{reason}; is it declared when its module is imported?"))
        return self.crew.run(job)

    def came(self, number: int, job: Job, ended: Ended) -> Came:
        """Return what a job came to, as far as the worker has to know."""
        fate, delay, reason = "done", 0.0, ""
        match ended.outcome:
            case Failed(error, _, traceback) if isinstance(job.verdict, Failed) and job.verdict.error is error:
                fate, reason = "judged", traceback
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
        return Came(number, job.ran or 0.0, fate, delay, reason, ended.report, followups, ended.onward)

    def say(self, ended: list[Came], around: Callable[[list[Came]], Any]) -> None:
        """Write a frame that is made `around` what some jobs came to."""
        try:
            frame = framed(around(ended))
        except Exception as error:
            # What was returned, raised or sent is data by now; headers of a task's own making may be none.
            why = f"what it came to cannot be handed to the worker: {type(error).__name__}: {error}"
            logger.error("%s", why)
            frame = framed(around([Came(came.number, came.ran, "rejected", 0.0, why, None, ()) for came in ended]))
        self._link.write(frame)

    def outgrown(self) -> int:
        """Return the size of this process (bytes) if it is larger than it may be, otherwise 0. Looks now and then."""
        most, now = self._told.max_memory, self.app.clock.monotonic()
        if most is None or now - self._measured < MEASURE:
            return 0
        self._measured, size = now, resident()
        return size if size > most else 0

    def is_unknown(self, job: Job) -> bool:
        """Return whether the worker knows a task that this process does not."""
        return job.task is self._no_task

    def _announce(self, type: str) -> None:
        """Tell of this process, here: whoever listens wants to do something in it."""
        app = self.app
        event = Event(type=type, at=app.clock.time(), worker=self._told.worker, details={"pid": os.getpid()})
        app.plugins.observe("event", event=event)
        for function in app.listeners(type):
            function(event)
        if type == "worker-process-init":
            signals.worker_process_init.send(sender=self._told.worker)
        else:
            signals.worker_process_shutdown.send(sender=self._told.worker, pid=os.getpid(), exitcode=0)

    def _tell(self, event: Event) -> None:
        try:
            self._link.say(Told(event))
        except Exception:
            # A text that is none, a number too large: what one plugin does not hear must not fail the task.
            logger.exception("an event cannot be handed to the worker: %s", event.type)

    def _note(self, state: Kept) -> None:
        self._link.say(Note(state))

    @cached_property
    def _no_task(self) -> Task[..., None]:
        return Task(self.app, lambda: None, {"name": "(none)"})


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
