"""One simulated process of dray: an app of its own on the world's servers, and what its tasks and clients do there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dray import AsyncResult, Broker, BrokerError, ResultBackend, Scheduler, Store, StoreError
from dray.assisted import Assisted
from dray.connections import Connections
from dray.ids import id_source
from dray.testing import memory_app
from dray.worker import Worker

from .gates import Call, GatedBackend, GatedBroker, GatedStore
from .history import Sent
from .stand_ins import ProcessClock
from .world import Process

if TYPE_CHECKING:
    from .stage import Stage


class SimConnections(Connections):
    """Connections that lead to the servers of the world, through gates."""

    site: Site

    def _open_broker(self) -> Broker:
        site, stage = self.site, self.site.stage
        broker: Broker = GatedBroker(site, stage.transport, stage.broker)
        if stage.shelf is not None:
            shelf = GatedBroker(site, stage.shelf, stage.shelf, "shelf")
            broker = Assisted(broker, shelf, self._conf.store_remember)
        broker.clock = self._clock
        broker.open()
        return broker

    def _open_backend(self, text: str) -> ResultBackend:
        backend = GatedBackend(self.site, self.site.stage.backend)
        backend.clock = self._clock
        backend.open()
        return backend

    def _open_records(self, text: str) -> Store:
        store = GatedStore(self.site, self.site.stage.store)
        store.clock = self._clock
        store.open()
        return store


class Site:
    """A process, its app, and its worker if it is one."""

    def __init__(self, stage: Stage, process: Process) -> None:
        self.stage, self.process = stage, process
        self.faults, self.history, self.world = stage.faults, stage.history, stage.world
        #: What a signal stops; None: nothing, or it has been told to.
        self.stoppable: Worker | Scheduler | None = None
        clock = ProcessClock(process, began=1000.0 * len(stage.world.processes))
        self.app = app = memory_app(clock, **stage.settings)
        # What takes longest of making an app, and is the same for all.
        vars(app)["plugins"] = stage.plugins
        app.new_id = id_source(clock, stage.world.engine.getrandbits)
        app._connections = connections = SimConnections(app.plugins, app.conf, clock)
        connections.site = self
        connections.origin = process.name
        for program in stage.programs:
            program.declare(self)

    # A worker's process, a scheduler's

    def work_until_stopped(self) -> None:
        """Be a worker: start, and stop when told to, or when the worker ends by itself."""
        worker = self.app.worker(
            self.stage.queues,
            name=self.process.name,
            pool="threads",
            concurrency=self.stage.concurrency,
            lease=self.stage.lease,
            shutdown_timeout=self.stage.lease / 2,
        )
        try:
            worker.start()
        except BrokerError:
            return  # whoever runs it starts it again
        self.stoppable = worker
        source = worker._source
        assert source is not None
        source.finished.wait()
        worker.stop()
        if source.failure is not None:
            self.world.complain("no worker fails", f"{self.process.name}: {source.failure!r}")

    def schedule_until_stopped(self) -> None:
        """Be a scheduler, until told to stop."""
        self.stoppable = scheduler = self.app.scheduler(name=self.process.name)
        scheduler.run()

    def stop(self) -> bool:
        """Ask what runs here to stop, as a signal does; return whether there is something that was not asked before."""
        asked, self.stoppable = self.stoppable, None
        if asked is None:
            return False
        self.world.say(self.process.name, "told to stop")
        self.history.stops += isinstance(asked, Worker)
        asked.request_stop()
        return True

    # What tasks do

    def task(self, name: str, body: Callable[..., Any], **options: Any) -> None:
        """Declare a task whose code is `body(request, *args)`; that it begins and ends is noted."""

        def entered(task: Any, *args: Any) -> Any:
            run = self.history.began(self.process, name, task.request)
            self.be_in_user_code(name)
            value = body(task.request, *args)
            self.be_in_user_code(name)
            run.ended = self.world.now
            return value

        self.app.task(name=name, bind=True, **options)(entered)

    def be_in_user_code(self, name: str, seconds: float = 0.0) -> None:
        """Spend time in a task, in which it may be killed or frozen."""
        wait = lambda: self.world.wait(seconds) if seconds else None  # noqa: E731
        Call(self, "task", "code", wait, f"{name} ").pass_gate()

    # What clients do

    def send(self, program: str, task: str, *args: Any, id: str = "", **options: Any) -> AsyncResult[Any] | None:
        """Send a call; note whether it was accepted. Return the handle on it, None if it may not be there."""
        facts = {word: options.pop(word) for word in ("may_not_run", "ignored") if word in options}
        if id:
            options["task_id"] = id
        before = self.world.now
        try:
            result = self.app.tasks[task].apply_async(args, **options)
        except (BrokerError, StoreError) as error:
            self.world.say(self.process.name, f"{task}[{id}] perhaps not sent: {type(error).__name__}")
            return None
        if result.existing:
            # Of a unique task there is one already; or it was about to be sent, and perhaps never was.
            self.world.say(self.process.name, f"{task} is there already: {result.id}")
            return result
        sent = self.history.sent.setdefault(result.id, Sent(result.id, program, task, **facts))
        sent.accepted = True
        self.world.say(self.process.name, f"{task}[{result.id}] sent, asked at {before:.3f}")
        return result

    def rest(self, most: float) -> None:
        """Let a while pass."""
        self.world.wait(self.stage.plan.uniform(0.0, most))
