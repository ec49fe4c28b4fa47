"""Stand-ins for `threading`, `queue`, `time` and `random`: what the engine's own threads run on in a simulated world.

The engine is not changed for it, and need not know: in every module of dray that has imported one of these, the name
is bound to a stand-in for as long as a world lasts. A module that is written tomorrow is found as well.
"""

from __future__ import annotations

import pkgutil
import queue
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from .world import BEGINNING, Actor, Process, World

#: The world that lasts.
_world: World


class SimEvent:
    """`threading.Event`."""

    def __init__(self) -> None:
        self._set = False
        self._waiting: list[Actor] = []

    def is_set(self) -> bool:
        _world.breathe()
        return self._set

    def set(self) -> None:
        self._set = True
        waiting, self._waiting = self._waiting, []
        for actor in waiting:
            _world.wake(actor)
        _world.breathe()

    def clear(self) -> None:
        self._set = False
        _world.breathe()

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            actor = _world.current
            assert actor is not None
            self._waiting.append(actor)
            if not _world.wait(timeout) and actor in self._waiting:
                self._waiting.remove(actor)
        return self._set


class SimLock:
    """`threading.Lock`, and with `again` `threading.RLock`."""

    def __init__(self, again: bool = False) -> None:
        self._again = again
        self._owner: Actor | None = None
        self._depth = 0
        self._waiting: deque[Actor] = deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        _world.breathe()
        actor = _world.current
        end = None if timeout < 0 else _world.now + timeout
        while self._depth and not (self._again and self._owner is actor):
            if not blocking or (end is not None and _world.now >= end):
                return False
            assert actor is not None, "somebody holds it who is not running"
            self._waiting.append(actor)
            # It is as if it were in the call that whoever has the lock makes.
            awake_since = actor.awake_since
            _world.wait(None if end is None else end - _world.now)
            actor.awake_since = awake_since
            if actor in self._waiting:
                self._waiting.remove(actor)
        self._owner = actor
        self._depth += 1
        return True

    def release(self) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
            if self._waiting:
                _world.wake(self._waiting.popleft())

    def locked(self) -> bool:
        return self._depth > 0

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()


class SimCondition:
    """`threading.Condition`."""

    def __init__(self, lock: SimLock | None = None) -> None:
        self._lock = lock or SimLock(again=True)
        self._waiting: list[Actor] = []
        self.acquire, self.release = self._lock.acquire, self._lock.release

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        actor = _world.current
        assert actor is not None
        self._waiting.append(actor)
        self._lock.release()
        woken = _world.wait(timeout)
        if actor in self._waiting:
            self._waiting.remove(actor)
        self._lock.acquire()
        return woken

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        end = None if timeout is None else _world.now + timeout
        while not (reached := predicate()) and (end is None or _world.now < end):
            self.wait(None if end is None else end - _world.now)
        return reached

    def notify(self, n: int = 1) -> None:
        woken, self._waiting = self._waiting[:n], self._waiting[n:]
        for actor in woken:
            _world.wake(actor)

    def notify_all(self) -> None:
        self.notify(len(self._waiting))


class SimThread:
    """`threading.Thread`: an actor of the process that starts it."""

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Any = (),
        kwargs: Any = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        self.name, self.daemon = name or "thread", daemon
        self._target, self._args, self._kwargs = target, args, kwargs or {}
        self._actor: Actor | None = None

    def run(self) -> None:
        if self._target is not None:
            self._target(*self._args, **self._kwargs)

    def start(self) -> None:
        assert _world.current is not None
        self._actor = _world.current.process.start(self.name.removeprefix("dray-"), self.run)
        _world.breathe()

    @property
    def ident(self) -> int | None:
        return self._actor.number if self._actor is not None else None

    def is_alive(self) -> bool:
        return self._actor is not None and not self._actor.greenlet.dead

    def join(self, timeout: float | None = None) -> None:
        end = None if timeout is None else _world.now + timeout
        while self.is_alive() and (end is None or _world.now < end):
            assert _world.current is not None and self._actor is not None
            self._actor.on_end.append(_world.current)
            _world.wait(None if end is None else end - _world.now)


