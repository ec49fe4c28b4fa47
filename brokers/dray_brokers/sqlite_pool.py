"""The SQLite connections that one process has open to one file, and what a fork means for them."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from threading import get_ident

from .sqlite_ear import Ear
from .sqlite_watch import Doorbell


class Pool:
    """What one process has open and is not using just now. A forked child makes its own."""

    #: The process it was made in. None until all of it is there: an interrupt can come while it is being made.
    pid: int | None = None

    def __init__(self, path: str) -> None:
        #: Device and inode of the file they are connected to, once there is one.
        self.file: tuple[int, int] | None = None
        self.idle: list[sqlite3.Connection] = []
        #: The one that writes, and the lock of the thread that uses it.
        self.writer: list[sqlite3.Connection] = []
        self.turn = threading.Lock()
        self.doorbell = Doorbell()
        #: Every commit is written there first.
        self.ear = Ear(f"{path}-wal", self.doorbell.stir)
        self.pid = os.getpid()

    def close(self) -> None:
        """Close what is not in use, and wake who waits for a commit: there will be none here."""
        self.let_all_go()
        self.ear.close()
        self.doorbell.ring()

    def let_all_go(self) -> None:
        """Close what is not in use."""
        for shelf in (self.idle, self.writer):
            with suppress(IndexError):  # `while shelf` would be no help: another thread may be doing the same
                while True:
                    self.let_go(shelf.pop())

    def let_go(self, connection: sqlite3.Connection) -> None:
        """Close a connection, unless it belongs to the process this one was forked from."""
        if self.pid == os.getpid():
            connection.close()
        else:
            inherited.append(connection)

    def __del__(self, getpid: Callable[[], int] = os.getpid) -> None:
        if self.pid is None:
            return
        if self.pid != getpid():
            inherited.extend(self.idle + self.writer)
        else:
            self.ear.close()


class Gate:
    """Keeps the process from forking while a thread is inside SQLite, whose own locks would stay shut in the child."""

    #: Seconds a fork waits for the threads that are inside.
    PATIENCE = 5.0

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._forking = False
        #: How often each thread is inside.
        self._inside: dict[int, int] = {}

    def enter(self) -> None:
        me = get_ident()
        with self._lock:
            # Whoever is inside already must get on, or the fork would wait for them and they for the fork.
            while self._forking and me not in self._inside:
                self._changed.wait(self.PATIENCE)
            self._inside[me] = self._inside.get(me, 0) + 1

    def leave(self) -> None:
        me = get_ident()
        with self._lock:
            self._inside[me] -= 1
            if not self._inside[me]:
                del self._inside[me]
                if self._forking:
                    self._changed.notify_all()

    def shut(self) -> None:
        """Let nobody in, and wait until everybody else is out. The lock stays held across the fork."""
        me = get_ident()
        self._changed.acquire()
        self._forking = True
        self._changed.wait_for(lambda: not self._inside.keys() - {me}, self.PATIENCE)

    def open(self) -> None:
        """Go on in the parent."""
        self._forking = False
        self._changed.notify_all()
        self._changed.release()

    def renew(self) -> None:
        """Start afresh in the child, where the forking thread is the only one left."""
        self.__init__()  # type: ignore[misc]


#: Every call into SQLite passes it.
gate = Gate()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=gate.shut, after_in_parent=gate.open, after_in_child=gate.renew)

#: Connections made before a fork, kept so that garbage collection does not close them in the child.
inherited: list[sqlite3.Connection] = []
