"""A stage for programs: servers, workers that are started again when they die, clients, and the end of all faults.

What is on it - how many workers, which broker, how much goes wrong - is drawn from the seed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from random import Random
from typing import TYPE_CHECKING, Any

from dray import Broker, ManualClock
from dray.codec import unpack
from dray.labels import take_off
from dray.plugins import Plugins
from dray.sub_queues import DEAD
from dray.testing import memory_app

from .faults import Faults
from .history import History
from .invariants import judge
from .servers import LooseBroker, PoorBroker, WatchedBackend, WatchedStore, plain
from .site import Site
from .stand_ins import stand_ins
from .world import Process, Stuck, World

if TYPE_CHECKING:
    from .programs import Program

#: What the main thread of a process does, until it is told to stop.
Work = Callable[[Site], None]

#: Seconds between two looks whether everything has ended, and those that it may take once nothing goes wrong any more.
LOOK, PATIENCE = 0.5, 200.0
#: Seconds that a loan lasts; and how often a task may be delivered, unless it says so itself.
LEASE, MAX_DELIVERIES = 4.0, 3


class Stage:
    """One world, and what is in it."""

    def __init__(
        self, seed: int, programs: Sequence[type[Program]], *, kind: str = "", keep: int | None = None
    ) -> None:
        self.seed = seed
        self.world = world = World(seed, keep=keep)
        self.history = History(world)
        #: What is drawn beforehand, and by clients: faults and turns do not shift it.
        self.plan = plan = Random(f"{seed} plan")
        self.lease = LEASE
        self.faults = Faults(world, LEASE)
        self.faults.rate = self.fault_rate = plan.choice([0.01, 0.03, 0.08])
        world.preemption = plan.choice([0.0, 0.02, 0.2])
        self.workers, self.concurrency = plan.choice([1, 2, 2, 3]), plan.choice([1, 2, 3])
        self.calm_at = plan.uniform(8.0, 25.0)
        self.max_skew = plan.choice([0.0, 0.0, 0.5])
        self.broker = LooseBroker(self.history)
        #: The broker that the engine is given; and the one beside it that does what it cannot.
        self.transport: Broker = self.broker
        self.shelf: LooseBroker | None = None
        drawn = plan.choice(["whole", "whole", "poor", "connected"])
        self.kind = kind or drawn
        if self.kind == "poor":
            self.transport, self.shelf = PoorBroker(self.broker), LooseBroker(self.history)
        elif self.kind == "connected":
            self.broker.connect()
        self.backend, self.store = WatchedBackend(self.history), WatchedStore(self.history)
        self.plugins = _plugins()
        self.settings: dict[str, Any] = {"worker_lease": LEASE, "task_max_deliveries": MAX_DELIVERIES}
        self.queues = ["default"]
        self.programs = [kind(self) for kind in programs]
        for program in self.programs:
            self.settings.update(program.settings)
            self.queues += [queue for queue in program.queues if queue not in self.queues]
        self.faults.may_double = lambda envelope: self._allows(envelope, "doubled")
        self.faults.may_lose = lambda envelope: self._allows(envelope, "lost")
        self._acting = len(self.programs)
        self._quiet_looks = 0
        #: Why each dead letter is one, by id; known at the end.
        self.ends: dict[str, str] = {}

    def __str__(self) -> str:
        names = ", ".join(program.name for program in self.programs)
        return (
            f"seed {self.seed}: {names}; {self.workers} worker(s) of {self.concurrency}, a {self.kind} broker, "
            f"faults {self.fault_rate:g} until {self.calm_at:.1f}, preemption {self.world.preemption:g}"
        )

    def _allows(self, envelope: Any, how: str) -> bool:
        if envelope.queue.endswith(DEAD):
            return False
        message = unpack(take_off(envelope.body)[1])
        owner = next((each for each in self.programs if message.task.startswith(f"{each.name}.")), None)
        return owner is not None and bool(getattr(owner, f"may_be_{how}")(message))

    # The play

    def play(self) -> None:
        """Play it to its end, and judge what has come of it."""
        world = self.world
        world.say("stage", str(self))
        with stand_ins(world), _engine_talks_to(self.history):
            for number in range(1, self.workers + 1):
                self._hire(f"worker{number}", 1, Site.work_until_stopped)
            for program in self.programs:
                for name, work in program.crew().items():
                    self._hire(name, 1, work)
                self._invite(program)
            world.later(self.calm_at, self._calm)
            world.later(LOOK, self._look)
            try:
                world.run(until=self.calm_at + PATIENCE)
            except Stuck as error:
                self._complain_of_what_hangs(str(error))
            world.end()
            self.ends = self._letters()
        judge(self)

    def _process(self, name: str, *, mortal: bool) -> Process:
        process = Process(self.world, name, mortal=mortal, skew=self.plan.uniform(-1, 1) * self.max_skew)
        self.world.processes.append(process)
        return process

    def _hire(self, name: str, life: int, work: Work) -> None:
        """Start a worker or the like; and another one in its place when it has died, or stopped."""
        process = self._process(f"{name}.{life}", mortal=True)

        def replace() -> None:
            if not self.world.over:
                self.world.later(self.world.luck.uniform(0.0, 2.0), lambda: self._hire(name, life + 1, work))

        process.on_end = replace

        def live() -> None:
            work(Site(self, process))
            process.end()

        process.start("main", live)

    def _invite(self, program: Program) -> None:
        process = self._process(program.name, mortal=False)

        def act() -> None:
            site = Site(self, process)
            program.act(site)
            self._acting -= 1

        process.start("client", act)

    def _calm(self) -> None:
        self.world.say("stage", "nothing goes wrong any more")
        self.faults.over()

    def _look(self) -> None:
        """See whether everything has ended; end it then."""
        unsettled = self._unsettled()
        self._quiet_looks = 0 if unsettled or self._acting else self._quiet_looks + 1
        if self._quiet_looks >= 2:
            self.world.over = True
        self.world.later(LOOK, self._look)

    def _unsettled(self) -> dict[str, int]:
        found = {**self.broker.unsettled(), **(self.shelf.unsettled() if self.shelf is not None else {})}
        found |= {f"({program.name})": number for program in self.programs if (number := program.unsettled())}
        return {name: number for name, number in found.items() if not name.endswith(DEAD)}

    def _complain_of_what_hangs(self, why: str) -> None:
        left = " ".join(f"{queue}:{number}" for queue, number in sorted(self._unsettled().items())) or "no message"
        acting = f", {self._acting} client(s) not done" if self._acting else ""
        self.world.complain("nothing hangs once nothing goes wrong", f"{why}: {left} unsettled{acting}")

    def _letters(self) -> dict[str, str]:
        """Return why each dead letter is one, by id."""
        if self.shelf is None:
            return self.broker.letters()
        found = {}
        for name, queue in sorted(self.broker._queues.items()):
            if name.endswith(DEAD):
                for _, _, entry in queue.ready:
                    found[plain(entry.envelope.id)] = take_off(entry.envelope.body)[0].reason
        return found


@cache
def _plugins() -> Plugins:
    """Return what the apps of all worlds share. It was made outside of them, and knows no app."""
    return memory_app(ManualClock()).plugins


class _Listener(logging.Handler):
    """Writes what the engine logs into the trace, and into the history what workers have refused."""

    def __init__(self, history: History) -> None:
        super().__init__(logging.WARNING)
        self._history, self._world = history, history.world

    def emit(self, record: logging.LogRecord) -> None:
        actor, facts = self._world.current, vars(record)
        if facts.get("action") == "rejected":
            self._history.refused[facts["task_id"]] = facts["task"]
        if actor is None or not actor.process.dead:
            self._world.say(actor.name if actor is not None else "?", f"says: {record.getMessage()}")


@contextmanager
def _engine_talks_to(history: History) -> Iterator[None]:
    logger, handler = logging.getLogger("dray"), _Listener(history)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
