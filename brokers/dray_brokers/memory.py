"""A broker inside one process, for tests and scripts: the reference implementation of the broker port.

Read it next to `dray.Broker`; every promise made there is kept here in the plainest way. The life of a message, in
the order of the classes below:

    publish ->  delayed  -> ready -> leased -> acked: forgotten
                   ^          ^         |----> requeued: behind the others, or delayed
                   |          |         |----> released, lease over, consumer closed: back in its old place
                   |          |         '----> buried: dead -> replayed: ready again, or discarded
                   '----------'

`_Queue` knows one queue and no locks, `MemoryBroker` guards all queues with one lock that is held for one batch at
a time, `MemoryConsumer` waits. Messages live as long as the broker object, whether it is open or not.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heappop, heappush, nsmallest
from itertools import count
from math import inf

import msgspec

from dray import FOREVER, Broker, Capabilities, Consumer, Delivery, Envelope, Url, UrlError, Waiting


class _NoOptions(msgspec.Struct):
    """`memory://` takes no options."""


class _Entry(msgspec.Struct, eq=False, gc=False):
    """One stored envelope and what has happened to it so far."""

    envelope: Envelope
    #: Where it stands among its equals: the lower came first.
    place: int
    #: When it was published (seconds since 1970).
    published: float
    #: ready, delayed, leased or dead.
    state: str = "ready"
    #: How often it has been lent.
    count: int = 0
    #: When it falls due (delayed) or its loan ends (leased), on the clock that never jumps.
    until: float = 0.0
    #: Proof of the present loan, never used for another one: what makes a late settler harmless.
    token: int = 0
    #: The number of the consumer that has it, not the consumer itself: entries are many, and the garbage collector
    #: need not look at what leads nowhere. 0: nobody has it.
    holder: int = 0
    reason: str = ""
    buried: float | None = None


class _Queue:
    """The messages of one queue, in the four states. Not thread-safe: the broker's lock is held around every call."""

    def __init__(self) -> None:
        #: Heap of (-priority, place, entry).
        self.ready: list[tuple[int, int, _Entry]] = []
        #: Heap of (due, place, entry).
        self.delayed: list[tuple[float, int, _Entry]] = []
        #: By token.
        self.leased: dict[int, _Entry] = {}
        #: No loan ends before this: spares looking at every loan at every call.
        self.earliest_end = inf
        #: By the place they were given when buried, hence oldest first.
        self.dead: dict[int, _Entry] = {}

    def put(self, entry: _Entry, delay: float, now: float) -> None:
        """Let an entry wait: until `now + delay`, or not at all."""
        entry.holder = 0
        if delay > 0:
            entry.state, entry.until = "delayed", now + delay
            heappush(self.delayed, (entry.until, entry.place, entry))
        else:
            entry.state = "ready"
            heappush(self.ready, (-entry.envelope.priority, entry.place, entry))

    def catch_up(self, now: float) -> None:
        """Make ready what has fallen due, and what was lent and not settled in time."""
        while self.delayed and self.delayed[0][0] <= now:
            self.put(heappop(self.delayed)[2], 0.0, now)
        if self.earliest_end <= now:
            for entry in [entry for entry in self.leased.values() if entry.until <= now]:
                del self.leased[entry.token]
                self.put(entry, 0.0, now)
            self.earliest_end = min((entry.until for entry in self.leased.values()), default=inf)

    def lend(self, limit: int, until: float, holder: int, tokens: Iterable[int]) -> list[_Entry]:
        """Take up to `limit` ready entries, count them and lend them until `until`."""
        lent = [heappop(self.ready)[2] for _ in range(min(limit, len(self.ready)))]
        for entry, token in zip(lent, tokens, strict=False):
            entry.state, entry.until, entry.token, entry.holder = "leased", until, token, holder
            entry.count += 1
            self.leased[token] = entry
        if lent:
            self.earliest_end = min(self.earliest_end, until)
        return lent

    def next_change(self) -> float:
        """Return the earliest time at which time alone may make something ready."""
        return min(self.delayed[0][0] if self.delayed else inf, self.earliest_end)

    def sizes(self) -> dict[str, int]:
        return {
            "ready": len(self.ready),
            "delayed": len(self.delayed),
            "leased": len(self.leased),
            "dead": len(self.dead),
        }


