"""The servers of a simulated world: broker, result backend and store in memory, which can also be less than they are.

All processes share them. They are never killed, and each call of them is one step; what can go wrong on the way to
them is the business of the gates (gates.py). What happens in them is noted for the invariants (history.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import count
from math import inf
from typing import Any

import msgspec

from dray import FOREVER, Broker, Change, Changed, Delivery, Envelope, Record, Url
from dray_backends.memory import MemoryBackend
from dray_backends.memory_store import MemoryStore
from dray_brokers.memory import MemoryBroker, MemoryConsumer, _Entry, _Queue

from .history import History
from .stand_ins import ServerClock
from .world import Process

URL = Url.parse("memory://")


class LooseQueue(_Queue):
    """A queue that tells when a loan runs out."""

    broker: LooseBroker

    def catch_up(self, now: float) -> None:
        if self.earliest_end <= now:
            for entry in self.leased.values():
                if entry.until <= now:
                    self.broker.ran_out(entry)
        super().catch_up(now)


class LooseBroker(MemoryBroker):
    """A broker in memory that can be told to deliver twice, in another order, or not at all."""

    def __init__(self, history: History) -> None:
        super().__init__(URL)
        self.history = history
        self.clock = ServerClock(history.world)
        self._queues = defaultdict(self._new_queue)
        #: Which process a consumer belongs to.
        self.owners: dict[int, Process] = {}
        #: Whether loans last as long as connections, without a lease; and the consumers whose connection is closed.
        self.connected = False
        self.closed: set[int] = set()
        #: When each loan was taken or renewed last, by token.
        self.renewed: dict[int, float] = {}

    def _new_queue(self) -> LooseQueue:
        queue = LooseQueue()
        queue.broker = self
        return queue

    def connect(self) -> None:
        """From now on, lend for as long as connections last."""
        self.connected = True
        self.capabilities = msgspec.structs.replace(self.capabilities, lease=False)
        self.history.world.on_absence.append(self.disconnect)

    def consumer(self, queues: Sequence[str], lease: float) -> MemoryConsumer:
        return super().consumer(queues, FOREVER if self.connected else lease)

    def disconnect(self, process: Process) -> None:
        """Close the connections of a process: its loans are over at once."""
        if self.connected:
            for consumer in self._consumers:
                if self.owners.get(consumer.number) is process:
                    self.closed.add(consumer.number)
                    self.end_loans(consumer)

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        before = self._entries(envelopes)
        super().publish(envelopes)
        for envelope in envelopes:
            if len(self._by_id.get(envelope.id, ())) > before[envelope.id]:
                before[envelope.id] += 1
                self.history.enqueued(envelope)

    def _entries(self, envelopes: Sequence[Envelope]) -> dict[str, int]:
        return {each.id: len(self._by_id.get(each.id, ())) for each in envelopes}

    # What faults ask for

    def duplicate(self, envelope: Envelope) -> None:
        """Store an envelope once more, as a broker does that does not recognise a repeated publish."""
        entry = _Entry(envelope, self.next_place(), self.clock.time())
        self._by_id[envelope.id] = (*self._by_id.get(envelope.id, ()), entry)
        self._queues[envelope.queue].put(entry, envelope.delay, self.clock.monotonic())
        self.history.enqueued(envelope)
        self.ring()

    def lose(self, envelope: Envelope) -> bool:
        """Drop what waits of an envelope; return whether there was anything."""
        queue = self._queues[envelope.queue]
        gone = [entry for _, _, entry in (*queue.ready, *queue.delayed) if entry.envelope.id == envelope.id]
        queue.ready = [item for item in queue.ready if item[2] not in gone]
        queue.delayed = [item for item in queue.delayed if item[2] not in gone]
        for entry in gone:
            self.drop(entry)
        return bool(gone)

    def lend_again(self, delivery: Delivery) -> bool:
        """End a loan before its time, so that somebody else gets the message as well."""
        queue = self._queues[delivery.queue]
        entry = queue.leased.pop(delivery.receipt, None)
        if entry is None:
            return False
        queue.put(entry, 0.0, self.clock.monotonic())
        self.ring()
        return True

    def shuffle(self, queue_name: str) -> bool:
        """Put what is ready in a queue into another order; return whether there was anything to put."""
        queue = self._queues[queue_name]
        if len(queue.ready) < 2:
            return False
        entries = [item[2] for item in sorted(queue.ready, key=lambda item: item[:2])]
        self.history.world.luck.shuffle(entries)
        places = sorted(entry.place for entry in entries)
        for entry, place in zip(entries, places, strict=True):
            entry.place = place
        # No longer by priority either.
        queue.ready = [(0, entry.place, entry) for entry in sorted(entries, key=lambda entry: entry.place)]
        return True

    # What is noted of loans

    def lend(self, holder: int, queues: Sequence[str], limit: int, lease: float) -> tuple[list[Delivery], float]:
        lent, next_change = super().lend(holder, queues, limit, lease)
        for each in lent:
            self.renewed[each.receipt] = self.clock.monotonic()
            self.history.loan_begins(plain(each.id), each.attempt, self.owners[holder])
        return lent, next_change

    def extend(self, deliveries: Sequence[Delivery], seconds: float) -> list[Delivery]:
        over = super().extend(deliveries, seconds)
        self.renewed.update((each.receipt, self.clock.monotonic()) for each in deliveries if each not in over)
        return over

    def ran_out(self, entry: _Entry) -> None:
        self.history.loan_ran_out(plain(entry.envelope.id), self.owners[entry.holder], self.renewed[entry.token])

    # What the gates ask

    def has_ready(self, queues: Sequence[str]) -> tuple[bool, float]:
        """Return whether one of the queues has something ready, and when time alone may change that."""
        now, next_change = self.clock.monotonic(), inf
        for name in queues:
            queue = self._queues[name]
            queue.catch_up(now)
            if queue.ready:
                return True, now
            next_change = min(next_change, queue.next_change())
        return False, next_change

    def holds(self, token: Any) -> bool:
        """Return whether a loan lasts."""
        now = self.clock.monotonic()
        return any(token in queue.leased and queue.leased[token].until > now for queue in self._queues.values())

    def unsettled(self) -> dict[str, int]:
        """Return how much waits or is lent, by queue; dead letters do not count."""
        found = {}
        for name, queue in self._queues.items():
            sizes = queue.sizes()
            if number := sizes["ready"] + sizes["delayed"] + sizes["leased"]:
                found[name] = number
        return found

    def letters(self) -> dict[str, str]:
        """Return the reason of each dead letter, by the id of its message."""
        return {entry.envelope.id: entry.reason for queue in self._queues.values() for entry in queue.dead.values()}


#: What a poor broker cannot do. All of it has to be done by the engine, with a second broker beside it.
POOR: dict[str, Any] = {
    "max_delay": 0.0,
    "priority_levels": 1,
    "delivery_count": False,
    "release_uncharged": False,
    "requeue_delay": False,
    "dedup": False,
    "fifo": False,
    "cancel": False,
    "find": False,
    "peek": False,
    "dead_letters": False,
}


class PoorBroker(Broker):
    """A server that does no more than it declares. It recognises nothing: each envelope gets an id of its own."""

    def __init__(self, inner: LooseBroker) -> None:
        super().__init__(URL)
        self.inner = inner
        self.clock = inner.clock
        self.capabilities = msgspec.structs.replace(inner.capabilities, **POOR)
        self._numbers = count(1)

    def open(self) -> None:
        """It is there."""

    def close(self) -> None:
        """It stays."""

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        assert all(each.delay == 0 for each in envelopes), "it keeps no delays"
        self.inner.publish(
            [msgspec.structs.replace(each, id=f"{each.id}|{next(self._numbers)}", priority=0) for each in envelopes]
        )

    def consumer(self, queues: Sequence[str], lease: float) -> PoorConsumer:
        return PoorConsumer(self.inner, queues, lease)

    def queues(self) -> Sequence[str]:
        return self.inner.queues()

    def sizes(self, queues: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        return self.inner.sizes(queues)


class PoorConsumer(MemoryConsumer):
    """Loans from a `PoorBroker`: nothing is counted, cancelled, or kept when it is buried."""

    def __init__(self, broker: LooseBroker, queues: Sequence[str], lease: float) -> None:
        super().__init__(broker, queues, lease)
        broker._consumers = (*broker._consumers, self)

    def receive(self, limit: int, wait: float, queues: Sequence[str] | None = None) -> Sequence[Delivery]:
        return [
            msgspec.structs.replace(each, id=plain(each.id), cancelled=False, delivery_count=1)
            for each in super().receive(limit, wait, queues)
        ]

    def requeue(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> Sequence[Delivery]:
        return super().requeue(deliveries, 0.0)

    def release(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return super().requeue(deliveries, 0.0)

    def bury(self, deliveries: Sequence[Delivery], reason: str) -> Sequence[Delivery]:
        return self.ack(deliveries)


def plain(id: str) -> str:
    """Return the id of a message without what a poor broker has added to it."""
    return id.rpartition("|")[0] or id


class WatchedBackend(MemoryBackend):
    """A result backend in memory; what really changes in it is noted."""

    def __init__(self, history: History) -> None:
        super().__init__(URL)
        self.history = history
        self.clock = ServerClock(history.world)

    def store(self, records: Sequence[Record], ttl: float | None) -> None:
        for record in records:
            before = self._kept.get(record.id)
            super().store([record], ttl)
            after = self._kept[record.id]
            if after is not before:
                self.history.stored(before.record if before is not None else None, after.record)

    def forget(self, ids: Sequence[str]) -> None:
        super().forget(ids)
        for id in ids:
            self.history.forgotten(id)


class WatchedStore(MemoryStore):
    """A store in memory; the changes that were made are noted, in their order."""

    def __init__(self, history: History) -> None:
        super().__init__(URL)
        self.history = history
        self.clock = ServerClock(history.world)

    def commit(self, changes: Sequence[Change]) -> Sequence[Changed]:
        done = super().commit(changes)
        for change, what in zip(changes, done, strict=True):
            if what.applied and change.writes:
                self.history.committed(change)
        return done
