"""The sqlite:// store: records in one file, changed under conditions by many processes on one host.

It may share its file with the sqlite:// broker and result backend. A commit is one write transaction. A partition is
known by a number: one whose time is up loses its name, whoever needs that name makes a new one, and what the old one
had is swept away bit by bit, however much it was. Network filesystems are not supported.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cache
from itertools import takewhile
from math import inf
from typing import TypeVar

from dray import (
    Absent,
    Add,
    Change,
    Changed,
    Check,
    Delete,
    Due,
    Equals,
    Index,
    Present,
    Put,
    Revise,
    Store,
    StoreCapabilities,
    StoreError,
    StoreUnavailable,
    Unindex,
    Url,
    Write,
)
from dray_brokers.sqlite_file import SqliteFile

T = TypeVar("T")

#: Version of the tables below, kept in the file.
VERSION = 1
#: Seconds from one sweep to the next, and the most rows one sweep deletes: a part of `commit`, it must not make anyone
#: wait.
SWEEP_EVERY, SWEEP = 5.0, 1000
#: Longest time in which `watch` misses a change that another process has made (seconds).
LONGEST_PAUSE = 0.025
#: Largest value (bytes), and most keys of a change: the file is locked while they are written.
MAX_VALUE, MOST_KEYS = 64 * 1024 * 1024, 1000

TABLES = (
    """
    CREATE TABLE dray_part (
        id INTEGER PRIMARY KEY,
        name TEXT UNIQUE,               -- NULL: it has been forgotten, and another may have its name
        until REAL,                     -- when it is to be forgotten (seconds since 1970); NULL: never
        changes INTEGER NOT NULL        -- goes up with every change, from where no other partition of this name began
    ) STRICT""",
    "CREATE INDEX dray_part_until ON dray_part (until) WHERE until IS NOT NULL",
    """
    CREATE TABLE dray_record (
        part INTEGER NOT NULL,          -- dray_part.id
        key TEXT NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (part, key)
    ) STRICT, WITHOUT ROWID""",
    """
    CREATE TABLE dray_entry (
        part INTEGER NOT NULL,          -- dray_part.id
        list TEXT NOT NULL,             -- the index
        key TEXT NOT NULL,
        at REAL NOT NULL,
        name TEXT NOT NULL,             -- of the partition, as entries come in its order
        PRIMARY KEY (part, list, key)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX dray_entry_due ON dray_entry (list, at, name, key)",
)

FIND = "SELECT id, until FROM dray_part WHERE name = ?"
MAKE = "INSERT INTO dray_part (name, until, changes) VALUES (?, ?, random() / 2) RETURNING id"
TOUCH = "UPDATE dray_part SET changes = changes + 1 WHERE id = ?"
TOUCH_UNTIL = "UPDATE dray_part SET changes = changes + 1, until = ? WHERE id = ?"
FORGET = "UPDATE dray_part SET name = NULL, until = 0 WHERE id = ?"
DROP_EMPTY = """
    DELETE FROM dray_part WHERE id = :part
    AND NOT EXISTS (SELECT 1 FROM dray_record WHERE part = :part)
    AND NOT EXISTS (SELECT 1 FROM dray_entry WHERE part = :part)"""
CHANGES = "SELECT id, changes FROM dray_part WHERE name = ? AND (until IS NULL OR until > ?)"

GET = "SELECT value FROM dray_record WHERE part = ? AND key = ?"
PUT = """
    INSERT INTO dray_record (part, key, value) VALUES (?, ?, ?)
    ON CONFLICT (part, key) DO UPDATE SET value = excluded.value"""
DELETE = "DELETE FROM dray_record WHERE part = ? AND key = ?"
SCAN = """
    SELECT key, value FROM dray_record
    WHERE part = (SELECT id FROM dray_part WHERE name = ? AND (until IS NULL OR until > ?)) AND key >= ? AND key <> ?
    ORDER BY key LIMIT ?"""

ENTER = """
    INSERT INTO dray_entry (part, list, key, at, name) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (part, list, key) DO UPDATE SET at = excluded.at"""
REMOVE = "DELETE FROM dray_entry WHERE part = ? AND list = ? AND key = ?"
DUE = """
    SELECT at, name, key FROM dray_entry WHERE list = ? AND at <= ? AND (at, name, key) > (?, ?, ?)
    AND EXISTS (SELECT 1 FROM dray_part WHERE id = part AND (until IS NULL OR until > ?))
    ORDER BY at, name, key LIMIT ?"""

