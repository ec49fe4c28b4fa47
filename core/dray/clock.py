"""Where time comes from: one object, so that a test can hold the clock still and move it on.

Instants are seconds since 1970 as float (`time`), durations are measured on a clock that never jumps
(`monotonic`). Nothing else in the engine may call the `time` module.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol


class Clock(Protocol):
    """What the engine asks of a clock. Safe to call from any thread."""

    def time(self) -> float:
        """Return the instant now, in seconds since 1970-01-01 UTC."""

    def monotonic(self) -> float:
        """Return seconds since some fixed point; never goes back."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait until `event` is set or `seconds` of this clock have passed; return whether it is set."""


class SystemClock:
    """The machine's own clock. Where it can, `monotonic` goes on while the machine is suspended."""

    def __init__(self) -> None:
        # Asked several times for every task: without a frame of Python in between.
        self.time = time.time
        self.monotonic = _monotonic()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(seconds)


def _monotonic() -> Callable[[], float]:
    """Return what tells the time since the machine was started, suspended or not: a laptop's sleep ends leases too."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    try:
        if boottime is not None:
            time.clock_gettime(boottime)
            return partial(time.clock_gettime, boottime)
    except OSError:  # the system does not know it
        pass
    return time.monotonic


class ManualClock:
    """A clock that stands still until `advance` is called: for tests.

    `wait` does not depend on the machine's clock either: it returns when the event is set or when the clock
    has been advanced far enough.
    """

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._now = start
        self._moved = threading.Condition()

    def time(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock on by `seconds` and wake every waiter whose time has come."""
        if seconds < 0:
            raise ValueError("a clock goes forward: advance() takes a number of seconds >= 0")
        with self._moved:
            self._now += seconds
            self._moved.notify_all()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        end = self._now + seconds
        with self._moved:
            while not event.is_set() and self._now < end:
                # The event may be set without notice to us, hence the short real-time look.
                self._moved.wait(0.005)
        return event.is_set()


#: The clock used where none is injected.
SYSTEM_CLOCK: Clock = SystemClock()
