"""The postgresql:// result backend: records in one schema of a database, waited for by notification.

It may share its schema with the postgresql:// broker. The rule of the first final writer is part of the one statement
that stores a batch, so it holds between processes too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from dray import BackendError, BackendUnavailable, Record, ResultBackend, Url
from dray_brokers.postgres_connection import PostgresServer, Rows
from dray_brokers.postgres_schema import Part

from .batches import cut, last_words

#: Seconds from one sweep of expired records to the next, and the most records one sweep deletes: a part of `store`,
#: it must not make anyone wait.
SWEEP_EVERY, SWEEP = 5.0, 1000
#: Most records, and most bytes of them, that one statement stores.
STORE, STORE_BYTES = 1000, 16 * 1024 * 1024
#: Channel on which ids are named whose result is there.
CHANNEL = "result"
#: Seconds between two looks while waiting: with notifications, for those that were lost; without, the first, how much
#: longer each is than the one before, and the longest.
LISTENING_PAUSE = 1.0
FIRST_PAUSE, GROWTH, LONGEST_PAUSE = 0.002, 1.5, 0.1

BACKEND = Part(
    "backend",
    (
        (
            """
            CREATE TABLE {schema}.result (
                expires timestamptz,            -- NULL: never
                rank bigint NOT NULL,           -- orders the writers of one id
                final boolean NOT NULL,         -- nothing more will happen to this id
                state text NOT NULL,
                id text COLLATE "C" PRIMARY KEY,
                body bytea NOT NULL
            ) WITH (
                autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000,
                toast.autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_threshold = 10000
            )""",
            "CREATE INDEX result_expires ON {schema}.result (expires) WHERE expires IS NOT NULL",
        ),
    ),
)

# A kept record that is final and not expired yields only to a final one of at least its rank. Notifications carry ten
# ids each, which is less than the 8000 bytes that one can hold, whatever the ids are; longer ids than dray knows are
# left to those who look again by themselves.
STORE_ALL = """
    WITH stored AS (
        INSERT INTO {schema}.result AS kept (id, state, final, rank, expires, body)
        SELECT id, state, final, rank, clock_timestamp() + %(ttl)s::float8 * interval '1 second', body
        FROM unnest(%(ids)b::text[], %(states)b::text[], %(finals)b::boolean[], %(ranks)b::bigint[],
                    %(bodies)b::bytea[]) AS record (id, state, final, rank, body)
        ON CONFLICT (id) DO UPDATE
        SET state = excluded.state, final = excluded.final, rank = excluded.rank, expires = excluded.expires,
            body = excluded.body
        WHERE NOT kept.final OR (excluded.final AND excluded.rank >= kept.rank) OR kept.expires <= clock_timestamp()
        RETURNING id, final),
    told AS (
        SELECT id, (row_number() OVER () - 1) / 10 AS slice FROM stored
        WHERE final AND length(id) <= 128 AND %(notify)s)
    SELECT pg_notify(%(channel)s, json_agg(id)::text) FROM told GROUP BY slice"""
FETCH = """
    SELECT id, state, final, rank, body FROM {schema}.result
    WHERE id = ANY (%(ids)b::text[]) AND (expires IS NULL OR expires > clock_timestamp())"""
FORGET = "DELETE FROM {schema}.result WHERE id = ANY (%(ids)b::text[]) RETURNING 1"
PURGE_SOME = f"""
    DELETE FROM {{schema}}.result WHERE id IN (
        SELECT id FROM {{schema}}.result WHERE expires <= (SELECT clock_timestamp()) ORDER BY expires LIMIT {SWEEP}
        FOR UPDATE SKIP LOCKED)
    RETURNING 1"""


class PostgresBackend(ResultBackend):
    """`postgresql://user:password@host/database`; options: `dray_brokers.postgres_connection.PostgresOptions`."""

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        self._server = PostgresServer(url, refused=BackendError, unavailable=BackendUnavailable)
        #: When the next sweep is due, on the clock that never jumps.
        self._next_sweep = 0.0

    def open(self) -> None:
        self._server.open(BACKEND)

    def close(self) -> None:
        self._server.close()

    def setup(self) -> Sequence[str]:
        return self._server.setup(BACKEND)

    def store(self, records: Sequence[Record], ttl: float | None) -> None:
        bell = {
            "channel": self._server.channel(CHANNEL),
            "notify": self._server.options.notify == "yes",
            "ttl": None if ttl is None else float(ttl),
        }
        for batch in cut(last_words(records), STORE, STORE_BYTES):
            self._server.rows(STORE_ALL, _columns(batch) | bell)
        if records and self.clock.monotonic() >= self._next_sweep:
            self._next_sweep = self.clock.monotonic() + SWEEP_EVERY
            self._server.rows(PURGE_SOME, {})

    def fetch(self, ids: Sequence[str]) -> Mapping[str, Record]:
        rows: Rows = self._server.rows(FETCH, {"ids": list(ids)}) if ids else []
        return {
            id: Record(id=id, state=state, final=final, rank=rank, body=body) for id, state, final, rank, body in rows
        }

    def forget(self, ids: Sequence[str]) -> None:
        if ids:
            self._server.rows(FORGET, {"ids": sorted(set(ids))})

    def wait(self, ids: Sequence[str], timeout: float) -> Mapping[str, Record]:
        end = self.clock.monotonic() + timeout
        if timeout <= 0:
            return self.fetch(ids)
        pause = FIRST_PAUSE
        with self._server.listener(CHANNEL, _ids).watching(ids) as watch:
            while True:
                watch.clear()
                found = self.fetch(ids)
                left = end - self.clock.monotonic()
                if left <= 0 or any(record.final for record in found.values()):
                    return found
                watch.wait(min(left, LISTENING_PAUSE if watch.live else pause))
                pause = min(pause * GROWTH, LONGEST_PAUSE)

    def purge(self) -> int:
        total = 0
        while some := len(self._server.rows(PURGE_SOME, {})):
            total += some
        return total


def _columns(records: Sequence[Record]) -> dict[str, object]:
    return {
        "ids": [r.id for r in records],
        "states": [r.state for r in records],
        "finals": [r.final for r in records],
        "ranks": [r.rank for r in records],
        "bodies": [r.body for r in records],
    }


def _ids(payload: str) -> list[str]:
    """Read from a notification whose results it is about; nothing from one that dray has not sent."""
    try:
        named = json.loads(payload)
    except ValueError:
        return []
    return [id for id in named if isinstance(id, str)] if isinstance(named, list) else []
