"""The sqlite:// broker: queues in one file, for many processes on one host, safe from kill -9 at any instruction.

A message is one row of `dray_message`, and its state is read off two columns:

    due NULL                       ready: waiting in line
    due in the future, no token    delayed
    due in the future, a token     leased until `due`, to the consumer that knows the token
    due in the past                ready, but not in line yet: a delay or a lease has run out

The next fetch from its queue puts a message of the last kind in line, so there is no reaper to keep alive.
The line is the primary key `seq`: who gets a new, highest `seq` stands at the back. Every transition is one
statement or one transaction. Network filesystems are not supported: SQLite's locks do not work there.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from math import inf
from typing import Any

from dray import (
    FOREVER,
    Broker,
    BrokerError,
    BrokerUnavailable,
    Capabilities,
    Consumer,
    Delivery,
    Envelope,
    Url,
    Waiting,
)

from .sqlite_file import SqliteFile

#: Version of the tables below, kept in the file.
VERSION = 1
#: Most messages put in line by one fetch, so that no transaction is long however many come due together.
PROMOTE = 1000
#: Most bytes of bodies one fetch brings, unless one body alone is larger: they are held in memory.
FETCH_BYTES = 8 * 1024 * 1024
#: Longest time in which a waiting consumer misses a message of another process (seconds). A look costs up to 0.2 ms of
#: processor time where timers are dear, which makes half a percent of a core.
LONGEST_PAUSE = 0.05
#: Rows deleted by one transaction of a purge.
PURGE = 10_000

TABLES = (
    """
    CREATE TABLE dray_message (
        seq INTEGER PRIMARY KEY,        -- place in line
        id TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        queue TEXT NOT NULL,
        priority INTEGER NOT NULL,      -- 0-9, 9 comes out first
        due REAL,                       -- NULL: ready; else when the delay or the lease ends (seconds since 1970)
        token INTEGER,                  -- of the fetch that lent it; NULL: not lent
        deliveries INTEGER NOT NULL,    -- times lent, counted by the fetch
        published REAL NOT NULL,
        body BLOB NOT NULL
    ) STRICT""",
    "CREATE UNIQUE INDEX dray_message_id ON dray_message (id, attempt)",
    # Ready rows in the order they come out; all others in the order they come due. A row is in one of the two only.
    "CREATE INDEX dray_message_ready ON dray_message (queue, priority DESC, seq) WHERE due IS NULL",
    "CREATE INDEX dray_message_due ON dray_message (queue, due, token) WHERE due IS NOT NULL",
    """
    CREATE TABLE dray_dead (
        seq INTEGER PRIMARY KEY,        -- order of burial
        id TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        queue TEXT NOT NULL,
        priority INTEGER NOT NULL,
        deliveries INTEGER NOT NULL,
        published REAL NOT NULL,
        body BLOB NOT NULL,
        reason TEXT NOT NULL,
        buried REAL NOT NULL            -- when
    ) STRICT""",
    "CREATE INDEX dray_dead_queue ON dray_dead (queue, seq)",
    "CREATE INDEX dray_dead_id ON dray_dead (id)",
    """
    CREATE TABLE dray_cancelled (
        id TEXT PRIMARY KEY,
        until REAL NOT NULL             -- when it may be forgotten
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX dray_cancelled_until ON dray_cancelled (until)",
)

PUBLISH = """
    INSERT INTO dray_message (id, attempt, queue, priority, due, deliveries, published, body)
    VALUES (?, ?, ?, ?, ?, 0, ?, ?) ON CONFLICT (id, attempt) DO NOTHING"""

# Look: is anything ready, and when does the next one come due?
LOOK = """
    SELECT EXISTS (SELECT 1 FROM dray_message WHERE queue = :queue AND due IS NULL),
           (SELECT due FROM dray_message WHERE queue = :queue AND due IS NOT NULL ORDER BY due LIMIT 1)"""

# Fetch, one transaction: put in line what has come due, read the head of the line, lend it.
COME_DUE = "SELECT seq FROM dray_message WHERE queue = ? AND due <= ? ORDER BY due LIMIT ?"
PROMOTE_ONE = """
    UPDATE dray_message SET seq = (SELECT max(seq) + 1 FROM dray_message), due = NULL, token = NULL WHERE seq = ?"""
