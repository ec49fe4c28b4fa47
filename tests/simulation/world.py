"""A world in which time is a number, threads are greenlets, and a seed decides who goes next.

Exactly one actor (a thread of a simulated process) runs at a time, and another one gets its turn only where an actor
waits, or asks for it (`World.turn`). So a run is a function of its seed. When nobody can go on, time jumps to the next
instant at which somebody can.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf
from random import Random
from typing import Any

from greenlet import getcurrent, greenlet

#: The instant (seconds since 1970) at which every world begins.
BEGINNING = 1_700_000_000.0
#: Seconds of silence after which a server closes a connection; and those after which it notices that one was cut.
SILENCE, NOTICE = 3.0, 0.2
#: What falls due within so many seconds does so at one instant: calls take time, though not in a world.
TOGETHER = 0.001
#: More turns at one instant than any sane program takes: somebody goes round and round without waiting.
MOST_TURNS = 200_000


class Killed(BaseException):
    """Unwinds an actor whose process has died. Whatever it does on its way out reaches nobody."""


class Stuck(Exception):
    """Nobody can go on, now or later; or nothing but going round happens."""


class Process:
    """One process of the operating system: actors that die together, are frozen together, and share a clock."""

    def __init__(self, world: World, name: str, *, mortal: bool, skew: float = 0.0) -> None:
        self.world = world
        self.name = name
        #: Whether faults may kill, freeze or stop it.
        self.mortal = mortal
        #: By how much its wall clock is wrong (seconds).
        self.skew = skew
        self.dead = False
        #: When it has died or ended.
        self.over_at = inf
        #: Until when nothing of it runs (0: it is not frozen), and each time that it was frozen: from when until when.
        self.frozen_until = 0.0
        self.freezes: list[tuple[float, float]] = []
        #: When (by the world's time) a fault last struck it; before that it has no excuse.
        self.struck = -1.0
        self.actors: list[Actor] = []
        #: What is called, by nobody's actor, once all of it has ended or died.
        self.on_end: Callable[[], None] = lambda: None

    def start(self, name: str, target: Callable[[], object]) -> Actor:
        """Begin a thread of this process."""
        actor = Actor(self, f"{self.name}/{name}", target)
        self.actors.append(actor)
        self.world.ready.append(actor)
        return actor

    def die(self) -> None:
        """End it at once, all of its actors together, whatever they were doing."""
        world = self.world
        if not self.dead:
            self.dead = True
            self.struck = self.over_at = world.now
            world.say(self.name, "DIES")
            world.dying.append(self)
        if world.current is not None and world.current.process is self:
            raise Killed

    def end(self) -> None:
        """End it in order, when its main thread has: the others go with it."""
        self.dead = True
        self.over_at = self.world.now
        self.world.say(self.name, "ends")
        self.world.dying.append(self)

    def freeze(self, seconds: float) -> None:
        """Let nothing of it run for a while; its clock goes on."""
        world = self.world
        self.struck, self.frozen_until = world.now, world.now + seconds
        self.freezes.append((world.now, self.frozen_until))
        world.say(self.name, f"frozen for {seconds:.3f}")
        if seconds > SILENCE:
            world.later(SILENCE, lambda: world.miss(self))
        if world.current is not None and world.current.process is self:
            world.ready.append(world.current)
            world.hub.switch()


class Actor:
    """One thread of a process."""

    __slots__ = ("awake_since", "greenlet", "name", "number", "on_end", "process", "quiet", "waiting", "waits", "woken")

    def __init__(self, process: Process, name: str, target: Callable[[], object]) -> None:
        self.process = process
        self.name = name
        self.number = next(process.world.numbers)
        self.waiting = self.woken = False
        #: How often it has waited: what would wake it out of an earlier wait is stale.
        self.waits = 0
        #: When it last came back from waiting for another thread, or for time: not from a call of a server.
        self.awake_since = process.world.now
        #: Within a call of a server, which is one step: nobody else gets a turn.
        self.quiet = 0
        self.on_end: list[Actor] = []
        self.greenlet = greenlet(lambda: self._live(target), process.world.hub)

    def _live(self, target: Callable[[], object]) -> None:
        world, process = self.process.world, self.process
        try:
            if not process.dead:
                target()
        except Killed:
            pass
        except BaseException as error:
            if not process.dead:
                where = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{os.path.basename(where.filename)}:{where.lineno}"
                world.complain("a thread died", f"{self.name}: {type(error).__name__}: {error} ({place})")
                world.over = True
        finally:
            for other in self.on_end:
                world.wake(other)
            process.actors.remove(self)


class World:
    """Time, actors, and the one random source that decides who goes next. `say` writes the trace."""

    def __init__(self, seed: int | str, *, keep: int | None = None) -> None:
        self.seed = seed
        #: Seconds since the beginning.
        self.now = 0.0
        self.hub = getcurrent()
        self.current: Actor | None = None
        self.ready: list[Actor] = []
        self.dying: list[Process] = []
        self.processes: list[Process] = []
        self.numbers = count(1)
        self.over = False
        #: Who goes next; what the faults do; what the engine draws: apart, so that one does not shift the others.
        self.order, self.luck, self.engine = (Random(f"{seed} {what}") for what in ("order", "luck", "engine"))
        #: How probable it is that another thread gets in between, where the operating system could let it.
        self.preemption = 0.0
        self.trace: list[str] = []
        self._keep = keep
        #: What was found to be wrong: which rule, and how.
        self.complaints: list[tuple[str, str]] = []
        #: Told of each process that has died, or has been silent for longer than a server puts up with.
        self.on_absence: list[Callable[[Process], None]] = []
        self._timers: list[tuple[float, int, Any, int]] = []
        self._serial = count()

    # What is written down

    def say(self, who: str, what: str) -> None:
        """Write a line of the trace."""
        self.trace.append(f"{self.now:9.3f} {who:<24} {what}")
        if self._keep is not None and len(self.trace) > 2 * self._keep:
            del self.trace[: self._keep]

    def complain(self, rule: str, what: str) -> None:
        """Note that a rule was broken."""
        self.say("!!!", f"{rule}: {what}")
        self.complaints.append((rule, what))

    # What actors do

    def wait(self, seconds: float | None = None) -> bool:
        """Have the current actor wait until it is woken or so many seconds have passed; return whether it was woken."""
        actor = self.current
        assert actor is not None, "only actors wait"
        if actor.process.dead:
            raise Killed
        actor.waits += 1
        actor.waiting, actor.woken = True, False
        if seconds is not None:
            heappush(self._timers, (self.now + max(seconds, 0.0), next(self._serial), actor, actor.waits))
        self.hub.switch()
        if not actor.quiet:
            actor.awake_since = self.now
        return actor.woken

    def wake(self, actor: Actor) -> None:
        """Have an actor go on that waits."""
        if actor.waiting and not actor.process.dead:
            actor.waiting, actor.woken = False, True
            self.ready.append(actor)

    def turn(self) -> None:
        """Give others a turn."""
        actor = self.current
        assert actor is not None, "only actors take turns"
        if actor.process.dead:
            raise Killed
        if self.ready:
            self.ready.append(actor)
            self.hub.switch()

    def breathe(self) -> None:
        """Give others a turn now and then: here the operating system could."""
        actor = self.current
        if actor is None or actor.quiet:
            return
        if actor.process.dead:
            raise Killed
        if self.ready and self.preemption and self.order.random() < self.preemption:
            self.turn()

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something after a while, on nobody's behalf."""
        heappush(self._timers, (self.now + seconds, next(self._serial), call, 0))

    # The hub

    def run(self, until: float) -> None:
        """Go on until `over` is set. Raise `Stuck` when that does not happen before the instant `until`."""
        turns = 0
        while not self.over:
            if self.dying:
                self._bury(self.dying.pop())
            elif self.ready:
                turns += 1
                if turns > MOST_TURNS:
                    raise Stuck(f"{turns:,} turns at one instant; the last was of {self._next().name}")
                self._go_on(self._next())
            elif self._timers and self._timers[0][0] <= until:
                if self._timers[0][0] > self.now:
                    turns = 0
                self._go_to(self._timers[0][0])
            else:
                raise Stuck("time is up")

    def end(self) -> None:
        """Let everybody go."""
        for process in self.processes:
            if not process.dead:
                process.dead = True
                self._bury(process)

    def _next(self) -> Actor:
        ready = self.ready
        place = int(self.order.random() * len(ready)) if len(ready) > 1 else 0
        ready[place], ready[-1] = ready[-1], ready[place]
        return ready.pop()

    def _go_on(self, actor: Actor) -> None:
        process = actor.process
        if process.dead:
            return
        if process.frozen_until > self.now:
            self.later(process.frozen_until - self.now, lambda: self.ready.append(actor))
            return
        self.current = actor
        actor.greenlet.switch()
        self.current = None

    def _go_to(self, instant: float) -> None:
        """Let it be so late, and wake all whose time comes just then: they get in each other's way."""
        due = []
        while self._timers and self._timers[0][0] <= instant + TOGETHER:
            due.append(heappop(self._timers))
        self.now = max(self.now, due[-1][0])
        for _, _, who, waits in due:
            self._ring(who, waits)

    def _ring(self, who: Any, waits: int) -> None:
        if not isinstance(who, Actor):
            who()
        elif who.waiting and who.waits == waits:
            who.waiting = False
            if not who.process.dead:
                self.ready.append(who)

    def _bury(self, process: Process) -> None:
        """Unwind what a dead process was doing. Whoever swallows that meets it again at the next wait."""
        for actor in list(process.actors):
            if not actor.greenlet:  # it has not begun
                actor.greenlet.throw()
            while not actor.greenlet.dead:
                self.current = actor
                actor.greenlet.throw(Killed)
                self.current = None
        self.later(NOTICE, lambda: self.miss(process))
        process.on_end()

    def miss(self, process: Process) -> None:
        """Have the servers notice that nothing is heard of a process."""
        for notice in self.on_absence:
            notice(process)