OVER = "SELECT id FROM dray_part WHERE until <= ? ORDER BY until LIMIT 1"
SWEEP_RECORDS = "DELETE FROM dray_record WHERE part = ? AND key IN (SELECT key FROM dray_record WHERE part = ? LIMIT ?)"
SWEEP_ENTRIES = """
    DELETE FROM dray_entry WHERE part = ?
    AND (list, key) IN (SELECT list, key FROM dray_entry WHERE part = ? LIMIT ?)"""
DROP = "DELETE FROM dray_part WHERE id = ?"


class SqliteStore(Store):
    """`sqlite:///records.db` (below the working directory) or `sqlite:////var/lib/records.db` (from the root).

    Options: `synchronous=full` to survive power cuts too, `timeout=SECONDS` to wait for another connection's write.
    """

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        self._file = SqliteFile(url, refused=StoreError, unavailable=StoreUnavailable)
        self.capabilities = StoreCapabilities(
            durable=self._file.survives_power_cuts, max_value_bytes=MAX_VALUE, max_keys=MOST_KEYS
        )
        #: When the next sweep is due, on the clock that never jumps.
        self._next_sweep = 0.0

    def open(self) -> None:
        self._file.open("store", VERSION, TABLES)

    def close(self) -> None:
        self._file.close()

    def commit(self, changes: Sequence[Change]) -> Sequence[Changed]:
        if not any(change.writes for change in changes):
            return self._look(changes)
        with self._file.writing() as db:
            # Not before the file is ours: by then it may be later.
            now = self.clock.time()
            parts = _parts(db, now)
            done = [_make(parts(change.part), change) for change in changes]
            self._sweep_now_and_then(db, now)
        self._file.ring()
        return done

    def _look(self, changes: Sequence[Change]) -> Sequence[Changed]:
        with self._file.reading() as db:
            db.execute("BEGIN")  # all see the file at one instant, and no one has to wait
            parts = _parts(db, self.clock.time())
            done = [_make(parts(change.part), change) for change in changes]
            db.execute("COMMIT")
        return done

    def scan(self, part: str, prefix: str = "", after: str = "", limit: int = 1000) -> Sequence[tuple[str, bytes]]:
        asked = (part, self.clock.time(), max(prefix, after), after, limit)
        with self._file.reading() as db, closing(db.execute(SCAN, asked)) as rows:
            return [*takewhile(lambda row: row[0].startswith(prefix), rows)]

    def due(self, index: str, until: float, limit: int, after: Due | None = None) -> Sequence[Due]:
        last = after or Due(-inf, "", "")
        with self._file.reading() as db:
            rows = db.execute(DUE, (index, until, last.at, last.part, last.key, self.clock.time(), limit))
            return [Due(*row) for row in rows]

    def revise(self, wishes: Sequence[Revise[T]]) -> Sequence[T]:
        with self._file.writing() as db:
            now = self.clock.time()
            parts = _parts(db, now)
            answers = [_revised(parts(wish.part), wish, now) for wish in wishes]
            self._sweep_now_and_then(db, now)
        self._file.ring()
        return answers

    def watch(self, part: str, timeout: float) -> None:
        end = self.clock.monotonic() + timeout
        watch = self._file.watch(LONGEST_PAUSE)
        seen = self._changes(part)
        # A file is shared: most commits are about something else.
        while self.clock.monotonic() < end and self._changes(part) == seen:
            watch.wait(lambda: end - self.clock.monotonic())
            watch.mark()

    def _changes(self, part: str) -> object:
        with self._file.reading() as db:
            return db.execute(CHANGES, (part, self.clock.time())).fetchone()

    def purge(self) -> int:
        total = 0
        while True:
            with self._file.writing() as db:
                swept, dropped = _sweep(db, self.clock.time())
            total += dropped
            if swept < SWEEP:
                return total

    def advice(self) -> Sequence[str]:
        if self._file.survives_power_cuts:
            return ()
        return (
            f"{self.url} has synchronous=normal: a power cut, and nothing less, can take back its last moments. Then "
            "workflows go on from what is left: a step may run again, a join fire twice, and a workflow that had only "
            "just begun be gone. Where that must not be, add ?synchronous=full: one disk flush for each commit.",
        )

    def _sweep_now_and_then(self, db: sqlite3.Connection, now: float) -> None:
        if self.clock.monotonic() >= self._next_sweep:
            self._next_sweep = self.clock.monotonic() + SWEEP_EVERY
            _sweep(db, now)


