"""What the engine does in a broker's place: `Assisted` is a broker that lacks something, and what was missing.

With queues of the broker's own it does priorities (a queue for each step, `q__p5`), dead letters (`q__dead`), delays
longer than the broker's (in hops), giving back with a delay, and giving back uncharged. With a second broker beside
it, the *store*, also delays of any length, cancelling, delivery counts, and dropping what was done already. What each
costs is said by `dray.capabilities.resolve`. A broker that lacks nothing of this is used bare.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from .assisted_consumer import AssistedConsumer
from .broker import Broker, Consumer
from .capabilities import STEPS, Capabilities, assisted
from .errors import BrokerUnavailable, NotSupported, PublishError
from .labels import Label, is_labelled, put_on, take_off
from .message import Delivery, Envelope, Queue, Waiting
from .sub_queues import DEAD, of_step, plain, step_for

#: Seconds for which dead letters are borrowed while they are looked through, and to wait for more of them.
LETTERS_LEASE, LETTERS_WAIT = 60.0, 0.5
#: Most dead letters that are held while some of them are looked for; what lies behind them is not found.
LETTERS_MOST = 10_000

logger = logging.getLogger("dray")

_replace = msgspec.structs.replace


class Placed(NamedTuple):
    """Where an envelope goes: to the broker itself, or to the store until it is due."""

    now: list[Envelope]
    later: list[Envelope]


class Assisted(Broker):
    """A broker with what the engine adds to it. `transport` carries the messages, `store` keeps what it cannot.

    One store belongs to one broker, or to brokers that name different places (`Broker.place`). What is done is
    remembered for `remember` seconds. Thread-safe as any broker.
    """

    def __init__(self, transport: Broker, store: Broker | None = None, remember: float = 0.0) -> None:
        super().__init__(transport.url)
        self.transport = transport
        self.store = store
        self.remember = remember
        self.native = Capabilities()
        #: Declared queues of which each worker has a copy.
        self.broadcast: frozenset[str] = frozenset()
        #: What the transport handed over, by receipt, where something else of it is shown.
        self.lent: dict[Any, Delivery] = {}
        #: Receipts of what has not been settled: nothing else may be copied or buried.
        self.live: set[Any] = set()
        self._store_is_open = False

    # Life

    def open(self) -> None:
        self.transport.clock = self.clock
        self.transport.open()
        self.native = self.transport.capabilities
        self._store_is_open = False
        try:
            self.open_store()
        except BrokerUnavailable as error:
            # What does not need it can still be sent. Nobody receives without it.
            logger.warning("the store is away: %s", error)
        self.capabilities = assisted(self.native, None if self.store is None else self.store.capabilities)
        self.place = self.transport.place or f"{self.url.scheme}:{self.url.path}"
        self.steps = STEPS if self.native.priority_levels < 2 else (0,)
        self._due = f"due.{crc32(self.place.encode()):08x}."

    def open_store(self) -> Broker | None:
        """Return the store, open; None when there is none. Raises `BrokerUnavailable` while it is away."""
        if self.store is not None and not self._store_is_open:
            self.store.clock = self.clock
            self.store.open()
            self._store_is_open = True
        return self.store

    def close(self) -> None:
        self.transport.close()
        if self.store is not None:
            self.store.close()

    def declare(self, queues: Sequence[Queue]) -> None:
        self.broadcast = frozenset(queue.name for queue in queues if queue.broadcast)
        self.transport.declare(queues)

    def setup(self, queues: Sequence[str]) -> Sequence[str]:
        made = list(self.transport.setup(self._all(queues)))
        return made if self.store is None else [*made, *self.store.setup([])]

    def advice(self, queues: Sequence[str]) -> Sequence[str]:
        advice = list(self.transport.advice(self._all(queues)))
        return advice if self.store is None else [*advice, *self.store.advice([])]

    # Queues under other names

    def expand(self, queues: Iterable[str]) -> list[str]:
        """Return the queues that stand for `queues` on the transport, the most urgent first."""
        return [of_step(q, step) for q in queues for step in (self.steps if q not in self.broadcast else (0,))]

    def _all(self, queues: Sequence[str]) -> list[str]:
        dead = [] if self.native.dead_letters else [queue + DEAD for queue in queues]
        return [*self.expand(queues), *dead]

    def due(self, queue: str) -> str:
        """Return the name of the queue in the store that holds what is not due yet."""
        return self._due + queue

    # Publishing

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        placed = self._place(envelopes)
        rejected: dict[str, str] = {}
        # Each may refuse some; the others of its batch are safe then, and so must be the batch of the other.
        if placed.later and (store := self.open_store()) is not None:
            _collect(store, placed.later, rejected)
        if placed.now:
            _collect(self.transport, placed.now, rejected)
        if rejected:
            raise PublishError(rejected)

    def publish_within(self, connection: Any, envelopes: Sequence[Envelope]) -> None:
        placed = self._place(envelopes)
        if placed.later:
            raise NotSupported("a delay that the store keeps cannot be part of a transaction with the broker")
        self.transport.publish_within(connection, placed.now)

    def _place(self, envelopes: Iterable[Envelope]) -> Placed:
        placed = Placed([], [])
        longest, split = self.native.max_delay, len(self.steps) > 1
        for envelope in envelopes:
            hops = envelope.delay > longest and self.store is None
            if hops:
                body = put_on(self._hop(envelope.delay), envelope.body)
                envelope = _replace(envelope, delay=longest, body=body)
            elif is_labelled(envelope.body):
                envelope = _replace(envelope, body=put_on(Label(), envelope.body))
            if envelope.delay > longest:
                placed.later.append(_replace(envelope, queue=self.due(envelope.queue)))
                continue
            if envelope.priority and split and not envelope.exchange:
                envelope = _replace(envelope, queue=self.sub_queue(envelope.queue, envelope.priority))
            placed.now.append(envelope)
        return placed

    def send_copies(self, deliveries: Sequence[Delivery], delay: float, counts: Sequence[int]) -> None:
        """Publish what was delivered once more, to come out after `delay` seconds and to count from `counts` on."""
        longest = self.native.max_delay
        label = Label()
        if delay > longest and self.store is None:
            label, delay = self._hop(delay), longest
        # Labelled here: what the store hands over is passed on as it is.
        copies = [
            Envelope(
                id=each.id,
                queue=self.due(each.queue) if delay > longest else self.sub_queue(each.queue, each.priority),
                body=put_on(_replace(label, count=count), each.body),
                priority=each.priority,
                delay=delay,
                attempt=each.attempt,
            )
            for each, count in zip(deliveries, counts, strict=True)
        ]
        target = self.transport if delay <= longest else self.open_store() or self.transport
        size = target.capabilities.max_publish_batch
        for start in range(0, len(copies), size):
            target.publish(copies[start : start + size])

    def _hop(self, delay: float) -> Label:
        longest = self.native.max_delay
        return Label(hop=longest, rest=delay - longest, until=self.clock.time() + longest)

    def sub_queue(self, queue: str, priority: int) -> str:
        """Return the queue that stands for `queue` and this priority on the transport."""
        return of_step(queue, step_for(priority)) if len(self.steps) > 1 and queue not in self.broadcast else queue

    # Consuming

    def consumer(self, queues: Sequence[str], lease: float) -> Consumer:
        return AssistedConsumer(self, queues, lease)

    # Cancelling: the broker's own marks, or the store's

    def cancel(self, ids: Sequence[str], ttl: float) -> None:
        self._marks.cancel(ids, ttl)

    def cancelled(self, ids: Sequence[str]) -> set[str]:
        return self._marks.cancelled(ids)

    @property
    def _marks(self) -> Broker:
        return self.transport if self.native.cancel else self.open_store() or self.transport

    def find(self, ids: Sequence[str]) -> Mapping[str, str]:
        return self.transport.find(ids)

    # Looking

    def queues(self) -> Sequence[str]:
        names = {plain(name) for name in self.transport.queues()}
        if self.store is not None and self.store.capabilities.size:
            names |= {name.removeprefix(self._due) for name in self.store.queues() if name.startswith(self._due)}
        return sorted(names)

    def sizes(self, queues: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        dead = [] if self.native.dead_letters else [queue + DEAD for queue in queues]
        counted = self.transport.sizes([*self.expand(queues), *dead])
        sizes = {queue: dict.fromkeys(("ready", "delayed", "leased", "dead"), 0) for queue in queues}
        for queue in queues:
            for name in self.expand([queue]):
                for state, number in counted.get(name, {}).items():
                    sizes[queue][state] += number
            sizes[queue]["dead"] += sum(counted.get(queue + DEAD, {}).values())
        if self.store is not None and self.store.capabilities.size:
            waiting = self.store.sizes([self.due(queue) for queue in queues])
            for queue in queues:
                sizes[queue]["delayed"] += sum(waiting.get(self.due(queue), {}).values())
        return sizes

    def peek(self, queue: str, limit: int) -> Sequence[Waiting]:
        found: list[Waiting] = []
        for name in self.expand([queue]):
            found += self.transport.peek(name, limit - len(found)) if len(found) < limit else ()
        return [_replace(seen, queue=queue, body=take_off(seen.body)[1]) for seen in found]

    def purge(self, queue: str) -> int:
        gone = sum(self.transport.purge(name) for name in self.expand([queue]))
        if self.store is not None and self.store.capabilities.purge:
            gone += self.store.purge(self.due(queue))
        return gone

    # Dead letters: messages in a queue of their own, which are borrowed to be looked at

    def lay_dead(self, deliveries: Sequence[Delivery], reason: str) -> None:
        """Put a copy of each into the dead letters of its queue."""
        now = self.clock.time()
        self.transport.publish(
            [
                Envelope(
                    id=each.id,
                    queue=each.queue + DEAD,
                    body=put_on(
                        Label(count=each.delivery_count, reason=reason, buried=now, priority=each.priority), each.body
                    ),
                    attempt=each.attempt,
                )
                for each in deliveries
            ]
        )

    def dead(self, queue: str, limit: int, ids: Sequence[str] | None = None) -> Sequence[Waiting]:
        if self.native.dead_letters:
            return self.transport.dead(queue, limit, ids)
        found: list[Waiting] = []

        def look(letter: Waiting, body: bytes) -> bool:
            found.append(letter)
            return False

        self._letters(queue, ids, look)
        # Borrowing does not keep their order everywhere; the label does.
        return sorted(found, key=lambda letter: letter.buried or 0.0)[:limit]

    def replay(self, queue: str, ids: Sequence[str] | None = None) -> int:
        if self.native.dead_letters:
            return self.transport.replay(queue, ids)

        def back(letter: Waiting, body: bytes) -> bool:
            count = 0 if self.native.delivery_count else -letter.delivery_count
            # Published first: killed before the letter is acked, it is both dead and waiting, and never neither.
            self.send_copies([_revived(letter, body)], 0.0, [count])
            return True

        return self._letters(queue, ids, back)

    def discard(self, queue: str, ids: Sequence[str] | None = None) -> int:
        if self.native.dead_letters:
            return self.transport.discard(queue, ids)
        return self._letters(queue, ids, lambda letter, body: True)

    def _letters(self, queue: str, ids: Sequence[str] | None, take: Callable[[Waiting, bytes], bool]) -> int:
        """Show `take` the dead letters of a queue; those for which it says True are deleted. Return how many.

        The others are held until the end, or they would come round again and again.
        """
        wanted = None if ids is None else set(ids)
        consumer, taken, held = self.transport.consumer([queue + DEAD], LETTERS_LEASE), 0, list[Delivery]()
        try:
            while len(held) < LETTERS_MOST:
                came = consumer.receive(self.native.max_receive_batch, LETTERS_WAIT)
                if not came:
                    break
                done: list[Delivery] = []
                for delivery in came:
                    label, body = take_off(delivery.body)
                    letter = _letter(delivery, label, body, queue)
                    ours = (wanted is None or delivery.id in wanted) and take(letter, body)
                    (done if ours else held).append(delivery)
                taken += len(done) - len(consumer.ack(done))
            consumer.release(held)
        finally:
            consumer.close()
        return taken


def _collect(broker: Broker, envelopes: Sequence[Envelope], rejected: dict[str, str]) -> None:
    size = broker.capabilities.max_publish_batch
    for start in range(0, len(envelopes), size):
        try:
            broker.publish(envelopes[start : start + size])
        except PublishError as error:
            rejected.update(error.rejected)


def _letter(delivery: Delivery, label: Label, body: bytes, queue: str) -> Waiting:
    return Waiting(
        id=delivery.id,
        queue=queue,
        body=body,
        priority=label.priority,
        attempt=delivery.attempt,
        delivery_count=label.count,
        published=delivery.published,
        state="dead",
        reason=label.reason,
        buried=label.buried or None,
    )


def _revived(letter: Waiting, body: bytes) -> Delivery:
    return Delivery(
        id=letter.id, queue=letter.queue, body=body, receipt=None, priority=letter.priority, attempt=letter.attempt
    )
