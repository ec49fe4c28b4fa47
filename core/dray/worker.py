"""The worker: the one loop that every broker shares. It borrows messages, has them run, and gives back what is left.

source thread    receive -> unreadable? unknown? revoked? expired? poisoned? (triage.py) -> executors    source.py
executors        threads, a loop, processes (executors/): execution.py runs one job                      crew.py
settler thread   what came of it, written in batches                                                     settle.py
sweeper thread   groups of calls that a dead worker has left behind                                      sweeper.py
keeper thread    leases renewed, revocations noticed                                                     leases.py
deadline thread  time limits                                                                             deadlines.py

Between them go only queues; each connection's verbs have one caller each; no lock is held across I/O. Here they are
put together, started and stopped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from . import signals
from .autoscale import Autoscaler, read_autoscale
from .credit import Credit
from .crew import Crew, lanes, released
from .errors import BrokerError, ConfigurationError
from .heart import Heart
from .job import Job
from .lanes import homes_of, turns_of
from .leases import Keeper
from .settle import Settler
from .source import Source
from .sweeper import Sweeper
from .trimming import Trimmer
from .webhook_options import secrets

if TYPE_CHECKING:
    from .app import Dray

logger = logging.getLogger("dray.worker")

#: Seconds within which the main thread hears a signal that came at an unlucky moment.
HEARS = 0.5
#: Seconds for settling what is left after the grace.
LAST_WORDS = 3.0


class Pulse(NamedTuple):
    """When (monotonic) the threads of a worker last went round; None for one that is not there."""

    #: At most about a second ago while all is well, or as long as the broker takes to answer.
    source: float | None
    #: At most about a second ago, or as long as the broker takes to answer.
    keeper: float | None
    #: Since when the broker has been away; None while it is there.
    away_since: float | None


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
        async_pool: str | None = None,
        name: str | None = None,
        burst: bool = False,
        beat: bool = False,
        lease: float | None = None,
        shutdown_timeout: float | None = None,
    ) -> None:
        conf = app.conf
        self.app = app
        self.name = (name or conf.worker_name or f"{app.name}-{os.getpid()}@%h").replace("%h", socket.gethostname())
        self.burst = burst
        #: Sends tasks on their schedules too, if that was asked for.
        self._scheduler = app.scheduler(name=self.name) if beat else None
        self.lease = lease or conf.worker_lease
        self.shutdown_timeout = conf.worker_shutdown_timeout if shutdown_timeout is None else shutdown_timeout
        self._chosen = [queues] if isinstance(queues, str) else list(queues) if queues else None
        self._lanes = lanes(app, pool, async_pool, concurrency, async_concurrency)
        #: Called in each child of the pool once the app is loaded there: "module:function", and plain arguments.
        self.prepare_child: tuple[str, tuple[Any, ...]] | None = None
        if conf.worker_autoscale:
            read_autoscale(conf.worker_autoscale)
        self._stopping, self._hurry = threading.Event(), threading.Event()
        self._source: Source | None = None
        #: Held by whoever stops it: a second one waits for the first.
        self._ending = threading.Lock()
        #: True while `run` is going on: there is a thread that tasks can be run in.
        self._serves = False
        self._received = 0

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

    @property
    def pool(self) -> str:
        """The name of what `def` tasks run on."""
        return self._lanes["def"].pool

    @property
    def async_pool(self) -> str:
        """The name of what `async def` tasks run on."""
        return self._lanes.get("async", self._lanes["def"]).pool

    @property
    def concurrency(self) -> int:
        """How many `def` tasks run at a time; of `async def` tasks too, where one pool runs both."""
        return self._lanes["def"].slots

    @property
    def async_concurrency(self) -> int:
        """How many `async def` tasks run at a time."""
        return self._lanes.get("async", self._lanes["def"]).slots

    @property
    def _runs_tasks_here(self) -> bool:
        return not all(lane.kind.elsewhere for lane in self._lanes.values())

    # What it is doing. Any thread

    @property
    def received(self) -> int:
        """How many deliveries have been taken in by this worker."""
        return self._received + (self._source.received if self._source is not None else 0)

    @property
    def running(self) -> int:
        """How many tasks are running at this moment."""
        return len(self.running_jobs())

    def jobs(self) -> list[Job]:
        """Return what it holds at this moment: running, waiting for a slot, or not settled yet."""
        # Other threads change the table meanwhile; copying a dict is one step that no other thread can enter.
        return list(dict(self._jobs).values()) if self._source is not None else []

    def _counts(self) -> dict[str, Any]:
        """Return what a heartbeat tells."""
        held, running = self.jobs(), self.running
        return {
            "pid": os.getpid(),
            "queues": list(self.queues),
            "slots": self.concurrency,
            "running": running,
            "waiting": len([job for job in held if not job.began]),
            "received": self.received,
        }

    def running_jobs(self) -> list[Job]:
        """Return what is running at this moment."""
        return [job for job in self.jobs() if job.began and job.ran is None]

    def pulse(self) -> Pulse:
        """Return when its threads last gave a sign of life."""
        source = self._source
        if source is None:
            return Pulse(None, None, None)
        keeper = self._keeper
        return Pulse(
            source.looked if source.alive else None, keeper.looked if keeper.alive else None, source.away_since
        )

    def stacks(self) -> list[str]:
        """Return what runs outside the threads of this process, as text: of each the task, and where it is."""
        return self._crew.stacks() if self._source is not None else []

    # Life

    def start(self) -> Worker:
        """Connect and begin; return at once. Raises what connecting raises: a wrong URL is not a silent worker."""
        self._prepare()
        queues, credit = self._supply()
        jobs = self._jobs = dict[Any, Job]()
        # The parts know each other by what they call; each is made before the first of its calls can come.
        self._settler = Settler(
            self.app,
            lambda: source.consumer,
            lambda jobs: source.settled(jobs),
            lambda jobs: source.parked(jobs),
            self.lease,
        )
        self._sweeper = Sweeper(self.app)
        self._crew = crew = Crew(
            self.app,
            self.name,
            self._lanes,
            self.lease,
            jobs,
            self._settler.put,
            self._settler.note,
            lambda error: source.fail(error),
            self.prepare_child,
        )
        source = Source(self.app, self.name, queues, credit, crew, jobs, crew.done, lease=self.lease, burst=self.burst)
        self._credit = credit
        self._trimmer = Trimmer(self.app, queues)
        self._keeper = Keeper(
            self.app,
            jobs,
            self._settler.settling,
            lambda: source.consumer,
            crew,
            self.lease,
            self._trimmer,
            source.gate,
        )
        asked = self.app.conf.worker_autoscale
        self._autoscaler = Autoscaler(self, asked) if asked else None
        self._heart = Heart(self.app, self.name, self._counts)
        try:
            crew.start()
            source.start()
        except BaseException:
            crew.stop()
            raise
        self._source = source
        self._settler.start()
        self._sweeper.start()
        self._keeper.start()
        if self._autoscaler is not None:
            self._autoscaler.start()
        if self._scheduler is not None:
            self._scheduler.begin()
        self.app.notify("worker-online", worker=self.name, queues=self.queues)
        signals.worker_ready.send(sender=self)
        self._heart.start()
        return self

    def _prepare(self) -> None:
        """Raise what is wrong before anything is connected; load the tasks, and say that a worker begins."""
        if self._source is not None:
            raise ConfigurationError("this worker is running already")
        if self._lanes["def"].kind.needs_main_thread and not self._serves:
            raise ConfigurationError(
                f"the pool {self.pool!r} runs tasks in the thread that calls `run()`: use that, or pool='threads'"
            )
        self.app.load_tasks()
        secrets(self.app.conf)  # a missing one is an error now, and not with each webhook
        signals.worker_init.send(sender=self)
        if self._runs_tasks_here:
            signals.worker_process_init.send(sender=self.name)
        if self._scheduler is not None:
            self._scheduler.prepare()
        if self.app.conf.worker_send_task_events:
            self.app.events.record(work=True)
        for event in (self._stopping, self._hurry):
            event.clear()
        if self.app.conf.worker_autoscale:
            least, _ = read_autoscale(self.app.conf.worker_autoscale)
            self._lanes["def"] = self._lanes["def"].resized(least)

    def _supply(self) -> tuple[list[str], Credit]:
        """Return the queues to take from, lanes instead of those that have any, and what says how much from which."""
        conf, queues = self.app.conf, self.queues
        turns = turns_of(conf, self.app.broker.capabilities, queues)
        # A lane that was asked for besides its queue would be looked at twice.
        queues = [queue for queue in queues if queue in turns or queue not in homes_of(turns)]
        credit = Credit(
            {kind: lane.slots for kind, lane in self._lanes.items()},
            queues,
            multiplier=conf.worker_prefetch_multiplier,
            caps=conf.worker_queue_concurrency,
            weights=conf.worker_queue_weights if conf.worker_queue_order == "weighted" else None,
            expected=self._expected(queues),
            batch=self.app.broker.capabilities.request_batch,
            turns=turns,
        )
        return [lane for queue in queues for lane in turns.get(queue, (queue,))], credit

    def request_stop(self) -> None:
        """Ask it to stop within the grace; asked again, to stop now. Safe in a signal handler."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()
        if self._source is not None:
            self._source.request_stop()

    def pause(self) -> None:
        """Take in nothing new until `resume`, and give back what has not begun. Safe in a signal handler."""
        if self._source is not None:
            self._source.paused.set()

    def resume(self) -> None:
        """Take in messages again. Safe in a signal handler."""
        if self._source is not None:
            self._source.go_on()

    @property
    def paused(self) -> bool:
        """Whether it takes in nothing new."""
        return self._source is not None and self._source.paused.is_set()

    def resize(self, concurrency: int) -> None:
        """Run so many `def` tasks at a time from now on; what runs already goes on. Any thread, not a signal handler.

        Raises `ConfigurationError` for less than 1, and for more than the pool can run.
        """
        self._lanes["def"] = self._lanes["def"].resized(concurrency)
        if self._source is not None:
            self._credit.resize("def", concurrency)
            self._crew.resize("def", concurrency)

    def stop(self, timeout: float | None = None) -> None:
        """Stop: give back at once what has not begun, let what runs finish for `timeout` seconds, give back the rest.

        Given back uncharged where the broker can do that. Safe twice; returns when everything is settled.
        """
        self._stopping.set()
        with self._ending:
            if self._source is not None:
                self._end(self._source, self.shutdown_timeout if timeout is None else timeout)

    def _end(self, source: Source, grace: float) -> None:
        source.request_stop()
        self.app.notify("worker-stopping", worker=self.name)
        signals.worker_shutting_down.send(
            sender=self.name, sig=None, how="Cold" if self._hurry.is_set() else "Warm", exitcode=0
        )
        if self._scheduler is not None:
            self._scheduler.stop()
        if self._autoscaler is not None:
            self._autoscaler.stop()
        self._heart.stop()
        source.join()
        self._give_back(self._crew.drain())
        self._wait_for_running(source, grace)
        self._abandon_running(source)
        # Everything has an outcome now. If the broker is away its leases run out, and others take over.
        if not self._settler.close(LAST_WORDS):
            logger.warning("stopped without settling %d message(s); they will be delivered again", len(self._jobs))
        self._keeper.stop()
        self._sweeper.stop()
        source.gate.close()
        self._trimmer.stop()
        self._crew.stop()
        try:
            source.consumer.close()
        except BrokerError as error:
            logger.warning("closing the consumer: %s", error)
        self._received, self._source = self._received + source.received, None
        self.app.notify("worker-offline", worker=self.name)
        if self._runs_tasks_here:
            signals.worker_process_shutdown.send(sender=self.name, pid=os.getpid(), exitcode=0)
        signals.worker_shutdown.send(sender=self)
        self.app.events.recorder.stop()

    def run(self) -> None:
        """Start, work until `request_stop` is called or (burst) nothing that is due is left, and stop.

        Raises what made the worker itself fail, if anything did; never what a task raised.
        """
        self._serves = True
        self.start()
        source = self._source
        assert source is not None
        try:
            if self._lanes["def"].kind.needs_main_thread:
                self._lend_this_thread(source)
            else:
                # A signal that comes on the way into a wait wakes nobody: its handler runs when the wait is over.
                while not source.finished.wait(HEARS):
                    pass
        finally:
            self._serves = False
            self.stop(0 if self._hurry.is_set() else None)
        if source.failure is not None:
            raise source.failure

    def _lend_this_thread(self, source: Source) -> None:
        """Run tasks on this thread, while another one waits for the end and counts the grace."""
        ended = threading.Event()

        def end() -> None:
            source.finished.wait()
            try:
                self.stop(0 if self._hurry.is_set() else None)
            finally:
                ended.set()

        threading.Thread(target=end, name="dray-end", daemon=True).start()
        self._crew.serve(ended)

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
        """Return for each queue the one lane that it can be told beforehand to bring work for."""
        kinds: dict[str, set[str]] = {}
        for name, task in self.app.tasks.items():
            queue = self.app.routes.queue_of(name, task.resolved)
            kinds.setdefault(queue, set()).add("async" if task.is_async and "async" in self._lanes else "def")
        every = set().union(*kinds.values())
        said = {queue: kinds.get(queue, every) for queue in queues}
        return {queue: next(iter(some)) for queue, some in said.items() if len(some) == 1}

    # The end

    def _give_back(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._crew.done(job, released(job))

    def _wait_for_running(self, source: Source, seconds: float, hurrying: bool = False) -> None:
        """Wait until nothing is held any more, the time is over, or a second request says to hurry."""
        clock = self.app.clock
        end = clock.monotonic() + seconds
        while (hurrying or not self._hurry.is_set()) and (left := end - clock.monotonic()) > 0:
            # The table has the say, for the event may still be set from before the last jobs came.
            source.idle.clear()
            if not self._jobs:
                return
            clock.wait(source.idle, min(left, 0.1))

    def _abandon_running(self, source: Source) -> None:
        """Give up what still runs: coroutines are cancelled, processes killed; threads cannot be, and go on unheard."""
        left = [job for job in self.jobs() if not job.closed]
        for job in left:
            job.stopping = True
        stuck = [job for job in left if job.began and job.ran is None]
        if stuck:
            names = ", ".join(f"{job.message.task}[{job.message.id}]" for job in stuck[:5])
            logger.warning("%d task(s) did not end in time and are given back: %s", len(stuck), names)
        ending = [job for job in stuck if self._crew.end_for_stop(job)]
        self._give_back([job for job in stuck if job not in ending and not job.acked])
        if ending:
            # A cancelled coroutine gets the chance to clean up; what came of it is settled as usual.
            self._wait_for_running(source, LAST_WORDS, hurrying=True)
            self._give_back([job for job in ending if job.ran is None and not job.acked])

    def __repr__(self) -> str:
        return f"<Worker {self.name}>"