class SimSimpleQueue:
    """`queue.SimpleQueue`."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._waiting: deque[Actor] = deque()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        self._items.append(item)
        if self._waiting:
            _world.wake(self._waiting.popleft())
        _world.breathe()

    put_nowait = put

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        end = None if timeout is None else _world.now + timeout
        while not self._items:
            actor = _world.current
            assert actor is not None
            if not block or (end is not None and _world.now >= end):
                raise queue.Empty
            self._waiting.append(actor)
            _world.wait(None if end is None else end - _world.now)
            if actor in self._waiting:
                self._waiting.remove(actor)
        return self._items.popleft()

    def get_nowait(self) -> Any:
        return self.get(False)

    def empty(self) -> bool:
        return not self._items

    def qsize(self) -> int:
        return len(self._items)


class ProcessClock:
    """The clock of one process. Its wall clock may be wrong; its monotonic one began somewhere."""

    def __init__(self, process: Process, began: float) -> None:
        self._world, self._skew, self._began = process.world, process.skew, began

    def time(self) -> float:
        self._world.breathe()
        return BEGINNING + self._world.now + self._skew

    def monotonic(self) -> float:
        self._world.breathe()
        return self._began + self._world.now

    def wait(self, event: Any, seconds: float) -> bool:
        return bool(event.wait(seconds))


class ServerClock:
    """The clock of the servers: it is right, and asking it gives nobody a turn."""

    def __init__(self, world: World) -> None:
        self._world = world

    def time(self) -> float:
        return BEGINNING + self._world.now

    def monotonic(self) -> float:
        return self._world.now

    def wait(self, event: Any, seconds: float) -> bool:
        return bool(event.wait(seconds))


class _Module:
    """A module of the standard library with some of its names replaced."""

    def __init__(self, real: ModuleType, **names: Any) -> None:
        self._real = real
        vars(self).update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _ident() -> int:
    return _world.current.number if _world.current is not None else 0


def _sleep(seconds: float) -> None:
    _world.wait(seconds)


_THREADING = _Module(
    threading,
    Event=SimEvent,
    Lock=SimLock,
    RLock=lambda: SimLock(again=True),
    Condition=SimCondition,
    Thread=SimThread,
    get_ident=_ident,
)
_TIME = _Module(
    time,
    sleep=_sleep,
    time=lambda: BEGINNING + _world.now,
    monotonic=lambda: _world.now,
    perf_counter=lambda: _world.now,
    process_time=lambda: 0.0,
)
#: What is replaced, by what it is.
_REPLACED: list[tuple[Any, Any]] = [
    (threading, _THREADING),
    (time, _TIME),
    # By what the engine of the world draws from.
    (random, random),
    (threading.get_ident, _ident),
    (threading.Event, SimEvent),
    (threading.Lock, SimLock),
    (threading.Condition, SimCondition),
    (threading.Thread, SimThread),
    (queue.SimpleQueue, SimSimpleQueue),
]
#: Modules that keep the real thing: they are about the machine, or are looked at from outside.
_LEFT_ALONE = ("dray.clock", "dray.testing", "dray.cli", "dray.processes", "dray.greenlets", "dray.interrupts")


@cache
def _load_the_engine() -> None:
    """Import what the engine would only import when it is needed: by then it would be too late to bind anything."""
    for package in ("dray", "dray.executors"):
        for module in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
            if not module.name.startswith((*_LEFT_ALONE, "dray.__main__")):
                import_module(module.name)
    for name in ("dray_brokers.memory", "dray_backends.memory", "dray_backends.memory_store", "dray_serializers.json"):
        import_module(name)


def _places() -> Iterator[tuple[ModuleType, str, Any, Any]]:
    """Yield each name that is bound to something replaced: its module, itself, and both values."""
    for name, module in sorted(sys.modules.items()):
        if not name.startswith(("dray.", "dray_")) or name.startswith(_LEFT_ALONE):
            continue
        for attribute, value in sorted(vars(module).items()):
            for real, stand_in in _REPLACED:
                if value is real:
                    yield module, attribute, value, stand_in


@cache
def _places_of(modules: int) -> list[tuple[ModuleType, str, Any, Any]]:
    """Return the places as of when so many modules were loaded. They are what takes longest to find."""
    return list(_places())


@contextmanager
def stand_ins(world: World) -> Iterator[None]:
    """Have the engine run in `world` within the block."""
    global _world
    _world = world
    _load_the_engine()
    places = _places_of(len(sys.modules))
    known = set(sys.modules)
    for module, name, _, stand_in in places:
        setattr(module, name, world.engine if stand_in is random else stand_in)
    try:
        yield
    finally:
        for module, name, real, _ in places:
            setattr(module, name, real)
        new = () if len(known) == len(sys.modules) else _places()
        late = [f"{module.__name__}.{name}" for module, name, _, _ in new if module.__name__ not in known]
        assert not late, f"imported within a world, and so without stand-ins: {late}"