LINE = "FROM dray_message WHERE queue = :queue AND due IS NULL ORDER BY priority DESC, seq LIMIT :limit"
HEAD = f"""
    SELECT seq, id, body, deliveries + 1, priority, attempt, published,
           EXISTS (SELECT 1 FROM dray_cancelled WHERE until > :now)
           AND EXISTS (SELECT 1 FROM dray_cancelled AS c WHERE c.id = dray_message.id AND c.until > :now) {LINE}"""
LEND = f"""
    UPDATE dray_message SET due = :until, token = :token, deliveries = deliveries + 1
    WHERE seq IN (SELECT seq {LINE})"""

# Settle: each holds only while the token is still the one of this loan. A loan that is over but that nobody else has
# taken up yet can still be settled, which saves a second run.
HELD = "WHERE seq = ? AND token = ?"
ACK = f"DELETE FROM dray_message {HELD}"
# The same for all the loans of one fetch at once, which is four times as quick but tells only how many were held.
ACK_ALL = "DELETE FROM dray_message WHERE token = ? AND seq IN (SELECT value FROM json_each(?))"
REQUEUE = f"""
    UPDATE dray_message SET seq = (SELECT max(seq) + 1 FROM dray_message), due = ?, token = NULL {HELD}"""
RELEASE = f"UPDATE dray_message SET due = NULL, token = NULL, deliveries = deliveries - 1 {HELD}"
GIVE_BACK = f"UPDATE dray_message SET due = NULL, token = NULL {HELD}"
EXTEND = f"UPDATE dray_message SET due = ? {HELD}"
BURY = f"""
    INSERT INTO dray_dead (id, attempt, queue, priority, deliveries, published, body, reason, buried)
    SELECT id, attempt, queue, priority, deliveries, published, body, ?, ? FROM dray_message {HELD}"""

CANCEL = """
    INSERT INTO dray_cancelled (id, until) VALUES (?, ?)
    ON CONFLICT (id) DO UPDATE SET until = max(until, excluded.until)"""
SWEEP_CANCELLED = "DELETE FROM dray_cancelled WHERE until <= ?"
IS_CANCELLED = "SELECT 1 FROM dray_cancelled WHERE id = ? AND until > ?"

STATE = "CASE WHEN due IS NULL OR due <= :now THEN 'ready' WHEN token IS NULL THEN 'delayed' ELSE 'leased' END"
# The newest attempt of an id speaks for it.
FIND = f"""
    SELECT {STATE} AS state, attempt, 1 AS alive FROM dray_message WHERE id = :id
    UNION ALL SELECT 'dead', attempt, 0 FROM dray_dead WHERE id = :id
    ORDER BY attempt DESC, alive DESC LIMIT 1"""
# Each step of the recursion finds the next name in an index, however many rows have it.
_NAMES = """
    SELECT queue FROM (
        WITH RECURSIVE name (queue) AS (
            SELECT min(queue) FROM {table} WHERE {which}
            UNION ALL
            SELECT (SELECT min(queue) FROM {table} WHERE queue > name.queue AND {which}) FROM name
            WHERE name.queue IS NOT NULL)
        SELECT queue FROM name WHERE queue IS NOT NULL)"""
QUEUES = " UNION ".join(
    _NAMES.format(table=table, which=which)
    for table, which in (("dray_message", "due IS NULL"), ("dray_message", "due IS NOT NULL"), ("dray_dead", "true"))
)
# One scan of the index for each state: counting by `CASE` takes five times as long.
IN_QUEUE = "SELECT count(*) FROM dray_message WHERE queue = :queue AND"
SIZES = f"""
    SELECT ({IN_QUEUE} due IS NULL) + ({IN_QUEUE} due <= :now),
           ({IN_QUEUE} due > :now AND token IS NULL),
           ({IN_QUEUE} due > :now AND token IS NOT NULL),
           (SELECT count(*) FROM dray_dead WHERE queue = :queue)"""
# The columns of PEEK and DEAD, as `Waiting` calls them.
SHOWN = (
    *("id", "queue", "body", "priority", "attempt", "delivery_count", "published"),
    *("delay", "state", "reason", "buried"),
)
PEEK = f"""
    SELECT id, queue, body, priority, attempt, deliveries, published, max(0.0, coalesce(due, 0) - :now), {STATE},
           '', NULL
    FROM (
        SELECT * FROM (SELECT * {LINE})
        UNION ALL
        SELECT * FROM (SELECT * FROM dray_message WHERE queue = :queue AND due IS NOT NULL ORDER BY due LIMIT :limit))
    ORDER BY due, priority DESC, seq LIMIT :limit"""
