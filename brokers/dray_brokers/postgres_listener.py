"""Hear PostgreSQL's notifications on a connection and a thread of their own, and wake who waits for them."""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

logger = logging.getLogger("dray.postgres")

#: Seconds between two tries to connect.
RECONNECT = 1.0


class Watch:
    """Waits for notifications about certain subjects. For one thread at a time.

    Clear it before looking at the tables, so that no notification falls between the look and the wait. It also wakes
    when notifications may have been missed, and for nothing at all: it is a reason to look, no more.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._rung = threading.Event()

    @property
    def live(self) -> bool:
        """Whether notifications are being heard at present."""
        return self._listener.live

    @property
    def rung(self) -> bool:
        """Whether there was a notification since `clear`."""
        return self._rung.is_set()

    def clear(self) -> None:
        """Forget what was heard so far."""
        self._rung.clear()

    def wait(self, seconds: float) -> None:
        """Return after a notification, or when `seconds` are over."""
        self._rung.wait(seconds)

    def ring(self) -> None:
        """Wake who waits."""
        self._rung.set()


class Listener:
    """One channel, heard from the first watch on until `close`. Every method may be called from any thread.

    Losing the connection is not an error: watches are rung, `live` is False until it is there again, and whoever waits
    looks more often meanwhile. `connect` is None where nothing shall be heard.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]] | None,
        channel: str,
        subjects: Callable[[str], Iterable[str]],
    ) -> None:
        self.live = False
        self._connect = connect
        self._listen = sql.SQL("LISTEN {}").format(sql.Identifier(channel))
        self._channel = channel
        self._subjects = subjects
        self._lock = threading.Lock()
        self._watches: defaultdict[str, set[Watch]] = defaultdict(set)
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        #: Closed when the thread shall end, which it sees at the other end.
        self._end: socket.socket | None = None

    @contextmanager
    def watching(self, subjects: Sequence[str]) -> Iterator[Watch]:
        """Give a watch of these subjects."""
        watch = self.watch(subjects)
        try:
            yield watch
        finally:
            self.unwatch(watch, subjects)

    def watch(self, subjects: Sequence[str]) -> Watch:
        """Return a watch of these subjects, to be given back with `unwatch`."""
        watch = Watch(self)
        with self._lock:
            for subject in subjects:
                self._watches[subject].add(watch)
            if self._thread is None and self._connect is not None and not self._closing.is_set():
                self._start(self._connect)
        return watch

    def unwatch(self, watch: Watch, subjects: Sequence[str]) -> None:
        """Let go of a watch."""
        with self._lock:
            for subject in subjects:
                watches = self._watches.get(subject)
                if watches is not None:
                    watches.discard(watch)
                    if not watches:
                        del self._watches[subject]

    def close(self) -> None:
        """Stop hearing, and wake everybody. Safe twice."""
        with self._lock:
            self._closing.set()
            thread, end, self._end = self._thread, self._end, None
        if thread is not None and end is not None:
            end.close()
            # It may be connecting, and that may take its time; it ends by itself then.
            thread.join(RECONNECT)
        self._ring_all()

    def _start(self, connect: Callable[[], psycopg.Connection[Any]]) -> None:
        self._end, ended = socket.socketpair()
        self._thread = threading.Thread(
            target=self._run, args=(connect, ended), name=f"dray-listen-{self._channel}", daemon=True
        )
        self._thread.start()

    def _run(self, connect: Callable[[], psycopg.Connection[Any]], ended: socket.socket) -> None:
        told = False
        while not self._closing.is_set():
            try:
                with connect() as connection:
                    connection.execute(self._listen)
                    self._set_live(True)
                    told = False
                    self._hear(connection, ended)
            except psycopg.Error as error:
                if not told and not self._closing.is_set():
                    told = True
                    said = " ".join(str(error).split())
                    logger.warning("cannot hear %s, looking more often until that is possible: %s", self._channel, said)
            finally:
                self._set_live(False)
            self._closing.wait(RECONNECT)
        ended.close()

    def _hear(self, connection: psycopg.Connection[Any], ended: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(connection.fileno(), selectors.EVENT_READ)
            selector.register(ended, selectors.EVENT_READ)
            while not self._closing.is_set():
                # What came along with the answer to LISTEN is there already, without anything to be read.
                while (notification := connection.pgconn.notifies()) is not None:
                    self._ring(notification.extra.decode(errors="replace"))
                selector.select()
                if not self._closing.is_set():
                    connection.pgconn.consume_input()

    def _ring(self, payload: str) -> None:
        with self._lock:
            rung = [watch for subject in self._subjects(payload) for watch in self._watches.get(subject, ())]
        for watch in rung:
            watch.ring()

    def _ring_all(self) -> None:
        with self._lock:
            rung = {watch for watches in self._watches.values() for watch in watches}
        for watch in rung:
            watch.ring()

    def _set_live(self, live: bool) -> None:
        if live != self.live:
            self.live = live
            # Something may have been missed before, or will be from now on.
            self._ring_all()