class MemoryConsumer(Consumer):
    """Loans from a `MemoryBroker`. All of its verbs may be called from any thread."""

    def __init__(self, broker: MemoryBroker, queues: Sequence[str], lease: float) -> None:
        self._broker = broker
        #: Never that of another consumer of this broker.
        self.number = broker.next_number()
        self._queues = tuple(queues)
        self._lease = lease
        #: Set whenever something may have become ready other than by time alone.
        self.bell = threading.Event()
        self._woken = False

    def receive(self, limit: int, wait: float, queues: Sequence[str] | None = None) -> Sequence[Delivery]:
        clock = self._broker.clock
        end = clock.monotonic() + wait
        while True:
            # Before looking, not after: what is published while we look rings again, and the wait ends at once.
            self.bell.clear()
            lent, next_change = self._broker.lend(
                self.number, self._queues if queues is None else queues, limit, self._lease
            )
            now = clock.monotonic()
            if lent or now >= end or self._woken:
                self._woken = False
                return lent
            clock.wait(self.bell, min(next_change, end) - now)

    def wake(self) -> None:
        self._woken = True
        self.bell.set()

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return self._broker.settle(deliveries, lambda queue, entry: self._broker.drop(entry))

    def requeue(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> Sequence[Delivery]:
        now = self._broker.clock.monotonic()

        def put_behind(queue: _Queue, entry: _Entry) -> None:
            entry.place = self._broker.next_place()
            queue.put(entry, delay, now)

        over = self._broker.settle(deliveries, put_behind)
        self._broker.ring()
        return over

    def release(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        now = self._broker.clock.monotonic()

        def put_back(queue: _Queue, entry: _Entry) -> None:
            entry.count -= 1
            queue.put(entry, 0.0, now)

        over = self._broker.settle(deliveries, put_back)
        self._broker.ring()
        return over

    def bury(self, deliveries: Sequence[Delivery], reason: str) -> Sequence[Delivery]:
        instant = self._broker.clock.time()

        def lay_down(queue: _Queue, entry: _Entry) -> None:
            entry.state, entry.reason, entry.buried, entry.holder = "dead", reason, instant, 0
            entry.place = self._broker.next_place()
            queue.dead[entry.place] = entry

        return self._broker.settle(deliveries, lay_down)

    def extend(self, deliveries: Sequence[Delivery], seconds: float) -> Sequence[Delivery]:
        return self._broker.extend(deliveries, seconds)

    def close(self) -> None:
        self._broker.end_loans(self)


class MemoryBroker(Broker):
    """`memory://`: queues in this object, for the threads of this process."""

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
        durable=False,
        shared=False,
    )

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        url.options_as(_NoOptions)
        if url.hosts or url.path.strip("/"):
            raise UrlError(
                f"{url}: memory:// names no place, because each broker object has its own messages; write memory://, "
                "or sqlite:///path to share them"
            )
        self._lock = threading.Lock()
        self._queues: defaultdict[str, _Queue] = defaultdict(_Queue)
        #: Every stored entry by message id. Mostly one; two while a retry is published and the try before not acked.
        self._by_id: dict[str, tuple[_Entry, ...]] = {}
        self._places = count()
        self._tokens = count(1)
        self._numbers = count(1)
        self._consumers: tuple[MemoryConsumer, ...] = ()
        #: When each cancelled id is forgotten, and the same as a heap, so that forgetting costs nothing.
        self._cancelled: dict[str, float] = {}
        self._cancellations: list[tuple[float, str]] = []

    def open(self) -> None:
        """There is nothing to connect to."""

    def close(self) -> None:
        """There is nothing to let go of: the messages go when this object goes."""

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        with self._lock:
            now, instant = self.clock.monotonic(), self.clock.time()
            for envelope in envelopes:
                namesakes = self._by_id.get(envelope.id, ())
                if not (namesakes and _holds(namesakes, envelope)):
                    entry = _Entry(envelope, next(self._places), instant)
                    self._by_id[envelope.id] = (*namesakes, entry)
                    self._queues[envelope.queue].put(entry, envelope.delay, now)
        self.ring()

    def consumer(self, queues: Sequence[str], lease: float) -> MemoryConsumer:
        consumer = MemoryConsumer(self, queues, lease)
        with self._lock:
            self._consumers = (*self._consumers, consumer)
        return consumer

    # What the consumers do, under the lock.

    def lend(self, holder: int, queues: Sequence[str], limit: int, lease: float) -> tuple[list[Delivery], float]:
        """Lend up to `limit` messages from `queues` in order; return them and when to look again at the latest."""
        lent: list[Delivery] = []
        next_change = inf
        with self._lock:
            now = self.clock.monotonic()
            for name in queues:
                queue = self._queues[name]
                queue.catch_up(now)
                entries = queue.lend(limit - len(lent), now + lease, holder, self._tokens)
                lent += [self._delivery(entry, now) for entry in entries]
                next_change = min(next_change, queue.next_change())
        return lent, next_change

    def settle(self, deliveries: Sequence[Delivery], fate: Callable[[_Queue, _Entry], None]) -> list[Delivery]:
        """End these loans and let `fate` decide what becomes of the entries; return those whose loan was over."""
        over = []
        with self._lock:
            for delivery in deliveries:
                queue = self._queues[delivery.queue]
                entry = queue.leased.pop(delivery.receipt, None)
                if entry is None:
                    over.append(delivery)
                else:
                    fate(queue, entry)
        return over

    def extend(self, deliveries: Sequence[Delivery], seconds: float) -> list[Delivery]:
        over = []
        with self._lock:
            until = self.clock.monotonic() + seconds
            for delivery in deliveries:
                queue = self._queues[delivery.queue]
                entry = queue.leased.get(delivery.receipt)
                if entry is None:
                    over.append(delivery)
                else:
                    entry.until = until
                    queue.earliest_end = min(queue.earliest_end, until)
        return over

    def end_loans(self, holder: MemoryConsumer) -> None:
        with self._lock:
            now = self.clock.monotonic()
            self._consumers = tuple(consumer for consumer in self._consumers if consumer is not holder)
            for queue in self._queues.values():
                for entry in [entry for entry in queue.leased.values() if entry.holder == holder.number]:
                    del queue.leased[entry.token]
                    queue.put(entry, 0.0, now)
        self.ring()

    def drop(self, entry: _Entry) -> None:
        """Forget an entry that is in no queue any more."""
        id = entry.envelope.id
        others = tuple(other for other in self._by_id[id] if other is not entry)
        if others:
            self._by_id[id] = others
        else:
            del self._by_id[id]

    def next_place(self) -> int:
        return next(self._places)

    def next_number(self) -> int:
        return next(self._numbers)

    def ring(self) -> None:
        """Let waiting consumers look again. Called without the lock, or they would wake up only to wait for it."""
        for consumer in self._consumers:
            consumer.bell.set()

    # Cancelling, looking, dead letters.

    def cancel(self, ids: Sequence[str], ttl: float) -> None:
        with self._lock:
            now = self.clock.monotonic()
            while self._cancellations and self._cancellations[0][0] <= now:
                _, id = heappop(self._cancellations)
                if self._cancelled.get(id, inf) <= now:
                    del self._cancelled[id]
            for id in ids:
                self._cancelled[id] = max(now + ttl, self._cancelled.get(id, 0.0))
                heappush(self._cancellations, (self._cancelled[id], id))

    def cancelled(self, ids: Sequence[str]) -> set[str]:
        with self._lock:
            now = self.clock.monotonic()
            return {id for id in ids if self._cancelled.get(id, 0.0) > now}

    def find(self, ids: Sequence[str]) -> Mapping[str, str]:
        with self._lock:
            now = self.clock.monotonic()
            # The newest one speaks for its id: it is the attempt that is still to come.
            newest = {id: self._by_id[id][-1] for id in ids if id in self._by_id}
            for entry in newest.values():
                self._queues[entry.envelope.queue].catch_up(now)
            return {id: entry.state for id, entry in newest.items()}

    def queues(self) -> Sequence[str]:
        with self._lock:
            return sorted(name for name, queue in self._queues.items() if any(queue.sizes().values()))

    def sizes(self, queues: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        with self._lock:
            now = self.clock.monotonic()
            for name in queues:
                self._queues[name].catch_up(now)
            return {name: self._queues[name].sizes() for name in queues}

    def peek(self, queue: str, limit: int) -> Sequence[Waiting]:
        with self._lock:
            now = self.clock.monotonic()
            held = self._queues[queue]
            held.catch_up(now)
            entries = [entry for _, _, entry in nsmallest(limit, held.ready)]
            entries += [entry for _, _, entry in nsmallest(limit - len(entries), held.delayed)]
            entries += nsmallest(limit - len(entries), held.leased.values(), key=lambda entry: entry.until)
            return [_waiting(entry, now) for entry in entries]

    def purge(self, queue: str) -> int:
        with self._lock:
            held = self._queues[queue]
            held.catch_up(self.clock.monotonic())
            entries = [item[2] for item in (*held.ready, *held.delayed)]
            held.ready.clear()
            held.delayed.clear()
            for entry in entries:
                self.drop(entry)
            return len(entries)

    def dead(self, queue: str, limit: int, ids: Sequence[str] | None = None) -> Sequence[Waiting]:
        with self._lock:
            now = self.clock.monotonic()
            return [_waiting(entry, now) for entry in self._letters(queue, ids)[:limit]]

    def replay(self, queue: str, ids: Sequence[str] | None = None) -> int:
        replayed = 0
        with self._lock:
            now = self.clock.monotonic()
            for entry in self._letters(queue, ids):
                # One whose (id, attempt) has been published again meanwhile stays dead: it must not run twice.
                if not _holds(self._by_id[entry.envelope.id], entry.envelope):
                    del self._queues[queue].dead[entry.place]
                    entry.place, entry.count, entry.reason, entry.buried = self.next_place(), 0, "", None
                    self._queues[queue].put(entry, 0.0, now)
                    replayed += 1
        self.ring()
        return replayed

    def discard(self, queue: str, ids: Sequence[str] | None = None) -> int:
        with self._lock:
            letters = self._letters(queue, ids)
            for entry in letters:
                del self._queues[queue].dead[entry.place]
                self.drop(entry)
            return len(letters)

    def _letters(self, queue: str, ids: Sequence[str] | None) -> list[_Entry]:
        letters = self._queues[queue].dead.values()
        if ids is None:
            return list(letters)
        wanted = set(ids)
        return [entry for entry in letters if entry.envelope.id in wanted]

    def _delivery(self, entry: _Entry, now: float) -> Delivery:
        envelope = entry.envelope
        return Delivery(
            id=envelope.id,
            queue=envelope.queue,
            body=envelope.body,
            receipt=entry.token,
            delivery_count=entry.count,
            priority=envelope.priority,
            attempt=envelope.attempt,
            published=entry.published,
            cancelled=self._cancelled.get(envelope.id, 0.0) > now,
        )


def _holds(entries: Iterable[_Entry], envelope: Envelope) -> bool:
    """Whether this (id, attempt) is among `entries`, waiting or lent: dead letters do not count."""
    return any(entry.envelope.attempt == envelope.attempt and entry.state != "dead" for entry in entries)


def _waiting(entry: _Entry, now: float) -> Waiting:
    envelope = entry.envelope
    return Waiting(
        id=envelope.id,
        queue=envelope.queue,
        body=envelope.body,
        priority=envelope.priority,
        attempt=envelope.attempt,
        delivery_count=entry.count,
        published=entry.published,
        delay=max(0.0, entry.until - now) if entry.state == "delayed" else 0.0,
        state=entry.state,
        reason=entry.reason,
        buried=entry.buried,
    )
