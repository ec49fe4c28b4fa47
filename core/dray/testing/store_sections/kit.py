"""What every section stands on: how a subclass describes its store, and the few tools the tests are written with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ...clock import SYSTEM_CLOCK, Clock, ManualClock
from ...store import Change, Changed, Store

#: A time to live that no test outlives (seconds).
LONG = 300.0


def needs(store: Store, capability: str, least: int = 1) -> None:
    """Skip the running test unless `store` declares `capability`, or at least so much of it."""
    if getattr(store.capabilities, capability) < least:
        pytest.skip(f"needs capability: {capability}" + (f" >= {least}" if least > 1 else ""))


class AheadClock:
    """The clock of a host that is some seconds ahead of another's."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock, self._seconds = clock, seconds
        self.monotonic, self.wait = clock.monotonic, clock.wait

    def time(self) -> float:
        return self._clock.time() + self._seconds


class StoreKit:
    """How a subclass describes its store. Only `make_store` is required."""

    #: Seconds of a short time to live, in tests that let one run out. At least the store's own grain.
    ttl: float = 0.4

    def make_store(self, tmp_path: Path) -> Store:
        """Return a store, not yet opened, onto an empty place of its own; or override the fixture `store`."""
        raise NotImplementedError("say how to make the store: def make_store(self, tmp_path): return ...")

    def second(self, store: Store) -> Store:
        """Return another open connection to the same place; `store` itself when it is not shared."""
        if not store.capabilities.shared:
            return store
        other = type(store)(store.url)
        other.clock = store.clock
        other.open()
        return other

    def cut(self, store: Store) -> None:
        """Break the connection below the store, as a network would. By default nothing happens.

        It comes between calls, and from another thread in the middle of one.
        """

    def elsewhere(self, store: Store) -> tuple[str, str]:
        """Return "module:Class" and the URL of which another process makes a store onto the same place."""
        return f"{type(store).__module__}:{type(store).__qualname__}", store.url.reveal()

    def pass_time(self, store: Store, seconds: float) -> None:
        """Let `seconds` pass on the clock the store goes by."""
        if isinstance(store.clock, ManualClock):
            store.clock.advance(seconds)
        else:
            SYSTEM_CLOCK.wait(threading.Event(), seconds)

    def lives(self, store: Store, begun: float) -> bool:
        """Return whether a short life that began at `begun` or later cannot be over yet.

        A busy machine may take longer than that for two calls; then nobody can say what is there.
        """
        return store.now() < begun + self.ttl

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        """The store under test, open."""
        store = self.make_store(tmp_path)
        store.open()
        yield store
        store.close()

    @contextmanager
    def another(self, store: Store, ahead: float = 0.0) -> Iterator[Store]:
        """Give a second connection, closed at the end; from a host whose clock is so many seconds ahead."""
        other = self.second(store)
        try:
            if ahead:
                other.clock = AheadClock(store.clock, ahead)
                other.open()
            yield other
        finally:
            if other is not store:
                other.close()


def made(store: Store, change: Change) -> Changed:
    (done,) = store.commit([change])
    return done
