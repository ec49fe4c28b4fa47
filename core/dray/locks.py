"""Locks and semaphores: one process, or so many, at a time, across all hosts that share the store."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError, LockLost, LockTaken
from .grouping import partition
from .holds import Place
from .setting_values import read_seconds
from .store import Hold

if TYPE_CHECKING:
    from .app import Dray

#: Seconds between two tries to get a lock that is taken.
LOOK = 0.05


class Lock:
    """A lock, or with several places a semaphore: `with app.lock("invoices"):`, `async with` in coroutines.

    Renewed in the background while it is held; free again `ttl` seconds after the process has died. Not reentrant; one
    object is held once at a time.
    """

    def __init__(self, app: Dray, name: str, places: int, ttl: Any, wait: Any) -> None:
        what = "lock" if places == 1 else "semaphore"
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"app.{what}: it is called by a text that is not empty; got {name!r}")
        if isinstance(places, bool) or not isinstance(places, int) or places < 1:
            raise ConfigurationError(f"app.semaphore({name!r}): places is a whole number >= 1; got {places!r}")
        self.name = name
        self._app = app
        self._what = f"{what} {name!r}"
        self._places = places
        self._ttl = _seconds(ttl, "ttl", self._what)
        self._wait = math.inf if wait is None else _seconds(wait, "wait", self._what, least=0.0)
        self._part = partition(what, name)
        self._kept: Place | None = None
        app.require_store(f"app.{what}")

    @property
    def token(self) -> int:
        """The fencing token while it is held: what was written under one must not be overwritten under a lower one."""
        return self._held().token

    @property
    def lost(self) -> bool:
        """Whether others may have it although it was not released: it could not be renewed in time."""
        return self._kept is not None and self._kept.lost

    def check(self) -> None:
        """Raise `LockLost` if it is lost: to be called before what must not be done without it."""
        if self._held().lost:
            raise LockLost(f"the {self._what} was not renewed in time; others may have it")

    def acquire(self, wait: float | None = None) -> bool:
        """Get it, waiting `wait` seconds (None: as long as this lock was made with); return whether it is held now."""
        clock, never = self._app.clock, threading.Event()
        end = clock.monotonic() + (self._wait if wait is None else wait)
        while not self._try():
            if (left := end - clock.monotonic()) <= 0:
                return False
            clock.wait(never, min(left, LOOK))
        return True

    async def aacquire(self, wait: float | None = None) -> bool:
        """`acquire` for coroutines."""
        clock = self._app.clock
        end = clock.monotonic() + (self._wait if wait is None else wait)
        while True:
            attempt = asyncio.ensure_future(asyncio.to_thread(self._try))
            try:
                if await asyncio.shield(attempt):
                    return True
            except asyncio.CancelledError:
                # The thread goes on; what it gets is for nobody.
                attempt.add_done_callback(self._abandon)
                raise
            if (left := end - clock.monotonic()) <= 0:
                return False
            await asyncio.sleep(min(left, LOOK))

    def release(self) -> None:
        """Give it back. When it is lost, whoever has it now keeps it."""
        kept, self._kept = self._held(), None
        self._app.connections.holds.let_go([kept])

    async def arelease(self) -> None:
        """`release` for coroutines."""
        await asyncio.to_thread(self.release)

    def __enter__(self) -> Lock:
        if not self.acquire():
            raise self._taken()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        lost = self.lost
        self.release()
        if lost and kind is None:
            raise LockLost(f"the {self._what} was lost before its block ended; others may have had it meanwhile")

    async def __aenter__(self) -> Lock:
        if not await self.aacquire():
            raise self._taken()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await asyncio.shield(asyncio.to_thread(self.__exit__, *exc))

    def _try(self) -> bool:
        if self._kept is not None:
            raise ConfigurationError(f"the {self._what} is held already through this object; make another one")
        (self._kept,) = self._app.connections.holds.take(
            [Hold(self._part, self._app.new_id(), self._ttl, self._places)]
        )
        return self._kept is not None

    def _abandon(self, attempt: asyncio.Future[bool]) -> None:
        if not attempt.cancelled() and attempt.exception() is None and attempt.result():
            kept, self._kept = self._held(), None
            self._app.connections.holds.let_go_soon([kept])

    def _held(self) -> Place:
        if self._kept is None:
            raise ConfigurationError(f"the {self._what} is not held")
        return self._kept

    def _taken(self) -> LockTaken:
        return LockTaken(f"the {self._what} was not to be had within {self._wait:g} s")

    def __repr__(self) -> str:
        return f"<{self._what}, {'held' if self._kept is not None else 'not held'}>"


def _seconds(value: Any, option: str, what: str, least: float = 0.1) -> float:
    try:
        seconds = read_seconds(value)
    except ValueError:
        seconds = -1.0
    if seconds < least:
        raise ConfigurationError(f"the {what}: {option} is a number of seconds >= {least:g}; got {value!r}")
    return seconds
