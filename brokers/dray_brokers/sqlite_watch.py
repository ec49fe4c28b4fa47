"""Waiting for commits to an SQLite file: this process rings for its own, those of others have to be looked for.

Where the system tells of writes to the file, looking rarely is enough: a write is a reason to look often for a while.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable

from .sqlite_ear import Ear

#: A connection, and what it says changes with every commit by anyone but itself.
Version = tuple[sqlite3.Connection, int]


class Doorbell:
    """Wakes the threads of this process that wait for a commit."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        #: Commits by this process, and signs that there may be one by another.
        self.rings = self.stirs = 0

    def ring(self) -> None:
        """Wake everyone who waits: this process has committed."""
        with self._changed:
            self.rings += 1
            self._changed.notify_all()

    def stir(self) -> None:
        """Wake everyone who waits: somebody writes, and may commit at any moment."""
        with self._changed:
            self.stirs += 1
            self._changed.notify_all()

    def wait(self, rings: int, stirs: int, seconds: float) -> None:
        """Wait until there were more rings or stirs than these, or `seconds` are over."""
        with self._changed:
            self._changed.wait_for(lambda: self.rings != rings or self.stirs != stirs, seconds)


class Pace:
    """How often to look for commits of other processes: eagerly at first, then less and less often."""

    #: Seconds between the first two looks; how much longer each pause is than the one before it; and the longest while
    #: other processes are heard, for a commit whose writes were all made before anybody listened.
    FIRST, GROWTH, LISTENING = 0.001, 1.25, 0.5

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._pause = self.FIRST

    def pause(self, listening: bool) -> float:
        """Return the seconds until the next look."""
        return self._pause if listening else min(self._pause, self._longest)

    def slow_down(self) -> None:
        self._pause = min(self._pause * self.GROWTH, self.LISTENING)

    def restart(self) -> None:
        self._pause = self.FIRST


class Watch:
    """Knows whether somebody has committed since `mark`: told by the doorbell in this process, by looking for others.

    For one thread at a time. Mark before looking at the tables, so that no commit falls between the look and the wait.
    """

    def __init__(self, version: Callable[[], Version], doorbell: Doorbell, ear: Ear, pace: Pace) -> None:
        self._version, self._doorbell, self._ear, self._pace = version, doorbell, ear, pace
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
        while True:
            stirs = self._doorbell.stirs
            # First of all, so that no write falls between the look and the wait.
            listening = self._ear.listen()
            if self.changed() or (seconds := left()) <= 0:
                return
            self._doorbell.wait(self._heard, stirs, min(self._pace.pause(listening), seconds))
            if self._doorbell.stirs != stirs:
                self._pace.restart()
            else:
                self._pace.slow_down()
