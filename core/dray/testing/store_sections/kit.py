"""What every section stands on: how a subclass describes its store, and the few tools the tests are written with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ...clock import SYSTEM_CLOCK, ManualClock
from ...store import Change, Changed, Store

#: A time to live that no test outlives (seconds).
LONG = 300.0


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
        """Break the connection below the store, as a network would. By default nothing happens."""

    def pass_time(self, store: Store, seconds: float) -> None:
        """Let `seconds` pass on the clock the store goes by."""
        if isinstance(store.clock, ManualClock):
            store.clock.advance(seconds)
        else:
            SYSTEM_CLOCK.wait(threading.Event(), seconds)

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        """The store under test, open."""
        store = self.make_store(tmp_path)
        store.open()
        yield store
        store.close()

    @contextmanager
    def another(self, store: Store) -> Iterator[Store]:
        """Give a second connection, closed at the end."""
        other = self.second(store)
        try:
            yield other
        finally:
            if other is not store:
                other.close()


def made(store: Store, change: Change) -> Changed:
    (done,) = store.commit([change])
    return done
