"""The limit of sqlite://: a table in a file, with the same write-ahead log and `synchronous` as dray's default."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from contender import Spot

from limits.loop import BATCH, Item, SharedLoop

#: Seconds between two looks into the file by one who waits for something there.
LOOK = 0.0005
TABLES = """
CREATE TABLE IF NOT EXISTS call (key INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL, taken INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS result (key INTEGER PRIMARY KEY, body BLOB NOT NULL);
"""
PUT = "INSERT INTO call (body, taken) VALUES (?, 0)"
TAKE = """
    UPDATE call SET taken = 1 WHERE key IN (SELECT key FROM call WHERE taken = 0 ORDER BY key LIMIT ?)
    RETURNING key, body"""
STORE = "INSERT INTO result (key, body) VALUES (?, ?)"
DELETE = "DELETE FROM call WHERE key IN (SELECT value FROM json_each(?))"
FETCH = "SELECT body FROM result WHERE key = ?"


class SqliteLoop(SharedLoop):
    """One connection to a file. Who waits for something there looks again and again, without pause."""

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot)
        self._db = sqlite3.connect(spot.folder / "limit.db", isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(TABLES)

    def put(self, bodies: Sequence[bytes]) -> None:
        with self._transaction():
            self._db.executemany(PUT, ((body,) for body in bodies))

    def take(self) -> Sequence[Item]:
        with self._transaction():
            return self._db.execute(TAKE, (BATCH,)).fetchall()

    def settle(self, items: Sequence[Item], results: Sequence[bytes]) -> None:
        keys = [key for key, _ in items]
        with self._transaction():
            self._db.executemany(STORE, zip(keys, results, strict=False))
            self._db.execute(DELETE, (json.dumps(keys),))

    def call(self, body: bytes) -> bytes:
        (key,) = self._db.execute(f"{PUT} RETURNING key", (body,)).fetchone()
        while (row := self._db.execute(FETCH, (key,)).fetchone()) is None:
            time.sleep(LOOK)
        result: bytes = row[0]
        return result

    def serve(self, answer: Callable[[bytes], bytes], ended: Callable[[], bool]) -> None:
        while not ended():
            if not (items := self.take()):
                time.sleep(LOOK)
                continue
            self.settle(items, [answer(body) for _, body in items])

    def close(self) -> None:
        self._db.close()
        super().close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        yield
        self._db.execute("COMMIT")
