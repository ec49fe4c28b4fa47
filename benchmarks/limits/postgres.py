"""The limit of postgresql://: rows inserted many at a time, and deleted in the transaction in which they run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import psycopg
from contender import Spot

from limits.loop import BATCH, PATIENCE, TOO_LONG, Item, SharedLoop

TABLES = """
CREATE SCHEMA IF NOT EXISTS dray;
SET search_path = dray;
CREATE TABLE IF NOT EXISTS call (key bigserial PRIMARY KEY, body bytea NOT NULL);
CREATE TABLE IF NOT EXISTS result (key bigint PRIMARY KEY, body bytea NOT NULL);
"""
PUT = "INSERT INTO call (body) SELECT unnest(%b::bytea[])"
#: The batch is locked until the transaction ends; another worker would pass over it.
TAKE = """
    DELETE FROM call WHERE key IN (SELECT key FROM call ORDER BY key LIMIT %b FOR UPDATE SKIP LOCKED)
    RETURNING key, body"""
STORE = "INSERT INTO result (key, body) SELECT * FROM unnest(%b::bigint[], %b::bytea[])"
FETCH = "DELETE FROM result RETURNING body"


class PostgresLoop(SharedLoop):
    """One connection. A batch is one transaction, so that a loop that is killed gives it back."""

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot)
        self._db = psycopg.connect(spot.servers["postgresql"], autocommit=True)
        self._db.execute(TABLES)

    def put(self, bodies: Sequence[bytes]) -> None:
        self._db.execute(PUT, (list(bodies),))

    def take(self) -> Sequence[Item]:
        self._db.execute("BEGIN")
        items = self._db.execute(TAKE, (BATCH,), binary=True).fetchall()
        if not items:
            self._db.execute("COMMIT")
        return items

    def settle(self, items: Sequence[Item], results: Sequence[bytes]) -> None:
        if results:
            self._db.execute(STORE, ([key for key, _ in items], list(results)))
        self._db.execute("COMMIT")

    def call(self, body: bytes) -> bytes:
        self._db.execute("LISTEN results")
        self.put([body])
        self._db.execute("NOTIFY calls")
        end = time.monotonic() + TOO_LONG
        while time.monotonic() < end:
            if row := self._db.execute(FETCH, binary=True).fetchone():
                return bytes(row[0])
            self._wait()
        raise RuntimeError("no answer")

    def serve(self, answer: Callable[[bytes], bytes], ended: Callable[[], bool]) -> None:
        self._db.execute("LISTEN calls")
        while not ended():
            if items := self.take():
                self.settle(items, [answer(body) for _, body in items])
                self._db.execute("NOTIFY results")
            self._wait()

    def _wait(self) -> None:
        """Wait for a notification. One that came in the middle of a statement may be missed, and costs some time."""
        list(self._db.notifies(timeout=PATIENCE, stop_after=1))

    def close(self) -> None:
        self._db.close()
        super().close()
