"""Holds: keeps the places that this process has in the store - locks, semaphores, running tasks - until let go.

One thread, there while anything is held, renews them. Killed, the process renews nothing, and they are free again when
their time is over; whoever had one and lives learns by `Place.lost` that it has been too late.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from .clock import Clock
from .errors import StoreError
from .store import Hold, Store

logger = logging.getLogger("dray.store")

#: A place is renewed when this share of its time is over; after a failure it is tried again in so many seconds.
RENEW_AFTER, AGAIN = 1 / 3, 0.5


class Place:
    """A place that is held, and renewed until it is let go."""

    def __init__(self, hold: Hold, token: int, clock: Clock, asked: float) -> None:
        self.hold = hold
        #: The fencing token: it only grows, so what was written under one must not be overwritten under a lower one.
        self.token = token
        self._clock = clock
        #: When (monotonic) it is renewed next, and until when it is certainly held.
        self.renew_at = self.until = 0.0
        self._gone = False
        self.renewed(asked)

    def renewed(self, asked: float) -> None:
        """Note that it is held, as asked for at this moment."""
        self.until, self.renew_at = asked + self.hold.seconds, asked + self.hold.seconds * RENEW_AFTER

    @property
    def lost(self) -> bool:
        """Whether somebody else may have it by now."""
        return self._gone or self._clock.monotonic() >= self.until

    def gone(self) -> None:
        """Note that it is lost for good."""
        self._gone = True


class Holds:
    """Takes, renews and lets go of places, for one process. Thread-safe."""

    def __init__(self, store: Callable[[], Store | None], clock: Clock) -> None:
        self._open = store
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: set[Place] = set()
        #: What is to be let go of by the thread, so that nobody has to wait for that.
        self._leaving: list[Hold] = []
        self._bell = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def take(self, holds: Sequence[Hold]) -> list[Place | None]:
        """Try to take places; return for each what is kept from now on, None where all were taken."""
        asked = self._clock.monotonic()
        try:
            tokens = self._store.hold(holds)
        except StoreError:
            # Perhaps they were taken, and only the answer got lost.
            with self._lock:
                self._leaving += holds
            self._attend()
            raise
        pairs = zip(holds, tokens, strict=True)
        taken = [Place(hold, token, self._clock, asked) if token else None for hold, token in pairs]
        with self._lock:
            self._kept.update(filter(None, taken))
        self._attend()
        return taken

    def let_go(self, kept: Sequence[Place]) -> None:
        """Give places back now."""
        with self._lock:
            self._kept.difference_update(kept)
        self._store.let_go([one.hold for one in kept])

    def let_go_soon(self, kept: Sequence[Place]) -> None:
        """Give places back in a moment, on another thread."""
        with self._lock:
            self._kept.difference_update(kept)
            self._leaving += [one.hold for one in kept]
        self._attend()

    def flush(self) -> None:
        """Give back now what was to be given back in a moment. Never raises: what stays runs out by itself."""
        with self._lock:
            leaving, self._leaving = self._leaving, []
        try:
            if leaving:
                self._store.let_go(leaving)
        except StoreError as error:
            logger.warning("%d place(s) not let go of, they run out by themselves: %s", len(leaving), error)

    def stop(self) -> None:
        """Let go of what was to be let go of soon, and renew nothing from now on."""
        self._stopping = True
        self._bell.set()
        thread = self._thread
        if thread is not None:
            thread.join(timeout=5)

    @property
    def _store(self) -> Store:
        store = self._open()
        assert store is not None
        return store

    def _attend(self) -> None:
        """Have the thread look; start it if there is something to do and it is not there."""
        with self._lock:
            self._bell.set()
            if self._thread is None and not self._stopping and (self._kept or self._leaving):
                self._thread = threading.Thread(target=self._run, name="dray-holds", daemon=True)
                self._thread.start()

    # The thread

    def _run(self) -> None:
        while True:
            self._bell.clear()
            pause = self._round()
            with self._lock:
                done = not self._leaving and (self._stopping or not self._kept)
                if done or (self._stopping and pause == AGAIN):
                    self._thread = None
                    return
            if not self._stopping:
                self._clock.wait(self._bell, pause)

    def _round(self) -> float:
        """Let go and renew what is due; return in how many seconds to look again."""
        with self._lock:
            leaving, now = self._leaving[:], self._clock.monotonic()
            due = [kept for kept in self._kept if kept.renew_at <= now]
        try:
            if leaving:
                self._store.let_go(leaving)
                with self._lock:
                    # Others may have seen to some of them meanwhile.
                    self._leaving = [hold for hold in self._leaving if hold not in leaving]
            if due and not self._stopping:
                self._renew(due, now)
        except StoreError as error:
            logger.warning("%d place(s) neither renewed nor let go of, tried again: %s", len(due) + len(leaving), error)
            return AGAIN
        except Exception:
            # Not even a bug in an adapter may end this thread: every lock of the process would be lost, in silence.
            logger.exception("%d place(s) neither renewed nor let go of, tried again", len(due) + len(leaving))
            return AGAIN
        with self._lock:
            return max(0.0, min((kept.renew_at for kept in self._kept), default=now) - self._clock.monotonic())

    def _renew(self, due: Sequence[Place], now: float) -> None:
        stray: list[Hold] = []
        for kept, token in zip(due, self._store.hold([one.hold for one in due]), strict=True):
            if token == kept.token:
                kept.renewed(now)
                continue
            # It ran out before. If it was free, it was taken once more just now, by nobody who knows of it.
            kept.gone()
            stray += [kept.hold] if token else []
            logger.warning("%s: the place of %s was not renewed in time", kept.hold.part, kept.hold.holder)
        with self._lock:
            self._kept -= {kept for kept in due if kept.lost}
        if stray:
            self._store.let_go(stray)
