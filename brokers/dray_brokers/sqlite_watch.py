"""Waiting for commits to an SQLite file: this process rings for its own, those of others have to be looked for."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable

#: A connection, and what it says changes with every commit by anyone but itself.
Version = tuple[sqlite3.Connection, int]


class Doorbell:
    """Wakes the threads of this process that wait for a commit of one of its own."""

    def __init__(self) -> None:
        self._rung = threading.Condition()
        self.rings = 0

    def ring(self) -> None:
        """Wake everyone who waits."""
        with self._rung:
            self.rings += 1
            self._rung.notify_all()

    def wait(self, heard: int, seconds: float) -> int:
        """Wait until there were more rings than `heard`, or `seconds` are over; return how many there were."""
        with self._rung:
            self._rung.wait_for(lambda: self.rings != heard, seconds)
            return self.rings


class Pace:
    """How often to look for commits of other processes: eagerly at first, then less and less often."""

    #: Seconds between the first two looks, and how much longer each pause is than the one before it.
    FIRST, GROWTH = 0.001, 1.25

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self.pause = self.FIRST

    def slow_down(self) -> None:
        self.pause = min(self.pause * self.GROWTH, self._longest)

    def restart(self) -> None:
        self.pause = self.FIRST


class Watch:
    """Knows whether somebody has committed since `mark`: told by the doorbell in this process, by looking for others.

    For one thread at a time. Mark before looking at the tables, so that no commit falls between the look and the wait.
    """

    def __init__(self, version: Callable[[], Version], doorbell: Doorbell, pace: Pace) -> None:
        self._version, self._doorbell, self._pace = version, doorbell, pace
        self.mark()

    def mark(self) -> None:
        """Forget all commits so far."""
        self._heard, self._seen = self._doorbell.rings, self._version()

    def changed(self) -> bool:
        """Return whether there was a commit since `mark`."""
        return self._heard != self._doorbell.rings or self._seen != self._version()

    def restart(self) -> None:
        """Look often again: there is something going on."""
        self._pace.restart()

    def wait(self, left: Callable[[], float]) -> None:
        """Return after a commit, or when `left()`, the seconds left, is no longer above zero.

        `left` is asked again and again, as its clock may be one that a test moves by hand.
        """
        while not self.changed() and (seconds := left()) > 0:
            self._doorbell.wait(self._heard, min(self._pace.pause, seconds))
            self._pace.slow_down()