class _Part:
    """A partition, for the length of one transaction: what it has read and written it need not read again."""

    def __init__(self, db: sqlite3.Connection, name: str, now: float) -> None:
        self._db, self._name, self._now = db, name, now
        self._known: dict[str, bytes | None] = {}
        self._touched = False
        #: Its number, and that of one of this name whose time is up; None where there is none.
        self._id: int | None
        self._over: int | None = None
        self._until: float | None
        self._id, self._until = db.execute(FIND, (name,)).fetchone() or (None, None)

    def begin(self) -> None:
        """Begin a change: the time of the partition may be up, also by the change before this one."""
        if self._until is not None and self._until <= self._now:
            self._over, self._id, self._until = self._id, None, None
            self._known.clear()

    def value(self, key: str) -> bytes | None:
        """Return what a key stands for, the writes so far included."""
        if key not in self._known:
            row = None if self._id is None else self._db.execute(GET, (self._id, key)).fetchone()
            self._known[key] = None if row is None else row[0]
        return self._known[key]

    def holds(self, check: Check) -> bool:
        match check:
            case Absent(key):
                return self.value(key) is None
            case Present(key):
                return self.value(key) is not None
            case Equals(key, value):
                return self.value(key) == value

    def write(self, writes: Sequence[Write], ttl: float | None) -> None:
        """Make the writes of one change."""
        part = self._begun(ttl)
        emptier = False
        for write in writes:
            match write:
                case Put(key, value):
                    self._put(part, key, value)
                case Add(key):
                    self._put(part, key, _added(self.value(key), write))
                case Delete(key):
                    self._known[key], emptier = None, True
                    self._db.execute(DELETE, (part, key))
                case Index(index, key, at):
                    self._db.execute(ENTER, (part, index, key, at, self._name))
                case Unindex(index, key):
                    emptier = True
                    self._db.execute(REMOVE, (part, index, key))
        if emptier and self._db.execute(DROP_EMPTY, {"part": part}).rowcount:
            self._id = self._until = None

    def _begun(self, ttl: float | None) -> int:
        """Return the number of the partition, which is made where it is missing."""
        if ttl is not None:
            self._until = None if ttl == inf else self._now + ttl
        if self._over is not None:
            self._db.execute(FORGET, (self._over,))
            self._over = None
        if self._id is None:
            (self._id,) = self._db.execute(MAKE, (self._name, self._until)).fetchone()
        elif ttl is not None:
            self._db.execute(TOUCH_UNTIL, (self._until, self._id))
        elif not self._touched:
            self._db.execute(TOUCH, (self._id,))
        self._touched = True
        return self._id

    def _put(self, part: int, key: str, value: bytes) -> None:
        self._known[key] = value
        self._db.execute(PUT, (part, key, value))


def _parts(db: sqlite3.Connection, now: float) -> Callable[[str], _Part]:
    """Return what gives the partitions by name, each as one object for the whole transaction."""
    return cache(lambda name: _Part(db, name, now))


def _make(part: _Part, change: Change) -> Changed:
    part.begin()
    applied = all(part.holds(check) for check in change.checks)
    if applied and change.writes:
        part.write(change.writes, change.ttl)
    found = ((key, part.value(key)) for key in change.reads)
    return Changed(applied, {key: value for key, value in found if value is not None})


def _revised(part: _Part, wish: Revise[T], now: float) -> T:
    part.begin()
    answer, value, ttl = wish.rule(part.value(wish.key), now)
    if value is not None:
        part.write((Put(wish.key, value),), ttl)
    return answer


def _added(kept: bytes | None, write: Add) -> bytes:
    try:
        return b"%d" % (int(b"0" if kept is None else kept) + write.number)
    except ValueError:
        raise StoreError(f"adding {write.number} to {write.key!r}, which is no count") from None


def _sweep(db: sqlite3.Connection, now: float) -> tuple[int, int]:
    """Delete some of what partitions whose time is up have left; return how many rows, and partitions with the last."""
    left, dropped = SWEEP, 0
    while left > 0 and (over := db.execute(OVER, (now,)).fetchone()) is not None:
        (part,) = over
        # First of all: to a process whose clock is behind its time is not up, and it would go on with what is left.
        db.execute(FORGET, (part,))
        for sweep in (SWEEP_RECORDS, SWEEP_ENTRIES):
            left -= db.execute(sweep, (part, part, left)).rowcount
        if left > 0:
            left -= db.execute(DROP, (part,)).rowcount
            dropped += 1
    return SWEEP - left, dropped
