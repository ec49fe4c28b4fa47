"""The worker: the one loop that every broker shares. It borrows messages, has them run, and gives back what is left.

source thread   receive -> unreadable? unknown? revoked? expired? poisoned? (triage.py) -> executors
executors       threads for `def`, a loop for `async def` (executors/): execution.py runs one job
settler thread  what came of it, written in batches (settle.py)
keeper thread   leases renewed, revocations noticed (leases.py)

Between them go only queues; each connection's verbs have one caller each; no lock is held across I/O.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import threading
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import states
from .broker import Consumer
from .credit import Credit
from .errors import (
    BackendError,
    BrokerError,
    BrokerUnavailable,
    ConfigurationError,
)
from .execution import Execution
from .executors import Executor
from .job import Ended, Job
from .leases import Keeper
from .message import Delivery, Message
from .outcome import Expired, Rejected, Released, Revoked
from .report import about, record
from .settle import Settler
from .triage import Triage, told

if TYPE_CHECKING:
    from .app import Dray

logger = logging.getLogger("dray.worker")

#: Seconds one `receive` waits; a stop is noticed within that.
WAIT = 0.2
#: Seconds between two tries to reconnect: the first, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
#: Seconds in which nothing has ended, after which what waits for a slot is given back.
SHARE_AFTER = 1.0
#: Seconds for settling what is left after the grace.
LAST_WORDS = 3.0


class Worker:
    """Runs an app's tasks: in a process of its own (`run`), or inside any other (`start`/`stop`, `with`, `async with`).

    Touches no signal handler, event-loop policy or other global state. What is not given comes from the settings.
    """

    def __init__(
        self,
        app: Dray,
        queues: Sequence[str] | str | None = None,
        *,
        concurrency: int | None = None,
        async_concurrency: int | None = None,
        pool: str | None = None,
        name: str | None = None,
        burst: bool = False,
        lease: float | None = None,
        shutdown_timeout: float | None = None,
    ) -> None:
        conf = app.conf
        self.app = app
        self.name = (name or conf.worker_name or f"{app.name}-{os.getpid()}@%h").replace("%h", socket.gethostname())
        self.burst = burst
        self.pool = pool or conf.worker_pool
        self.concurrency = concurrency or conf.worker_concurrency or default_concurrency()
        self.async_concurrency = async_concurrency or conf.worker_async_concurrency
        self.lease = lease or conf.worker_lease
        self.shutdown_timeout = conf.worker_shutdown_timeout if shutdown_timeout is None else shutdown_timeout
        self._chosen = [queues] if isinstance(queues, str) else list(queues) if queues else None
        self._executor_class = app.plugins.find("executors", self.pool)
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._finished = threading.Event()
        self._failure: BaseException | None = None
        self._source: threading.Thread | None = None
        #: How many deliveries have been taken in by this worker.
        self.received = 0

    @property
    def queues(self) -> list[str]:
        """The queues it takes from, in order: those given, else every queue the settings, routes and tasks name."""
        if self._chosen:
            return self._chosen
        conf = self.app.conf
        named = [*(queue.name for queue in conf.task_queues or ()), conf.task_default_queue]
        named += [self.app.route(name).queue for name in sorted(self.app.tasks)]
        named += [self.app.routes.queue_of(name, task.resolved) for name, task in sorted(self.app.tasks.items())]
        return list(dict.fromkeys(filter(None, named)))

    # Life

    def start(self) -> Worker:
        """Connect and begin; return at once. Raises what connecting raises: a wrong URL is not a silent worker."""
        if self._source is not None:
            raise ConfigurationError("this worker is running already")
        self.app.load_tasks()
        conf, queues = self.app.conf, self.queues
        slots = {"def": self.concurrency, "async": self.async_concurrency}
        for event in (self._stopping, self._hurry, self._finished):
            event.clear()
        self._failure = None
        self._jobs: dict[Any, Job] = {}
        #: Receipts of those jobs in the table that hold no credit any more.
        self._making_room: set[Any] = set()
        self._room, self._idle = threading.Event(), threading.Event()
        #: When (monotonic) a job came or was settled last, and whether to give back what waits behind long tasks.
        self._last_end = self.app.clock.monotonic()
        self._shares = conf.worker_prefetch_multiplier is None
        #: Since when (monotonic) the broker is away, and how long to wait before the next try.
        self._away_since: float | None = None
        self._pause = FIRST_PAUSE
        self._credit = Credit(
            slots,
            queues,
            multiplier=conf.worker_prefetch_multiplier,
            caps=conf.worker_queue_concurrency,
            weights=conf.worker_queue_weights if conf.worker_queue_order == "weighted" else None,
            expected=self._expected(queues),
        )
        self._consumer: Consumer = self.app.broker.consumer(queues, self.lease)
        self._settler = Settler(self.app, lambda: self._consumer, self._settled, self._parked, self.lease)
        self._execution = Execution(self.app, self.name, self._settler.note)
        self._triage = Triage(self.app, self._execution)
        self._executors: dict[str, Executor] = {}
        self._keeper = Keeper(
            self.app, self._jobs, self._settler.settling, lambda: self._consumer, self._interrupt, self.lease
        )
        self._settler.start()
        self._keeper.start()
        self._source = threading.Thread(target=self._serve, name="dray-source", daemon=True)
        self._source.start()
        self.app.notify("worker-online", worker=self.name, queues=queues)
        return self

    def request_stop(self) -> None:
        """Ask it to stop within the grace; asked again, to stop now. Safe in a signal handler."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    def stop(self, timeout: float | None = None) -> None:
        """Stop: give back at once what has not begun, let what runs finish for `timeout` seconds, give back the rest.

        Given back uncharged where the broker can do that. Safe twice; returns when everything is settled.
        """
        source, self._source = self._source, None
        self._stopping.set()
        if source is None:
            return
        self.app.notify("worker-stopping", worker=self.name)
        source.join()
        for executor in self._executors.values():
            self._give_back(executor.drain())
        self._wait_for_running(self.shutdown_timeout if timeout is None else timeout)
        self._abandon_running()
        # Everything has an outcome now. If the broker is away its leases run out, and others take over.
        if not self._settler.close(LAST_WORDS):
            logger.warning("stopped without settling %d message(s); they will be delivered again", len(self._jobs))
        self._keeper.stop()
        for executor in self._executors.values():
            executor.stop()
        try:
            self._consumer.close()
        except BrokerError as error:
            logger.warning("closing the consumer: %s", error)
        self.app.notify("worker-offline", worker=self.name)

    def run(self) -> None:
        """Start, work until `request_stop` is called or (burst) nothing that is due is left, and stop.

        Raises what made the worker itself fail, if anything did; never what a task raised.
        """
        self.start()
        try:
            self._finished.wait()
        finally:
            self.stop(0 if self._hurry.is_set() else None)
        if self._failure is not None:
            raise self._failure

    def run_until_idle(self) -> int:
        """Work in this process until nothing that is due is left; return how many deliveries were taken. For tests."""
        before, burst, self.burst = self.received, self.burst, True
        try:
            self.run()
        finally:
            self.burst = burst
        return self.received - before

    def __enter__(self) -> Worker:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    async def __aenter__(self) -> Worker:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self.stop)

    def _expected(self, queues: Sequence[str]) -> dict[str, str]:
        """Return for each queue the one kind of task ("def" or "async") that it can be told beforehand to bring."""
        kinds: dict[str, set[str]] = {}
        for name, task in self.app.tasks.items():
            queue = self.app.routes.queue_of(name, task.resolved)
            kinds.setdefault(queue, set()).add("async" if task.is_async else "def")
        every = set().union(*kinds.values())
        said = {queue: kinds.get(queue, every) for queue in queues}
        return {queue: next(iter(some)) for queue, some in said.items() if len(some) == 1}

    @property
    def running(self) -> int:
        """How many tasks are running at this moment."""
        return sum(1 for job in dict(self._jobs).values() if job.began and job.ran is None)

    # The source thread

    def _serve(self) -> None:
        try:
            while not self._stopping.is_set():
                self._share()
                self._room.clear()
                queues, limit = self._credit.allow()
                if not queues:
                    self._room.wait(WAIT)
                elif not self._receive(queues, limit) and self.burst and not self._jobs:
                    # Looked after the last job was settled, so whatever that sent is there already.
                    break
        except BaseException as error:
            logger.exception("the worker fails")
            self._failure = error
        self._stopping.set()
        self._finished.set()

    def _receive(self, queues: Sequence[str], limit: int) -> bool:
        """Borrow a batch and hand it on; return whether anything came. Survives any outage of the broker."""
        quiet = not self._jobs
        # Short beside the lease, because the loans are taken to have begun when we asked.
        wait = 0.0 if self.burst else min(WAIT, self.lease / 8)
        try:
            if self._away_since is not None:
                self.app.broker.open()
                if not self._consumer.resume():
                    self._consumer = self.app.broker.consumer(self.queues, self.lease)
            asked = self.app.clock.monotonic()
            limit = min(limit, self.app.broker.capabilities.max_receive_batch)
            deliveries = self._consumer.receive(limit, wait, queues)
        except BrokerError as error:
            # A refusal too (a read-only disk, a right taken away) is something that people repair while we wait.
            self._wait_for_broker(error)
            return True
        self._broker_is_there()
        if not deliveries:
            if self.burst and not quiet:
                # A look that began while jobs were unsettled proves nothing. The bell was silenced before it, so
                # whatever has been settled since ends this wait at once.
                self._room.wait(WAIT)
            return not quiet
        self.received += len(deliveries)
        # Counted from before the call: never later than what the broker counts from.
        self._hand_on(deliveries, asked + self.lease)
        return True

    def _wait_for_broker(self, error: BrokerError) -> None:
        """Say once that the broker is away; then wait before the next try, longer each time."""
        if self._away_since is None:
            self._away_since, self._pause = self.app.clock.monotonic(), FIRST_PAUSE
            level = logging.WARNING if isinstance(error, BrokerUnavailable) else logging.ERROR
            logger.log(level, "broker away: %s; trying to reconnect", error)
            self.app.notify("broker-lost", worker=self.name, reason=str(error))
        self.app.clock.wait(self._stopping, self._pause * random.uniform(0.5, 1.5))
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _broker_is_there(self) -> None:
        """Say that the broker is back, if it was away. Only a receive proves it: connecting alone may be lazy."""
        if self._away_since is not None:
            away, self._away_since = self.app.clock.monotonic() - self._away_since, None
            logger.info("broker back after %.1fs", away)
            self.app.notify("broker-back", worker=self.name, away=away)

    def _share(self) -> None:
        """Give back what waits behind tasks that turned out to be long: another worker may have a slot for it.

        The credit was given when tasks were short; nothing has ended since, so it could not learn better.
        """
        now = self.app.clock.monotonic()
        if not self._jobs or now - self._last_end < SHARE_AFTER or not self._shares:
            return
        can = self.app.broker.capabilities
        if can.delivery_count and not can.release_uncharged:
            # Given back a few times, it would be buried without ever having begun.
            return
        self._last_end = now
        for kind, executor in self._executors.items():
            waiting = executor.drain()
            if waiting:
                self._credit.slower(kind, SHARE_AFTER)
                self._give_back(waiting)

    def _hand_on(self, deliveries: Sequence[Delivery], lease_until: float) -> None:
        # What has just come does not wait behind anything yet, however long nothing has ended.
        self._last_end = self.app.clock.monotonic()
        ready: dict[str, list[Job]] = {}
        early: list[Job] = []
        looked = [self._triage.look(delivery, lease_until) for delivery in deliveries]
        for (queue, kind), count in Counter((job.delivery.queue, job.kind) for job, _ in looked).items():
            self._credit.taken(queue, kind, count)
        for job, outcome in looked:
            self._jobs[job.delivery.receipt] = job
            if outcome is not None:
                self._settler.put(job, self._triage.unrun(job, outcome))
            elif not job.task.resolved.acks_late:
                early.append(job)
            else:
                ready.setdefault(job.kind, []).append(job)
        for job in self._acked(early):
            ready.setdefault(job.kind, []).append(job)
        for kind, jobs in ready.items():
            self._executor(kind).submit(jobs)

    def _acked(self, jobs: Sequence[Job]) -> list[Job]:
        """Ack jobs of at-most-once tasks before they begin; return those that may begin."""
        if not jobs:
            return []
        self._remember([job.message for job in jobs if not job.message.ignore_result])
        try:
            lost = {delivery.receipt for delivery in self._consumer.ack([job.delivery for job in jobs])}
        except BrokerError as error:
            # Acked or not, nobody knows: at most once means that it must not run here now.
            logger.warning("%d at-most-once task(s) given up, acking them first failed: %s", len(jobs), error)
            lost = {job.delivery.receipt for job in jobs}
        for job in jobs:
            job.acked, job.lost = True, job.delivery.receipt in lost
        self._settled([job for job in jobs if job.lost])
        return [job for job in jobs if not job.lost]

    def _remember(self, messages: Sequence[Message]) -> None:
        """Store that these exist: once they are acked, the broker cannot tell a running task from an unknown id."""
        records = [record(self.app, m.id, about(m, states.PENDING), 0, reply_to=m.reply_to) for m in messages]
        try:
            if records:
                self.app.connections.store(records, self.app.conf.result_expires)
        except BackendError as error:
            logger.warning("%d task(s) run unknown to the result backend: %s", len(records), error)

    # On the executors' threads, the settler's and the keeper's

    def _run_job(self, job: Job) -> Ended:
        if (refused := self._refused(job)) is not None:
            return refused
        try:
            ended = self._execution.run(job)
        except BaseException as error:
            ended = self._survived(job, error)
        job.ran = self.app.clock.monotonic() - job.began
        return ended

    async def _arun_job(self, job: Job) -> Ended:
        if (refused := self._refused(job)) is not None:
            return refused
        try:
            ended = await self._execution.arun(job)
        except BaseException as error:
            ended = self._survived(job, error)
        job.ran = self.app.clock.monotonic() - job.began
        return ended

    def _survived(self, job: Job, error: BaseException) -> Ended:
        """Say what becomes of a job whose run broke the promise never to raise: it costs one message, not a thread."""
        if isinstance(error, asyncio.CancelledError) and (job.stopping or job.lost):
            return Ended(Released())
        if isinstance(error, asyncio.CancelledError) and job.cancelled:
            return self._triage.unrun(job, Revoked("revoked while it ran"))
        logger.error("%s[%s]: what it came to is lost", job.message.task, job.message.id, exc_info=error)
        return self._triage.unrun(job, Rejected(f"it ran, and what it came to cannot be told: {told(error)}"))

    def _refused(self, job: Job) -> Ended | None:
        """Say once more, in the last moment, whether the job may begin; and note that it has."""
        now, expires = self.app.clock.monotonic(), job.message.expires
        if job.lost or job.stopping:
            return _released(job)
        if job.cancelled:
            return self._triage.unrun(job, Revoked())
        if expires is not None and expires <= self.app.clock.time():
            return self._triage.unrun(job, Expired())
        if not job.acked and job.lease_until - now < self.lease / 2 and self.app.broker.capabilities.lease:
            # The process was frozen, or the keeper starved: before the job ends, someone else may have it.
            return Ended(Released())
        job.began = now
        return None

    def _done(self, job: Job, ended: Ended) -> None:
        if job.delivery.receipt in self._jobs:
            self._settler.put(job, ended)

    def _settled(self, jobs: Sequence[Job]) -> None:
        self._last_end = self.app.clock.monotonic()
        for job in jobs:
            receipt = job.delivery.receipt
            if self._jobs.pop(receipt, None) is None:
                continue
            if receipt in self._making_room:
                self._making_room.discard(receipt)
            else:
                self._credit.ended(job.delivery.queue, job.kind, job.ran)
        self._room.set()
        if not self._jobs:
            self._idle.set()

    def _parked(self, jobs: Sequence[Job]) -> None:
        """Make room for other work: these have ended, but cannot be settled while the result backend is away."""
        for job in jobs:
            self._making_room.add(job.delivery.receipt)
            self._credit.ended(job.delivery.queue, job.kind, job.ran)
        self._room.set()

    def _interrupt(self, job: Job) -> None:
        executor = self._executors.get(job.kind)
        if executor is not None:
            executor.cancel(job)

    def _executor(self, kind: str) -> Executor:
        """Return the executor for `def` or `async def` tasks, started when its first job comes."""
        found = self._executors.get(kind)
        if found is None:
            if kind == "async":
                found = self.app.plugins.find("executors", "loop")(self.async_concurrency)
                found.start(self._arun_job, self._done)
            else:
                found = self._executor_class(self.concurrency)
                found.start(self._run_job, self._done)
            self._executors[kind] = found
        return found

    # The end

    def _give_back(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._done(job, _released(job))

    def _wait_for_running(self, seconds: float, hurrying: bool = False) -> None:
        """Wait until nothing is held any more, the time is over, or a second request says to hurry."""
        clock = self.app.clock
        end = clock.monotonic() + seconds
        while (hurrying or not self._hurry.is_set()) and (left := end - clock.monotonic()) > 0:
            # The table has the say, for the event may still be set from before the last jobs came.
            self._idle.clear()
            if not self._jobs:
                return
            clock.wait(self._idle, min(left, 0.1))

    def _abandon_running(self) -> None:
        """Give up what still runs: coroutines are cancelled; threads cannot be, their jobs are just given back."""
        left = list(dict(self._jobs).values())
        for job in left:
            job.stopping = True
            self._interrupt(job)
        stuck = [job for job in left if job.began and job.ran is None]
        if stuck:
            names = ", ".join(f"{job.message.task}[{job.message.id}]" for job in stuck[:5])
            logger.warning("%d task(s) did not end in time and are given back: %s", len(stuck), names)
        self._give_back([job for job in stuck if not job.task.is_async and not job.acked])
        if any(job.task.is_async for job in stuck):
            # A cancelled coroutine gets the chance to clean up; what came of it is settled as usual.
            self._wait_for_running(LAST_WORDS, hurrying=True)
            self._give_back([job for job in stuck if job.task.is_async and job.ran is None and not job.acked])

    def __repr__(self) -> str:
        return f"<Worker {self.name}>"


def _released(job: Job) -> Ended:
    if not job.acked or job.began:
        return Ended(Released())
    # What was acked before it began has left the broker: only sending it again keeps it from being lost. As another
    # attempt, for this one is remembered as done.
    return Ended(Released(), None, (job.message.but(handed_back=job.message.handed_back + 1),))


def default_concurrency() -> int:
    """Return how many threads to use when nobody says: one for each processor this process may use, at least four."""
    try:
        processors = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        processors = os.cpu_count() or 1
    return max(4, processors)
