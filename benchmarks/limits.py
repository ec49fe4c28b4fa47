"""The bare loops: the least that a queue of this kind has to do, with the driver alone. What dray adds is the price.

encode -> put; fetch a batch -> decode -> call -> store -> delete. No retries, leases, delays, checks, threads or logs.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sqlite3
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
from contender import Answer, Ask, Contender, Kind

#: Calls in one batch.
BATCH = 500
#: Seconds between two looks into the file by one who waits for something there.
LOOK = 0.0005


class Call(msgspec.Struct, array_like=True, frozen=True):
    """A message as small as it gets."""

    task: str
    args: tuple[int, ...]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Call).decode

#: A call with the key it is stored under.
Item = tuple[int, bytes]


class Loop(Contender):
    """The loop itself; a subclass adds where calls wait and results are kept."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._tasks: dict[str, Callable[..., Any]] = {"def": self.ledger.tick, "async def": self.ledger.atick}

    @abstractmethod
    def put(self, bodies: Iterable[bytes]) -> None:
        """Store calls, all at once."""

    @abstractmethod
    def take(self) -> Sequence[Item]:
        """Borrow up to a batch of calls."""

    @abstractmethod
    def settle(self, items: Sequence[Item], results: Sequence[Item]) -> None:
        """Store results, and delete calls that have run."""

    def send(self, count: int) -> None:
        for number in range(count):
            self.put((_encode(Call("def", (number,))),))

    def send_many(self, count: int, kind: Kind = "def", stored: bool = False) -> None:
        for start in range(0, count, BATCH):
            self.put([_encode(Call(kind, (number,))) for number in range(start, min(start + BATCH, count))])

    def work(self, kind: Kind, stored: bool) -> None:
        if kind == "async def":
            asyncio.run(self._awork(stored))
            return
        while items := self.take():
            values = [self._run(body) for _, body in items]
            self.settle(items, _results(items, values) if stored else ())

    async def _awork(self, stored: bool) -> None:
        while items := self.take():
            # Side by side, as coroutines are meant to run, and not one after the other.
            values = await asyncio.gather(*(self._run(body) for _, body in items))
            self.settle(items, _results(items, values) if stored else ())

    def _run(self, body: bytes) -> Any:
        call = _decode(body)
        return self._tasks[call.task](*call.args)


def _results(items: Sequence[Item], values: Sequence[Any]) -> list[Item]:
    return [(key, _encode(value)) for (key, _), value in zip(items, values, strict=True)]


class MemoryLoop(Loop):
    """The limit of memory://: a deque."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._line: deque[bytes] = deque()
        self._results: dict[int, bytes] = {}
        self._taken = 0

    def put(self, bodies: Iterable[bytes]) -> None:
        self._line.extend(bodies)

    def take(self) -> Sequence[Item]:
        items = [(self._taken + n, self._line.popleft()) for n in range(min(BATCH, len(self._line)))]
        self._taken += len(items)
        return items

    def settle(self, items: Sequence[Item], results: Sequence[Item]) -> None:
        self._results.update(results)

    @contextmanager
    def answering(self) -> Iterator[Ask]:
        calls: SimpleQueue[bytes | None] = SimpleQueue()
        results: SimpleQueue[bytes] = SimpleQueue()

        def serve() -> None:
            while (body := calls.get()) is not None:
                results.put(_encode(self.ledger.stamp(*_decode(body).args)))

        def ask() -> Answer:
            sent = time.monotonic()
            calls.put(_encode(Call("stamp", (0,))))
            started = msgspec.msgpack.decode(results.get(), type=float)
            return Answer(started - sent, time.monotonic() - sent)

        server = threading.Thread(target=serve)
        server.start()
        yield ask
        calls.put(None)
        server.join()


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


class SqliteLoop(Loop):
    """The limit of sqlite://: a table in a file, with the same write-ahead log and `synchronous` as dray's default."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._db = sqlite3.connect(folder / "limit.db", isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(TABLES)

    def put(self, bodies: Iterable[bytes]) -> None:
        with self._transaction():
            self._db.executemany(PUT, ((body,) for body in bodies))

    def take(self) -> Sequence[Item]:
        with self._transaction():
            return self._db.execute(TAKE, (BATCH,)).fetchall()

    def settle(self, items: Sequence[Item], results: Sequence[Item]) -> None:
        with self._transaction():
            self._db.executemany(STORE, results)
            self._db.execute(DELETE, (json.dumps([key for key, _ in items]),))

    def result(self, key: int) -> bytes | None:
        """Return a result, if it is there."""
        row = self._db.execute(FETCH, (key,)).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def answering(self) -> Iterator[Ask]:
        spawning = multiprocessing.get_context("spawn")
        ready, stop = spawning.Event(), spawning.Event()
        process = spawning.Process(target=_answer, args=(self.folder, ready, stop), daemon=True)
        process.start()
        ready.wait()

        def ask() -> Answer:
            sent = time.monotonic()
            (key,) = self._db.execute(f"{PUT} RETURNING key", (_encode(Call("stamp", (0,))),)).fetchone()
            while (body := self.result(key)) is None:
                time.sleep(LOOK)
            return Answer(msgspec.msgpack.decode(body, type=float) - sent, time.monotonic() - sent)

        yield ask
        stop.set()
        process.join()

    def close(self) -> None:
        self._db.close()
        super().close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        yield
        self._db.execute("COMMIT")


def _answer(folder: Path, ready: Any, stop: Any) -> None:
    """Answer calls until told to stop: what the other process does, looking without pause."""
    with closing(SqliteLoop(folder)) as loop:
        ready.set()
        while not stop.is_set():
            if not (items := loop.take()):
                time.sleep(LOOK)
                continue
            values = [loop.ledger.stamp(*_decode(body).args) for _, body in items]
            loop.settle(items, _results(items, values))
