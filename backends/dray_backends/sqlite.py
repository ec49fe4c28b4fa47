"""The sqlite:// result backend: records in one file, for many processes on one host.

It may share its file with the sqlite:// broker. The rule of the first final writer is part of the one statement that
stores a record, so it holds between processes too. Network filesystems are not supported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dray import BackendError, BackendUnavailable, Record, ResultBackend, Url
from dray_brokers.sqlite_file import SqliteFile

#: Version of the tables below, kept in the file.
VERSION = 1
#: Seconds from one sweep of expired records to the next, and the most records one sweep deletes: a part of `store`,
#: it must not make anyone wait.
SWEEP_EVERY, SWEEP = 5.0, 1000
#: Longest time in which `wait` misses a result that another process has stored (seconds).
LONGEST_PAUSE = 0.025

TABLES = (
    """
    CREATE TABLE dray_result (
        id TEXT PRIMARY KEY,
        state TEXT NOT NULL,
        final INTEGER NOT NULL,         -- 1: nothing more will happen to this id
        rank INTEGER NOT NULL,          -- orders the writers of one id
        expires REAL,                   -- seconds since 1970; NULL: never
        body BLOB NOT NULL
    ) STRICT""",
    "CREATE INDEX dray_result_expires ON dray_result (expires) WHERE expires IS NOT NULL",
)

# A kept record that is final and not expired yields only to a final one of at least its rank.
STORE = """
    INSERT INTO dray_result AS kept (id, state, final, rank, expires, body) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE
    SET state = excluded.state, final = excluded.final, rank = excluded.rank, expires = excluded.expires,
        body = excluded.body
    WHERE NOT kept.final OR (excluded.final AND excluded.rank >= kept.rank) OR kept.expires <= ?"""
FETCH = "SELECT state, final, rank, body FROM dray_result WHERE id = ? AND (expires IS NULL OR expires > ?)"
IS_FINAL = "SELECT 1 FROM dray_result WHERE id = ? AND final AND (expires IS NULL OR expires > ?)"
FORGET = "DELETE FROM dray_result WHERE id = ?"
PURGE_SOME = "DELETE FROM dray_result WHERE rowid IN (SELECT rowid FROM dray_result WHERE expires <= ? LIMIT ?)"


class SqliteBackend(ResultBackend):
    """`sqlite:///results.db` (below the working directory) or `sqlite:////var/lib/results.db` (from the root).

    Options: `synchronous=full` to survive power cuts too, `timeout=SECONDS` to wait for another connection's write.
    """

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        self._file = SqliteFile(url, refused=BackendError, unavailable=BackendUnavailable)
        #: When the next sweep is due, on the clock that never jumps.
        self._next_sweep = 0.0

    def open(self) -> None:
        self._file.open("backend", VERSION, TABLES)

    def close(self) -> None:
        self._file.close()

    def store(self, records: Sequence[Record], ttl: float | None) -> None:
        if not records:
            return
        now = self.clock.time()
        expires = None if ttl is None else now + ttl
        with self._file.writing() as db:
            db.executemany(STORE, [(r.id, r.state, r.final, r.rank, expires, r.body, now) for r in records])
            if self.clock.monotonic() >= self._next_sweep:
                self._next_sweep = self.clock.monotonic() + SWEEP_EVERY
                db.execute(PURGE_SOME, (now, SWEEP))
        self._file.ring()

    def fetch(self, ids: Sequence[str]) -> Mapping[str, Record]:
        now = self.clock.time()
        with self._file.reading() as db:
            rows = {id: db.execute(FETCH, (id, now)).fetchone() for id in ids}
        return {
            id: Record(id=id, state=row[0], final=bool(row[1]), rank=row[2], body=row[3])
            for id, row in rows.items()
            if row is not None
        }

    def forget(self, ids: Sequence[str]) -> None:
        if ids:
            with self._file.writing() as db:
                db.executemany(FORGET, [(id,) for id in ids])

    def wait(self, ids: Sequence[str], timeout: float) -> Mapping[str, Record]:
        end = self.clock.monotonic() + timeout
        watch = self._file.watch(LONGEST_PAUSE)
        while not self._any_final(ids) and self.clock.monotonic() < end:
            watch.wait(lambda: end - self.clock.monotonic())
            watch.mark()
        return self.fetch(ids)

    def purge(self) -> int:
        total = 0
        while True:
            with self._file.writing() as db:
                some = db.execute(PURGE_SOME, (self.clock.time(), SWEEP)).rowcount
            total += some
            if some < SWEEP:
                return total

    def _any_final(self, ids: Sequence[str]) -> bool:
        now = self.clock.time()
        with self._file.reading() as db:
            return any(db.execute(IS_FINAL, (id, now)).fetchone() for id in ids)
