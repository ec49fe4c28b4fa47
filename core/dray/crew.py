"""The crew: the executors of one worker, what they may begin, and what becomes of jobs that are ended from outside.

Which executor runs what is decided once, when the worker starts: one for `def` tasks, and for `async def` tasks either
the same one or another.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from signal import Signals
from typing import TYPE_CHECKING, Any, NamedTuple

from . import signalling, signals
from .deadlines import Deadlines, over_limit
from .errors import ConfigurationError, SoftTimeLimitExceeded, WorkerLost
from .execution import Execution
from .executors import Executor
from .hookspecs import Event
from .interrupts import Interrupted
from .job import Ended, Job
from .outcome import Expired, Failed, Outcome, Rejected, Released, Requeued, Revoked
from .processors import processors
from .report import Kept
from .triage import Triage, told

if TYPE_CHECKING:
    from .app import Dray

logger = logging.getLogger("dray.worker")

#: Seconds for which a task that killed its process stays away, for each time it has done so.
AGAIN_AFTER = 0.5
#: How many such tasks are remembered, for brokers that do not count.
MOST_DEATHS = 1000
#: What ends a process for certain, where there is such a signal.
SIGKILL = 9


class Lane(NamedTuple):
    """What one kind of tasks runs on, and how many of them at a time."""

    pool: str
    kind: type[Executor]
    slots: int

    def resized(self, slots: int) -> Lane:
        """Return the same with so many slots; raise `ConfigurationError` for what cannot be."""
        most = self.kind.most_slots
        if slots < 1 or (most is not None and slots > most):
            bounds = "at least 1 task" if most is None else f"{most} task(s), no more and no less,"
            raise ConfigurationError(f"the pool {self.pool!r} runs {bounds} at a time; asked for {slots}")
        return self._replace(slots=slots)


def lanes(
    app: Dray, pool: str | None, async_pool: str | None, concurrency: int | None, async_concurrency: int | None
) -> dict[str, Lane]:
    """Return what tasks run on, by their kind: "def", and "async" if that is another executor.

    What is None comes from the settings. Raises `ConfigurationError` for what does not go together.
    """
    conf = app.conf
    pool, concurrency = pool or conf.worker_pool, concurrency or conf.worker_concurrency
    kind: type[Executor] = app.plugins.find("executors", pool)
    if "def" not in kind.runs:
        # A pool for `async def` tasks was chosen for everything: its slots are what was asked for, and `def` tasks,
        # which would stop its loop, go to threads.
        async_pool, async_concurrency, concurrency = pool, concurrency or async_concurrency, None
        pool, kind = "threads", app.plugins.find("executors", "threads")
    slots = concurrency or kind.default_slots(processors())
    chosen = {"def": Lane(pool, kind, min(slots, kind.most_slots or slots))}
    async_pool = async_pool or conf.worker_async_pool or (pool if "async" in kind.runs else "loop")
    if async_pool != pool or "async" not in kind.runs:
        other: type[Executor] = app.plugins.find("executors", async_pool)
        if "async" not in other.runs:
            raise ConfigurationError(
                f"the pool {async_pool!r} runs no `async def` tasks: leave worker_async_pool out, or say 'loop'"
            )
        if other.needs_main_thread:
            raise ConfigurationError(
                f"the pool {async_pool!r} needs the main thread: choose it for all tasks, worker_pool = {async_pool!r}"
            )
        chosen["async"] = Lane(async_pool, other, async_concurrency or conf.worker_async_concurrency)
    return chosen


class Crew:
    """Runs the jobs of one worker; the `Host` of its executors.

    `jobs` is the worker's table of what it holds, by receipt; `settle` takes what a job came to.
    """

    def __init__(
        self,
        app: Dray,
        name: str,
        lanes: Mapping[str, Lane],
        lease: float,
        jobs: Mapping[Any, Job],
        settle: Callable[[Job, Ended], None],
        note: Callable[[Kept], None],
        fail: Callable[[BaseException], None],
        prepare_child: tuple[str, tuple[Any, ...]] | None,
    ) -> None:
        self.app = app
        self.name = name
        self.lease = lease
        self.prepare_child = prepare_child
        self.execution = Execution(app, name, note)
        self.triage = Triage(app, self.execution)
        self._lanes = dict(lanes)
        self._jobs = jobs
        self._settle = settle
        self._note = note
        self._fail = fail
        self._executors: dict[str, Executor] = {}
        self._deadlines = Deadlines(app.clock, jobs, self._warn, self._end, self._give_up)
        #: Held by whoever says what a job came to that is ended from outside.
        self._judging = threading.Lock()
        #: How often tasks have ended a process of this worker, by their ids, the last ones.
        self._deaths: dict[str, int] = {}
        self._pid = os.getpid()
        self._monotonic = app.clock.monotonic
        #: How many tasks could not be ended at their limit, and go on running unheard.
        self.runaways = 0

    # What the worker asks

    def start(self) -> None:
        """Start those executors that need time to get ready, or the main thread."""
        self._deadlines.start()
        for kind in {self.lane(kind) for kind in ("def", "async")}:
            if self._lanes[kind].kind.eager:
                self._executor(kind)

    def lane(self, kind: str) -> str:
        """Return the lane that tasks of this kind, "def" or "async", run in: "def" where one executor runs both."""
        return kind if kind in self._lanes else "def"

    @property
    def isolates(self) -> bool:
        """Whether a `def` task that ends its process takes no other one along."""
        return self._lanes["def"].kind.isolates

    @property
    def slots(self) -> int:
        """How many `def` tasks can run at a time."""
        return self._lanes["def"].slots

    def submit(self, kind: str, jobs: Sequence[Job]) -> None:
        """Have jobs of one lane run."""
        self.execution.attend()
        self.execution.received(jobs)
        self._deadlines.expect(jobs)
        self._executor(kind).submit(jobs)

    def drain(self, kind: str | None = None) -> list[Job]:
        """Take back what has not begun, in one lane or in all."""
        chosen = [self._executors[kind]] if kind in self._executors else [] if kind else [*self._executors.values()]
        return [job for executor in chosen for job in executor.drain()]

    def resize(self, kind: str, slots: int) -> None:
        """Run so many jobs of a lane at a time from now on."""
        lane = self._lanes[kind] = self._lanes[kind].resized(slots)
        if kind in self._executors:
            self._executors[kind].resize(lane.slots)

    def stacks(self) -> list[str]:
        """Return what the executors run outside the threads of this process, and where it is."""
        return [stack for executor in list(self._executors.values()) for stack in executor.stacks()]

    def serve(self, until: threading.Event) -> None:
        """Lend this thread, the main one, to the executor that needs it."""
        for executor in self._executors.values():
            if executor.needs_main_thread:
                executor.serve(until)

    def stop(self) -> None:
        """Let go of the executors; what still runs is abandoned."""
        self._deadlines.stop()
        for executor in self._executors.values():
            executor.stop()

    def _executor(self, kind: str) -> Executor:
        """Return the executor of a lane, started when it is needed first."""
        found = self._executors.get(kind)
        if found is None:
            lane = self._lanes[kind]
            found = lane.kind(lane.slots)
            found.start(self)
            self._executors[kind] = found
            # Resized while it was started: whoever did that has not seen it yet.
            if self._lanes[kind].slots != found.slots:
                found.resize(self._lanes[kind].slots)
        return found

    # On the executors' threads (`Host`)

    def run(self, job: Job) -> Ended:
        now = self._monotonic()
        if (refused := self._refused(job, now)) is not None:
            return refused
        job.began = now
        try:
            ended = self.execution.run(job)
        except BaseException as error:
            ended = self._survived(job, error)
        if os.getpid() != self._pid:
            # The task has forked, and its child has come back: a copy without the worker's other threads. Whatever it
            # did next, it would do with the parent's connections.
            os._exit(1)
        job.ran = self._monotonic() - job.began
        return ended

    async def arun(self, job: Job) -> Ended:
        now = self._monotonic()
        if (refused := self._refused(job, now)) is not None:
            return refused
        job.began = now
        try:
            ended = await self.execution.arun(job)
        except BaseException as error:
            ended = self._survived(job, error)
        job.ran = self._monotonic() - job.began
        return ended

    def admit(self, job: Job) -> Ended | None:
        return self._refused(job, self._monotonic())

    def _refused(self, job: Job, now: float) -> Ended | None:
        """Say once more, in the last moment, whether the job may begin."""
        if job.lost or job.stopping:
            return released(job)
        if job.cancelled:
            return self.triage.unrun(job, Revoked())
        expires = job.message.expires
        if expires is not None and expires <= self.app.clock.time():
            return self.triage.unrun(job, Expired())
        if not job.acked and job.lease_until - now < self.lease / 2 and self.app.broker.capabilities.lease:
            # The process was frozen, or the keeper starved: before the job ends, someone else may have it.
            return Ended(Released())
        return None

    def began(self, job: Job, at: float) -> None:
        job.began = at
        self._deadlines.expect((job,))

    def done(self, job: Job, ended: Ended) -> None:
        if job.verdict is not None or job.stopping:
            # The job itself and whoever ends it may both come now: the first one has the say.
            with self._judging:
                if job.closed:
                    return
                job.closed = True
            if job.verdict is not None and not _same(ended.outcome, job.verdict):
                ended = self._judged(job, job.verdict)
        job.closed = True
        if job.delivery.receipt in self._jobs:
            self._settle(job, ended)

    def lost(self, job: Job, how: str) -> None:
        job.ran = self.app.clock.monotonic() - job.began
        if job.verdict is None:
            logger.error("%s[%s]: its process died: %s", job.message.task, job.message.id, how)
            self.app.notify("task-worker-lost", job.message, self.name, reason=how)
        self.done(job, self._judged(job, job.verdict or self._after_death(job, how)))

    def note(self, state: Kept) -> None:
        self._note(state)

    def happened(self, event: Event) -> None:
        self.app.tell(event)

    def failed(self, error: BaseException) -> None:
        self._fail(error)

    # Jobs that are ended from outside

    def revoke(self, job: Job, signal: int | None) -> None:
        """Cancel a job; with a signal, end it if it runs, by force where that is possible."""
        told_already = job.cancelled
        job.cancel()
        if not job.began or job.closed:
            return
        executor = self._executors[job.kind]
        if signal is None:
            if not told_already:
                executor.cancel(job)
        elif job.verdict is None:
            job.verdict = Revoked(f"terminated while it ran ({_signal_name(signal)})", signal)
            self._force(job, signal)

    def interrupt(self, job: Job) -> None:
        """Tell a job that nothing it comes to will be written: its loan is over."""
        if job.kind in self._executors:
            self._executors[job.kind].cancel(job)

    def end_for_stop(self, job: Job) -> bool:
        """Have a job end because the worker stops; return whether it will come to something soon."""
        executor = self._executors[job.kind]
        if executor.kill(job, SIGKILL):
            return True
        executor.cancel(job)
        return job.task.is_async

    def _warn(self, job: Job) -> None:
        """Tell a job that its soft limit is reached."""
        self._executors[job.kind].interrupt(job, SoftTimeLimitExceeded)

    def _end(self, job: Job) -> None:
        """End a job at its hard limit."""
        job.verdict = over_limit(job)
        self._force(job, SIGKILL)

    def _force(self, job: Job, signal: int) -> None:
        # In this order: what has no end soon is given up, even if the attempt to end it raises.
        self._deadlines.ending(job)
        executor = self._executors[job.kind]
        if not executor.kill(job, signal):
            executor.interrupt(job, Interrupted)

    def _give_up(self, job: Job) -> None:
        """Say what became of a job that goes on although it was told to end. What it comes to is not heard."""
        assert job.verdict is not None
        self.runaways += 1
        logger.error(
            "%s[%s] cannot be ended: it goes on running, unheard, beside other tasks (%d such by now). Only a process "
            "can be ended for certain: `--pool processes`",
            job.message.task,
            job.message.id,
            self.runaways,
        )
        self.app.notify("task-runaway", job.message, self.name, runaways=self.runaways)
        self._executors[job.kind].abandon(job)
        self.done(job, self._judged(job, job.verdict))

    def _judged(self, job: Job, outcome: Outcome) -> Ended:
        clock = self.app.clock
        return self.execution.judged(job, outcome, clock.time() - (clock.monotonic() - job.began))

    def _after_death(self, job: Job, how: str) -> Outcome:
        """Say what becomes of a job whose process died under it."""
        own, id = job.task.resolved, job.message.id
        if job.stopping:
            return Released()
        if job.acked or not own.reject_on_worker_lost:
            return Failed(WorkerLost(f"its process died: {how}"), own.dead_letter)
        # The broker counts deliveries, where it can; this worker counts what it has seen itself.
        deaths = self._deaths.pop(id, 0) + 1
        count = max(deaths, job.delivery.delivery_count if self.app.broker.capabilities.delivery_count else 0)
        if count >= own.max_deliveries:
            return Rejected(f"worker died: {how}; {count} time(s), max_deliveries is {own.max_deliveries}")
        self._deaths[id] = deaths
        while len(self._deaths) > MOST_DEATHS:
            del self._deaths[next(iter(self._deaths))]
        # Behind what is waiting, and not at once: others get their turn even if they are few.
        return Requeued(min(AGAIN_AFTER * count, self.app.broker.capabilities.max_delay))

    def _survived(self, job: Job, error: BaseException) -> Ended:
        """Say what becomes of a job whose run broke the promise never to raise: it costs one message, not a thread."""
        if job.verdict is not None:
            return self._judged(job, job.verdict)
        if isinstance(error, asyncio.CancelledError) and (job.stopping or job.lost):
            return Ended(Released())
        if isinstance(error, asyncio.CancelledError) and job.cancelled:
            return self.triage.unrun(job, Revoked("revoked while it ran"))
        logger.error("%s[%s]: what it came to is lost", job.message.task, job.message.id, exc_info=error)
        if signals.task_internal_error.receivers and job.context is not None:
            signalling.went_wrong(job.context, error)
        return self.triage.unrun(job, Rejected(f"it ran, and what it came to cannot be told: {told(error)}"))


def released(job: Job) -> Ended:
    """Return what a job comes to that is given back without having begun."""
    if not job.acked or job.began:
        return Ended(Released())
    # What was acked before it began has left the broker: only sending it again keeps it from being lost. As another
    # attempt, for this one is remembered as done.
    return Ended(Released(), None, (job.message.but(handed_back=job.message.handed_back + 1),))


def _same(outcome: Outcome, verdict: Outcome) -> bool:
    """Return whether a run came to what was decided, be it with more to tell (a traceback)."""
    if isinstance(outcome, Failed) and isinstance(verdict, Failed):
        return outcome.error is verdict.error
    return outcome is verdict


def _signal_name(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"