PURGE_SOME = """
    DELETE FROM dray_message WHERE seq IN (
        SELECT seq FROM dray_message WHERE queue = :queue AND due IS NULL
        UNION ALL
        SELECT seq FROM dray_message WHERE queue = :queue AND due IS NOT NULL AND (token IS NULL OR due <= :now)
        LIMIT :limit)"""

CHOSEN = "WHERE queue = :queue AND (:ids IS NULL OR id IN (SELECT value FROM json_each(:ids)))"
DEAD = f"""
    SELECT id, queue, body, priority, attempt, deliveries, published, 0.0, 'dead', reason, buried
    FROM dray_dead {CHOSEN} ORDER BY seq LIMIT :limit"""
LETTERS = f"SELECT seq FROM dray_dead {CHOSEN} ORDER BY seq"
REPLAY_ONE = """
    INSERT INTO dray_message (id, attempt, queue, priority, deliveries, published, body)
    SELECT id, attempt, queue, priority, 0, published, body FROM dray_dead WHERE seq = ?
    ON CONFLICT (id, attempt) DO NOTHING"""
DISCARD_ONE = "DELETE FROM dray_dead WHERE seq = ?"
DISCARD = f"DELETE FROM dray_dead {CHOSEN}"


class SqliteBroker(Broker):
    """`sqlite:///tasks.db` (below the working directory) or `sqlite:////var/lib/tasks.db` (from the root).

    Options: `synchronous=full` to survive power cuts too, `timeout=SECONDS` to wait for another connection's write.
    """

    capabilities = Capabilities(
        max_delay=FOREVER,
        priority_levels=10,
        lease=True,
        delivery_count=True,
        release_uncharged=True,
        requeue_delay=True,
        dedup=True,
        fifo=True,
        cancel=True,
        find=True,
        peek=True,
        dead_letters=True,
        purge=True,
        size="exact",
        transactional=True,
    )

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        self._file = SqliteFile(url, refused=BrokerError, unavailable=BrokerUnavailable)

    def open(self) -> None:
        self._file.open("broker", VERSION, TABLES)

    def close(self) -> None:
        self._file.close()

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        if not envelopes:
            return
        rows = self._rows(envelopes)
        # A single statement is a transaction by itself.
        with self._file.writing() if len(rows) > 1 else self._file.alone() as db:
            db.executemany(PUBLISH, rows)
        self._file.ring()

    def publish_within(self, connection: Any, envelopes: Sequence[Envelope]) -> None:
        # Nobody is rung for: it is the caller who commits, and who may not. Consumers see that by looking.
        with self._file.within(connection) as db:
            db.executemany(PUBLISH, self._rows(envelopes))

    def consumer(self, queues: Sequence[str], lease: float) -> Consumer:
        return SqliteConsumer(self, self._file, queues, lease)

    def cancel(self, ids: Sequence[str], ttl: float) -> None:
        now = self.clock.time()
        with self._file.writing() as db:
            db.execute(SWEEP_CANCELLED, (now,))
            db.executemany(CANCEL, [(id, now + ttl) for id in ids])

    def cancelled(self, ids: Sequence[str]) -> set[str]:
        now = self.clock.time()
        with self._file.reading() as db:
            return {id for id in ids if db.execute(IS_CANCELLED, (id, now)).fetchone()}

    def find(self, ids: Sequence[str]) -> Mapping[str, str]:
        now = self.clock.time()
        with self._file.reading() as db:
            rows = {id: db.execute(FIND, {"id": id, "now": now}).fetchone() for id in ids}
        return {id: row[0] for id, row in rows.items() if row}

    def queues(self) -> Sequence[str]:
        with self._file.reading() as db:
            return sorted(queue for (queue,) in db.execute(QUEUES))

    def sizes(self, queues: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        now = self.clock.time()
        with self._file.reading() as db:
            rows = {queue: db.execute(SIZES, {"queue": queue, "now": now}).fetchone() for queue in queues}
        return {
            queue: dict(zip(("ready", "delayed", "leased", "dead"), row, strict=True)) for queue, row in rows.items()
        }

    def peek(self, queue: str, limit: int) -> Sequence[Waiting]:
        with self._file.reading() as db:
            return _waiting(db.execute(PEEK, {"queue": queue, "limit": limit, "now": self.clock.time()}))

    def purge(self, queue: str) -> int:
        total = 0
        while True:
            with self._file.writing() as db:
                some = db.execute(PURGE_SOME, {"queue": queue, "limit": PURGE, "now": self.clock.time()}).rowcount
            total += some
            if some < PURGE:
                return total

    def dead(self, queue: str, limit: int, ids: Sequence[str] | None = None) -> Sequence[Waiting]:
        with self._file.reading() as db:
            return _waiting(db.execute(DEAD, _chosen(queue, ids) | {"limit": limit}))

    def replay(self, queue: str, ids: Sequence[str] | None = None) -> int:
        replayed = 0
        with self._file.writing() as db:
            for letter in db.execute(LETTERS, _chosen(queue, ids)).fetchall():
                # One whose (id, attempt) has been published again meanwhile stays dead: it must not run twice.
                if db.execute(REPLAY_ONE, letter).rowcount:
                    db.execute(DISCARD_ONE, letter)
                    replayed += 1
        self._file.ring()
        return replayed

    def discard(self, queue: str, ids: Sequence[str] | None = None) -> int:
        with self._file.writing() as db:
            return db.execute(DISCARD, _chosen(queue, ids)).rowcount

    def _rows(self, envelopes: Sequence[Envelope]) -> list[tuple[Any, ...]]:
        now = self.clock.time()
        return [
            (e.id, e.attempt, e.queue, e.priority, now + e.delay if e.delay > 0 else None, now, e.body)
            for e in envelopes
        ]


class SqliteConsumer(Consumer):
    """The loans of one worker. A receipt is (seq, token); the token is drawn anew for every fetch."""

    def __init__(self, broker: SqliteBroker, file: SqliteFile, queues: Sequence[str], lease: float) -> None:
        self._clock = broker.clock
        self._file = file
        self._queues = tuple(queues)
        self._lease = lease
        #: Kept from call to call, so that an idle worker is cheap however often it calls.
        self._watch = file.watch(LONGEST_PAUSE)
        #: The queues that were looked at last, and when (seconds since 1970) the next message of theirs comes due.
        self._looked_at: tuple[str, ...] = ()
        self._next_due = -inf
        #: Receipts of what was lent and not settled: what `close` gives back.
        self._lent: set[tuple[int, int]] = set()
        self._woken = False

    def receive(self, limit: int, wait: float, queues: Sequence[str] | None = None) -> Sequence[Delivery]:
        names = self._queues if queues is None else tuple(queues)
        limit = min(limit, SqliteBroker.capabilities.max_receive_batch)
        end = self._clock.monotonic() + wait
        # An idle worker calls again and again with a short wait. What the last look has found out still holds, as long
        # as nobody commits anything.
        while True:
            if wait <= 0 or self._must_look(names):
                taken = self._take(names, limit)
                if taken or limit <= 0:
                    return taken
            if self._woken or self._clock.monotonic() >= end:
                self._woken = False
                return []
            self._watch.wait(partial(self._left, end))

    def wake(self) -> None:
        self._woken = True
        self._file.ring()

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        if deliveries and not self._ack_all(deliveries):
            # Somebody else has some of them: now one by one, to see which.
            return self._settle(deliveries, ACK)
        self._lent.difference_update([delivery.receipt for delivery in deliveries])
        self._file.ring()
        return []

    def requeue(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> Sequence[Delivery]:
        return self._settle(deliveries, REQUEUE, self._clock.time() + delay if delay > 0 else None)

    def release(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return self._settle(deliveries, RELEASE)

    def bury(self, deliveries: Sequence[Delivery], reason: str) -> Sequence[Delivery]:
        return self._settle(deliveries, BURY, reason, self._clock.time(), then=ACK)

    def extend(self, deliveries: Sequence[Delivery], seconds: float) -> Sequence[Delivery]:
        return self._change(deliveries, EXTEND, self._clock.time() + seconds)

    def close(self) -> None:
        lent, self._lent = self._lent, set()
        if lent and self._file.is_open:
            with self._file.writing() as db:
                db.executemany(GIVE_BACK, lent)
            self._file.ring()

    def _ack_all(self, deliveries: Sequence[Delivery]) -> bool:
        """Ack them all, or none of them when not all are still held; return which."""
        seqs_of: defaultdict[int, list[int]] = defaultdict(list)
        for delivery in deliveries:
            seq, token = delivery.receipt
            seqs_of[token].append(seq)
        with self._file.alone() as db:
            db.execute("BEGIN IMMEDIATE")
            held = sum(db.execute(ACK_ALL, (token, json.dumps(seqs))).rowcount for token, seqs in seqs_of.items())
            db.execute("COMMIT" if held == len(deliveries) else "ROLLBACK")
        return held == len(deliveries)

    def _must_look(self, names: tuple[str, ...]) -> bool:
        return self._watch.changed() or names != self._looked_at or self._clock.time() >= self._next_due

    def _left(self, end: float) -> float:
        return min(end - self._clock.monotonic(), self._next_due - self._clock.time())

    def _take(self, names: tuple[str, ...], limit: int) -> list[Delivery]:
        """Borrow up to `limit` messages; when there are none, note when the next one comes due."""
        self._watch.mark()
        self._looked_at = names
        taken: list[Delivery] = []
        with self._file.alone() as db:
            # Looking first keeps idle workers from locking out everybody else.
            self._next_due = _look(db, names)
            if self._next_due <= self._clock.time() and limit > 0:
                db.execute("BEGIN IMMEDIATE")
                # The lock may have been long in coming; the lease begins when it is had.
                now = self._clock.time()
                room = FETCH_BYTES
                for queue in names:
                    if room > 0:
                        taken += (some := self._take_from(db, queue, limit - len(taken), room, now))
                        room -= sum(len(delivery.body) for delivery in some)
                db.execute("COMMIT")
        if taken:
            self._lent.update([delivery.receipt for delivery in taken])
            self._watch.restart()
        return taken

    def _take_from(self, db: sqlite3.Connection, queue: str, limit: int, room: int, now: float) -> list[Delivery]:
        """Borrow up to `limit` messages, and no more than make `room` bytes or just exceed that."""
        db.executemany(PROMOTE_ONE, db.execute(COME_DUE, (queue, now, PROMOTE)).fetchall())
        token = secrets.randbits(62)
        head: list[Delivery] = []
        with closing(db.execute(HEAD, {"queue": queue, "limit": limit, "now": now})) as rows:
            for row in rows:
                head.append(delivery := _delivery(queue, token, row))
                room -= len(delivery.body)
                if room <= 0:
                    break
        db.execute(LEND, {"queue": queue, "limit": len(head), "token": token, "until": now + self._lease})
        return head

    def _settle(self, deliveries: Sequence[Delivery], sql: str, *values: object, then: str = "") -> list[Delivery]:
        lost = self._change(deliveries, sql, *values, then=then)
        self._lent.difference_update(delivery.receipt for delivery in deliveries)
        self._file.ring()
        return lost

    def _change(self, deliveries: Sequence[Delivery], sql: str, *values: object, then: str = "") -> list[Delivery]:
        """Do `sql`, and `then`, to each loan that is still held, all in one transaction; return the others."""
        lost = []
        if deliveries:
            with self._file.writing() as db:
                for delivery in deliveries:
                    if not db.execute(sql, (*values, *delivery.receipt)).rowcount:
                        lost.append(delivery)
                    elif then:
                        db.execute(then, delivery.receipt)
        return lost


def _look(db: sqlite3.Connection, queues: Sequence[str]) -> float:
    """Return when the next message of `queues` comes out; -inf when one is ready. Locks nobody out."""
    looks = [db.execute(LOOK, {"queue": queue}).fetchone() for queue in queues]
    return min((-inf if ready else inf if due is None else due for ready, due in looks), default=inf)


def _delivery(queue: str, token: int, row: tuple[Any, ...]) -> Delivery:
    seq, id, body, delivery_count, priority, attempt, published, cancelled = row
    return Delivery(
        id=id,
        queue=queue,
        body=body,
        receipt=(seq, token),
        delivery_count=delivery_count,
        priority=priority,
        attempt=attempt,
        published=published,
        cancelled=bool(cancelled),
    )


def _waiting(rows: Iterable[tuple[Any, ...]]) -> list[Waiting]:
    return [Waiting(**dict(zip(SHOWN, row, strict=True))) for row in rows]


def _chosen(queue: str, ids: Sequence[str] | None) -> dict[str, Any]:
    return {"queue": queue, "ids": None if ids is None else json.dumps(list(ids))}
