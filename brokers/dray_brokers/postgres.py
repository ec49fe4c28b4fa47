"""The postgresql:// broker: queues in one schema of a database, for any number of hosts, and in the caller's
transaction where that is wished.

The tables, and every step a message takes, are in `postgres_statements`. Killed between two statements, a worker leaves
loans that run out; killed within one, nothing of it has happened.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

import psycopg
from psycopg.pq import TransactionStatus

from dray import (
    FOREVER,
    Broker,
    BrokerError,
    BrokerUnavailable,
    Capabilities,
    Consumer,
    Delivery,
    Envelope,
    PublishError,
    Url,
    Waiting,
)

from . import postgres_statements as sql
from .postgres_advice import advice
from .postgres_connection import PostgresServer, Rows

#: Largest body. PostgreSQL's own limit is near 1 GB for a whole statement, which is too much for it to be friendly.
LARGEST_BODY = 64 * 1024 * 1024
#: Most bytes of bodies one statement publishes, unless one body alone is larger.
PUBLISH_BYTES = 16 * 1024 * 1024
#: Most bytes of bodies one fetch brings, unless one body alone is larger: they are held in memory.
FETCH_BYTES = 8 * 1024 * 1024
#: Longest id and queue name in bytes: they have to fit into an index.
LONGEST_NAME = 1000
#: Channel on which queues are named that got something.
CHANNEL = "queue"
#: Seconds between two looks of a consumer that hears notifications: for those that were lost.
LISTENING_PAUSE = 1.0
#: The same without notifications: the first after something came, how much longer each is than the one before, and the
#: longest.
FIRST_PAUSE, GROWTH, LONGEST_PAUSE = 0.002, 1.5, 0.1


class PostgresBroker(Broker):
    """`postgresql://user:password@host/database`; options: `postgres_connection.PostgresOptions`."""

    capabilities = Capabilities(
        max_delay=FOREVER,
        priority_levels=10,
        lease=True,
        delivery_count=True,
        release_uncharged=True,
        requeue_delay=True,
        max_message_bytes=LARGEST_BODY,
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
        self._server = PostgresServer(url, refused=BrokerError, unavailable=BrokerUnavailable)

    def open(self) -> None:
        self.place = f"postgresql:{self._server.open(sql.BROKER)}"

    def close(self) -> None:
        self._server.close()

    def setup(self, queues: Sequence[str]) -> Sequence[str]:
        return self._server.setup(sql.BROKER)

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        accepted, rejected = _sifted(envelopes)
        for batch in _batches(accepted):
            self._server.rows(sql.PUBLISH, _columns(batch) | self._bell())
        if rejected:
            raise PublishError(rejected)

    def publish_within(self, connection: Any, envelopes: Sequence[Envelope]) -> None:
        self._check_connection(connection)
        accepted, rejected = _sifted(envelopes)
        for batch in _batches(accepted):
            self._server.rows_within(connection, sql.PUBLISH, _columns(batch) | self._bell())
        if rejected:
            raise PublishError(rejected)

    def consumer(self, queues: Sequence[str], lease: float) -> Consumer:
        return PostgresConsumer(self, self._server, queues, lease)

    def cancel(self, ids: Sequence[str], ttl: float) -> None:
        if ids:
            self._server.rows(sql.SWEEP_CANCELLED, {})
            # In one order, so that two who cancel the same ids do not wait for each other.
            self._server.rows(sql.CANCEL, {"ids": sorted(set(ids)), "ttl": float(ttl)})

    def cancelled(self, ids: Sequence[str]) -> set[str]:
        return {id for (id,) in self._server.rows(sql.CANCELLED, {"ids": list(ids)})} if ids else set()

    def find(self, ids: Sequence[str]) -> Mapping[str, str]:
        return dict(self._server.rows(sql.FIND, {"ids": list(ids)})) if ids else {}

    def queues(self) -> Sequence[str]:
        return sorted(queue for (queue,) in self._server.rows(sql.QUEUES, {}))

    def sizes(self, queues: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        if not queues:
            return {}
        states = ("ready", "delayed", "leased", "dead")
        rows = self._server.rows(sql.SIZES, {"queues": list(queues)})
        return {queue: dict(zip(states, counts, strict=True)) for queue, *counts in rows}

    def peek(self, queue: str, limit: int) -> Sequence[Waiting]:
        return _waiting(self._server.rows(sql.PEEK, {"queue": queue, "limit": limit}))

    def purge(self, queue: str) -> int:
        return self._repeatedly(sql.PURGE, {"queue": queue})

    def dead(self, queue: str, limit: int, ids: Sequence[str] | None = None) -> Sequence[Waiting]:
        return _waiting(self._server.rows(sql.DEAD, _chosen(queue, ids) | {"limit": limit}))

    def replay(self, queue: str, ids: Sequence[str] | None = None) -> int:
        replayed, after = 0, -1
        while after is not None:
            ((after, some),) = self._server.rows(sql.REPLAY, _chosen(queue, ids) | {"after": after})
            replayed += some
        if replayed:
            self.ring([queue])
        return replayed

    def discard(self, queue: str, ids: Sequence[str] | None = None) -> int:
        return self._repeatedly(sql.DISCARD, _chosen(queue, ids))

    def advice(self, queues: Sequence[str]) -> Sequence[str]:
        return advice(self._server) + self._advice_about_notifications()

    def ring(self, queues: Iterable[str]) -> None:
        """Tell consumers everywhere that there may be something in `queues`."""
        if self._server.options.notify == "yes":
            channel = self._server.channel(CHANNEL)
            self._server.rows(sql.RING, {"channel": channel, "queues": sorted(set(queues))})

    def _bell(self) -> dict[str, object]:
        return {"channel": self._server.channel(CHANNEL), "notify": self._server.options.notify == "yes"}

    def _repeatedly(self, statement: str, parameters: Mapping[str, object]) -> int:
        """Run a statement that deletes a slice until nothing is left; return how many rows that made."""
        total = 0
        while some := len(self._server.rows(statement, parameters)):
            total += some
        return total

    def _check_connection(self, connection: Any) -> None:
        if not isinstance(connection, psycopg.Connection):
            raise BrokerError(
                f"{self.url} takes part in transactions of a psycopg.Connection (psycopg 3, not asyncio) or of what "
                f"stands on one, such as an SQLAlchemy session on postgresql+psycopg://; got "
                f"{type(connection).__module__}.{type(connection).__qualname__}"
            )
        if connection.closed:
            raise BrokerError(f"{self.url}: the connection that should carry the message is closed")
        ours = self.url.path.strip("/")
        if ours and connection.info.dbname != ours:
            raise BrokerError(
                f"{self.url}: the connection is to the database {connection.info.dbname!r}; a transaction cannot "
                "reach from one database into another"
            )
        if connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
            raise BrokerError(
                f"{self.url}: the connection is in autocommit mode and in no transaction, so there is nothing to take "
                "part in; begin one, or send without connection="
            )

    def _advice_about_notifications(self) -> list[str]:
        options = self._server.options
        if options.listen == "no" or options.notify == "no":
            return []
        with self._server.listener(CHANNEL, _subjects).watching([probe := f"probe {secrets.token_hex(8)}"]) as watch:
            # It rings as soon as it listens.
            if not watch.live:
                watch.wait(self._server.options.connect_timeout)
            watch.clear()
            self.ring([probe])
            watch.wait(LISTENING_PAUSE)
            if watch.rung:
                return []
        return [
            "notifications do not arrive, so that workers see tasks up to a second late: with a pooler in between that "
            "gives each transaction another connection, add ?listen=no, or give workers a URL that goes past it"
        ]


#: (id, attempt, token); the token is drawn anew for every fetch.
Receipt = tuple[str, int, int]


class _Fetch(NamedTuple):
    """What marks the rows of one fetch where it has put them: see `ACK_UNMOVED`."""

    token: int
    due: int
    file: int


class PostgresConsumer(Consumer):
    """The loans of one worker."""

    def __init__(self, broker: PostgresBroker, server: PostgresServer, queues: Sequence[str], lease: float) -> None:
        self._broker = broker
        self._clock = broker.clock
        self._server = server
        self._queues = tuple(queues)
        self._lease = float(lease)
        self._listener = server.listener(CHANNEL, _subjects)
        self._watch = self._listener.watch(self._queues)
        #: The queues that were looked at last, and when to look at them again if nobody rings (monotonic).
        self._looked_at: tuple[str, ...] = ()
        self._next_look = -inf
        self._pause = FIRST_PAUSE
        #: What was lent and not settled, which `close` gives back: by which fetch, and where the row was put.
        self._lent: dict[Receipt, tuple[_Fetch, str]] = {}

    def receive(self, limit: int, wait: float, queues: Sequence[str] | None = None) -> Sequence[Delivery]:
        names = self._queues if queues is None else tuple(queues)
        limit = min(limit, self._broker.capabilities.max_receive_batch)
        end = self._clock.monotonic() + wait
        # An idle worker calls again and again with a short wait. What the last look has found out still holds, as long
        # as nobody rings: so that idleness costs one look a second, not one a call.
        while True:
            if wait <= 0 or self._must_look(names):
                taken = self._take(names, limit)
                if taken or limit <= 0:
                    return taken
            now = self._clock.monotonic()
            if now >= end:
                return []
            self._watch.wait(min(end, self._next_look) - now)

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        spots: defaultdict[_Fetch, dict[str, Delivery]] = defaultdict(dict)
        moved = []
        for delivery in deliveries:
            place = self._lent.get(delivery.receipt)
            if place is None:
                moved.append(delivery)
            else:
                fetch, spot = place
                spots[fetch][spot] = delivery
        for fetch, lent in spots.items():
            moved += self._ack_unmoved(fetch, lent)
        return self._settle(sql.ACK, moved)

    def requeue(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> Sequence[Delivery]:
        return self._give_back(sql.REQUEUE, deliveries, delay=float(delay))

    def release(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return self._give_back(sql.RELEASE, deliveries)

    def bury(self, deliveries: Sequence[Delivery], reason: str) -> Sequence[Delivery]:
        # What an exception says may hold what no text in PostgreSQL can.
        sayable = reason.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
        return self._settle(sql.BURY, deliveries, reason=sayable)

    def extend(self, deliveries: Sequence[Delivery], seconds: float) -> Sequence[Delivery]:
        held = self._change(sql.EXTEND, [delivery.receipt for delivery in deliveries], seconds=float(seconds))
        return [delivery for delivery in deliveries if delivery.receipt not in held]

    def close(self) -> None:
        self._listener.unwatch(self._watch, self._queues)
        lent, self._lent = self._lent, {}
        if lent and self._server.is_open:
            self._change(sql.GIVE_BACK, lent)
            self._broker.ring(self._queues)

    def _must_look(self, names: tuple[str, ...]) -> bool:
        return self._watch.rung or names != self._looked_at or self._clock.monotonic() >= self._next_look

    def _take(self, names: tuple[str, ...], limit: int) -> list[Delivery]:
        """Borrow up to `limit` messages; when there are none, note when to look again."""
        self._watch.clear()
        self._looked_at = names
        self._next_look = -inf
        looks = self._server.rows(sql.LOOK, {"queues": list(names)}, by_index=True) if names else []
        taken: list[Delivery] = []
        room = FETCH_BYTES
        for look in looks:
            if _due(look) and len(taken) < limit and room > 0:
                try:
                    some = self._fetch(look[0], limit - len(taken), room)
                except BrokerUnavailable:
                    # What is lent already is handed over: it would have to wait for its lease to run out.
                    if not taken:
                        raise
                    break
                taken += some
                room -= sum(len(delivery.body) for delivery in some)
        if taken:
            self._pause = FIRST_PAUSE
        else:
            self._next_look = self._clock.monotonic() + self._pause_after(looks)
        return taken

    def _fetch(self, queue: str, limit: int, room: int) -> list[Delivery]:
        token = secrets.randbits(62)
        wanted = {"queue": queue, "limit": limit, "room": room, "token": token, "lease": self._lease}
        rows = self._server.rows(sql.FETCH, wanted, by_index=True)
        deliveries = [_delivery(token, row) for row in rows]
        if rows:
            fetch = _Fetch(token, *rows[0][-2:])
            self._lent.update((one.receipt, (fetch, row[-3])) for one, row in zip(deliveries, rows, strict=True))
        return deliveries

    def _ack_unmoved(self, fetch: _Fetch, lent: Mapping[str, Delivery]) -> list[Delivery]:
        """Ack what lies where `fetch` has put it; return what does not."""
        spots = '{"' + '","'.join(lent) + '"}'
        ((count, gone),) = self._server.rows(sql.ACK_UNMOVED, fetch._asdict() | {"spots": spots, "count": len(lent)})
        for delivery in lent.values():
            self._lent.pop(delivery.receipt, None)
        hit = lent.keys() if count == len(lent) else set(gone or ())
        return [delivery for spot, delivery in lent.items() if spot not in hit]

    def _pause_after(self, looks: Rows) -> float:
        """Return the seconds until the next look, after one that brought nothing."""
        pause, self._pause = self._pause, min(self._pause * GROWTH, LONGEST_PAUSE)
        if any(_due(look) for look in looks):
            # Another fetch has them in hand, and may leave some.
            return pause
        next_due = min((due for _, _, due in looks if due is not None), default=inf)
        return min(next_due, LISTENING_PAUSE if self._watch.live else pause)

    def _settle(self, statement: str, deliveries: Sequence[Delivery], **values: object) -> list[Delivery]:
        receipts = [delivery.receipt for delivery in deliveries]
        held = self._change(statement, receipts, **values)
        for receipt in receipts:
            self._lent.pop(receipt, None)
        return [delivery for delivery in deliveries if delivery.receipt not in held]

    def _give_back(self, statement: str, deliveries: Sequence[Delivery], **values: object) -> list[Delivery]:
        lost = self._settle(statement, deliveries, **values)
        if len(lost) < len(deliveries):
            # A statement of its own: killed in between, they are found by the look that every consumer takes anyway.
            self._broker.ring(delivery.queue for delivery in deliveries)
        return lost

    def _change(self, statement: str, receipts: Iterable[Receipt], **values: object) -> set[Any]:
        """Run a statement on the loans that are still held, and return the receipts of those."""
        # In one order, so that a settler and a keeper of leases do not wait for each other.
        loans = sorted(set(receipts))
        if not loans:
            return set()
        ids, attempts, tokens = map(list, zip(*loans, strict=True))
        return set(self._server.rows(statement, {"ids": ids, "attempts": attempts, "tokens": tokens} | values))


def _due(look: tuple[Any, ...]) -> bool:
    """Tell whether a look has found something to fetch."""
    _, ready, seconds = look
    return bool(ready) or (seconds is not None and seconds <= 0)


def _subjects(payload: str) -> tuple[str, ...]:
    return (payload,)


def _sifted(envelopes: Sequence[Envelope]) -> tuple[list[Envelope], dict[str, str]]:
    """Return the envelopes that can be stored, and why the others cannot, by id."""
    rejected = {e.id: why for e in envelopes if (why := _objection(e))}
    return [e for e in envelopes if not rejected or not _objection(e)], rejected


def _objection(envelope: Envelope) -> str:
    """Return why PostgreSQL cannot store an envelope, or ""."""
    if len(envelope.body) > LARGEST_BODY:
        return (
            f"its body has {len(envelope.body)} bytes and the limit is {LARGEST_BODY}; "
            "store what is large elsewhere and send its name"
        )
    for what, name in (("id", envelope.id), ("queue", envelope.queue)):
        if "\0" in name:
            return f"its {what} contains a NUL character"
        if len(name) * 4 > LONGEST_NAME and len(name.encode(errors="replace")) > LONGEST_NAME:
            return f"its {what} is longer than {LONGEST_NAME} bytes"
        if not name.isascii() and name.encode(errors="replace").decode() != name:
            return f"its {what} cannot be written as UTF-8"
    return ""


def _batches(envelopes: Sequence[Envelope]) -> Iterator[list[Envelope]]:
    """Cut what one statement takes at most."""
    batch: list[Envelope] = []
    size = 0
    for envelope in envelopes:
        if batch and size + len(envelope.body) > PUBLISH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(envelope)
        size += len(envelope.body)
    if batch:
        yield batch


def _columns(envelopes: Sequence[Envelope]) -> dict[str, object]:
    return {
        "ids": [e.id for e in envelopes],
        "attempts": [e.attempt for e in envelopes],
        "queues": [e.queue for e in envelopes],
        "priorities": [e.priority for e in envelopes],
        "delays": [float(e.delay) for e in envelopes],
        "bodies": [e.body for e in envelopes],
    }


def _delivery(token: int, row: tuple[Any, ...]) -> Delivery:
    id, attempt, queue, body, delivery_count, priority, published, cancelled, *_ = row
    return Delivery(
        id=id,
        queue=queue,
        body=body,
        receipt=(id, attempt, token),
        delivery_count=delivery_count,
        priority=priority,
        attempt=attempt,
        published=published,
        cancelled=cancelled,
    )


def _waiting(rows: Rows) -> list[Waiting]:
    return [Waiting(**dict(zip(sql.SHOWN, row, strict=True))) for row in rows]


def _chosen(queue: str, ids: Sequence[str] | None) -> dict[str, object]:
    return {"queue": queue, "ids": None if ids is None else list(ids)}
