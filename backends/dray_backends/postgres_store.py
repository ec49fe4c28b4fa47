"""The postgresql:// store: records that many processes change under conditions, in one schema of a database.

It may share its schema with the postgresql:// broker and result backend. Every call is one round trip: what it calls in
the database is in `postgres_store_functions`. Killed in the middle of one, nothing of it has happened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf

from dray import (
    Absent,
    Add,
    Change,
    Changed,
    Check,
    Delete,
    Due,
    Equals,
    Hold,
    Index,
    Present,
    Put,
    Store,
    StoreCapabilities,
    StoreError,
    StoreUnavailable,
    Take,
    Unindex,
    Url,
    Write,
)
from dray_brokers.postgres_advice import advice
from dray_brokers.postgres_connection import PostgresServer, Rows

from .postgres_store_functions import NOW, STORE

#: Largest value. PostgreSQL's own limit is near 1 GB for a whole statement, which is too much for it to be friendly.
LARGEST_VALUE = 16 * 1024 * 1024
#: Most keys of one change, which holds its partition meanwhile.
MOST_KEYS = 1000
#: Most changes, and most bytes of values in them, that one transaction makes.
COMMIT, COMMIT_BYTES = 1000, 16 * 1024 * 1024
#: Seconds from one sweep of forgotten partitions to the next, and the most partitions and records one sweep deletes: a
#: part of `commit`, it must not make anyone wait.
SWEEP_EVERY, SWEEP, SWEEP_RECORDS = 5.0, 100, 1000
#: Seconds for which a bucket is kept that is full, and for which the last token of a lock is remembered.
BUCKET_KEPT, TOKENS_KEPT = 60.0, 7 * 86400.0
#: No key (of 250 characters) that begins with a prefix comes after the prefix with this behind it.
AFTER_ALL = "\U0010ffff" * 250

CALL_COMMIT = """
    SELECT * FROM {schema}.store_commit(
        %(parts)b::text[], %(ttls)b::float8[], %(ends)b::int[],
        %(kinds)b::text[], %(names)b::text[], %(keys)b::text[], %(datas)b::bytea[])"""
CALL_READ = "SELECT * FROM {schema}.store_read(%(parts)b::text[], %(keys)b::text[])"
CALL_SCAN = "SELECT * FROM {schema}.store_scan(%(part)s, %(first)s, %(last)s, %(after)s, %(limit)s)"
CALL_DUE = "SELECT * FROM {schema}.store_due(%(index)s, %(until)s, %(at)s, %(part)s, %(key)s, %(limit)s)"
CALL_TAKE = """
    SELECT * FROM {schema}.store_take(
        %(parts)b::text[], %(everies)b::float8[], %(bursts)b::float8[], %(costs)b::float8[], %(aheads)b::float8[],
        %(keep)s)"""
CALL_HOLD = """
    SELECT * FROM {schema}.store_hold(
        %(parts)b::text[], %(holders)b::text[], %(seconds)b::float8[], %(mosts)b::bigint[], %(keep)s)"""
CALL_LET_GO = "SELECT {schema}.store_let_go(%(parts)b::text[], %(holders)b::text[])"
CALL_SWEEP = "SELECT * FROM {schema}.store_sweep(%(parts)s, %(records)s)"


class PostgresStore(Store):
    """`postgresql://user:password@host/database`; options: `dray_brokers.postgres_connection.PostgresOptions`."""

    capabilities = StoreCapabilities(server_time=True, max_value_bytes=LARGEST_VALUE, max_keys=MOST_KEYS)

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        self._server = PostgresServer(url, refused=StoreError, unavailable=StoreUnavailable)
        #: When the next sweep is due, on the clock that never jumps.
        self._next_sweep = 0.0

    def open(self) -> None:
        self._server.open(STORE)

    def close(self) -> None:
        self._server.close()

    def setup(self) -> Sequence[str]:
        return self._server.setup(STORE)

    def advice(self) -> Sequence[str]:
        return advice(self._server)

    def now(self) -> float:
        ((now,),) = self._server.rows(NOW, {})
        return float(now)

    def commit(self, changes: Sequence[Change]) -> Sequence[Changed]:
        done: list[Changed] = []
        for batch in _cut(changes):
            # What writes nothing locks nothing: it sees one instant of the database.
            done += self._make(batch) if any(change.writes for change in batch) else self._read(batch)
        return done

    def scan(self, part: str, prefix: str = "", after: str = "", limit: int = 1000) -> Sequence[tuple[str, bytes]]:
        place = {"part": part, "first": prefix, "last": prefix + AFTER_ALL, "after": after, "limit": limit}
        return [(key, value) for key, value in self._server.rows(CALL_SCAN, place)]

    def due(self, index: str, until: float, limit: int, after: Due | None = None) -> Sequence[Due]:
        last = after or Due(-inf, "", "")
        place = {"at": float(last.at), "part": last.part, "key": last.key}
        found = self._server.rows(CALL_DUE, place | {"index": index, "until": float(until), "limit": limit})
        return [Due(at, part, key) for at, part, key in found]

    def take(self, takes: Sequence[Take]) -> Sequence[float]:
        wishes = {
            "parts": [wish.part for wish in takes],
            "everies": [float(wish.every) for wish in takes],
            "bursts": [float(wish.burst) for wish in takes],
            "costs": [float(wish.cost) for wish in takes],
            "aheads": [float(wish.ahead) for wish in takes],
            "keep": BUCKET_KEPT,
        }
        return [wait for (wait,) in self._change(CALL_TAKE, wishes)] if takes else []

    def hold(self, holds: Sequence[Hold]) -> Sequence[int]:
        wishes = _places(holds) | {
            "seconds": [float(wish.seconds) for wish in holds],
            "mosts": [wish.most for wish in holds],
            "keep": TOKENS_KEPT,
        }
        return [token for (token,) in self._change(CALL_HOLD, wishes)] if holds else []

    def let_go(self, holds: Sequence[Hold]) -> None:
        if holds:
            self._server.rows(CALL_LET_GO, _places(holds))

    def purge(self) -> int:
        total, more = 0, True
        while more:
            dropped, more = self._sweep()
            total += dropped
        return total

    def _make(self, changes: Sequence[Change]) -> list[Changed]:
        refused = set()
        values: list[dict[str, bytes]] = [{} for _ in changes]
        for number, key, value in self._change(CALL_COMMIT, _steps(changes)):
            if key is None:
                refused.add(number)
            else:
                values[number - 1][key] = value
        return [Changed(number not in refused, found) for number, found in enumerate(values, 1)]

    def _read(self, changes: Sequence[Change]) -> list[Changed]:
        asked = [(each.part, key) for each in changes for key in (*each.reads, *(check.key for check in each.checks))]
        if not asked:
            return [Changed(True, {}) for _ in changes]
        parts, keys = map(list, zip(*asked, strict=True))
        rows = self._server.rows(CALL_READ, {"parts": parts, "keys": keys})
        found = {asked[number - 1]: value for number, value in rows}
        return [
            Changed(
                all(_holds(check, found.get((each.part, check.key))) for check in each.checks),
                {key: found[each.part, key] for key in each.reads if (each.part, key) in found},
            )
            for each in changes
        ]

    def _change(self, call: str, parameters: Mapping[str, object]) -> Rows:
        """Make a call that changes partitions; now and then, before it, drop some of those that are forgotten."""
        if self.clock.monotonic() >= self._next_sweep:
            self._next_sweep = self.clock.monotonic() + SWEEP_EVERY
            self._sweep()
        return self._server.rows(call, parameters)

    def _sweep(self) -> tuple[int, bool]:
        """Drop some of what is forgotten; return how many partitions that made, and whether there may be more."""
        ((dropped, more),) = self._server.rows(CALL_SWEEP, {"parts": SWEEP, "records": SWEEP_RECORDS})
        return dropped, more


def _cut(changes: Sequence[Change]) -> Iterator[list[Change]]:
    """Cut changes into what one transaction makes, unless one alone has more."""
    batch: list[Change] = []
    size = 0
    for change in changes:
        weight = sum(len(step.value) for step in (*change.checks, *change.writes) if isinstance(step, Put | Equals))
        if batch and (len(batch) == COMMIT or size + weight > COMMIT_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(change)
        size += weight
    if batch:
        yield batch


def _steps(changes: Sequence[Change]) -> dict[str, object]:
    """Return changes as the columns that `store_commit` takes."""
    steps: list[tuple[str, str | None, str, bytes | None]] = []
    ends = []
    for change in changes:
        steps += [_step(step) for step in (*change.checks, *change.writes)]
        steps += [("read", None, key, None) for key in change.reads]
        ends.append(len(steps))
    kinds, names, keys, datas = map(list, zip(*steps, strict=True))
    return {
        "parts": [change.part for change in changes],
        "ttls": [float(change.ttl) if change.writes and change.ttl is not None else None for change in changes],
        "ends": ends,
        "kinds": kinds,
        "names": names,
        "keys": keys,
        "datas": datas,
    }


def _step(step: Check | Write) -> tuple[str, str | None, str, bytes | None]:
    """Return a check or a write as kind, index, key and what it comes with."""
    match step:
        case Put(key, value):
            return "put", None, key, value
        case Add(key, number):
            return "add", None, key, b"%d" % number
        case Absent(key):
            return "absent", None, key, None
        case Present(key):
            return "present", None, key, None
        case Equals(key, value):
            return "equals", None, key, value
        case Index(index, key, at):
            return "index", index, key, repr(float(at)).encode()
        case Unindex(index, key):
            return "unindex", index, key, None
        case Delete(key):
            return "delete", None, key, None


def _holds(check: Check, value: bytes | None) -> bool:
    match check:
        case Absent():
            return value is None
        case Present():
            return value is not None
        case Equals(_, wanted):
            return value == wanted


def _places(holds: Sequence[Hold]) -> dict[str, object]:
    return {"parts": [wish.part for wish in holds], "holders": [wish.holder for wish in holds]}
