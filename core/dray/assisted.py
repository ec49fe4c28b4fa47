"""What the engine does in a broker's place: `Assisted` is a broker that lacks something, and what was missing.

With queues of the broker's own it does priorities (a queue for each step, `q__p5`), dead letters (`q__dead`), delays
longer than the broker's (in hops), giving back with a delay, and giving back uncharged. With a second broker beside
it, the *store*, also delays of any length, cancelling, delivery counts, and dropping what was done already. What each
costs is said by `dray.capabilities.resolve`. A broker that lacks nothing of this is used bare.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from .assisted_consumer import AssistedConsumer, Copy
from .broker import Broker, Consumer
from .capabilities import FOREVER, STEPS, Capabilities, assisted
from .errors import BrokerUnavailable, NotSupported, PublishError
from .labels import NO_LABEL, Label, is_labelled, put_on, take_off
from .message import Delivery, Envelope, Queue, Waiting
from .queues import reached
from .sub_queues import DEAD, of_step, plain, step_for

#: Seconds for which dead letters are borrowed while they are looked through, and to wait for more of them.
LETTERS_LEASE, LETTERS_WAIT = 60.0, 0.5
#: Most dead letters that are held while some of them are looked for; what lies behind them is not found.
LETTERS_MOST = 10_000

logger = logging.getLogger("dray")

_replace = msgspec.structs.replace


class Letter(NamedTuple):
    """A dead letter in our hands: what is shown of it, its label, and its loan."""

    shown: Waiting
    label: Label
    loan: Delivery


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
        self.native = Capabilities()
        #: Seconds for which what is done is remembered; 0 where the broker itself recognises a repeated publish.
        self.remember = 0.0
        #: Whether nothing may be received without the store.
        self.needs_store = False
        #: Declared queues of which each worker has a copy.
        self.broadcast: frozenset[str] = frozenset()
        #: Loans where a lease decides how long they last: they outlive the consumer that took them.
        self.lent: dict[Any, Delivery] = {}
        self.live: set[Any] = set()
        self._remember = remember
        self._declared: Sequence[Queue] = ()
        #: False: it is opened before it is asked again.
        self.store_is_open = self._store_is_away = False
        self._opening = threading.Lock()

    # Life

    def open(self) -> None:
        self.transport.clock = self.clock
        self.transport.open()
        url = self.url = self.transport.url
        self.place = self.transport.place or f"{url.scheme}:{url.path}"
        native = self.native = self.transport.capabilities
        self.capabilities = assisted(native, None if self.store is None else self.store.capabilities)
        self.remember = 0.0 if native.dedup or self.store is None else self._remember
        lacking = native.max_delay < FOREVER or not (native.cancel and native.delivery_count) or self.remember > 0
        self.needs_store = self.store is not None and lacking
        self.steps = STEPS if native.priority_levels < 2 else (0,)
        self._due = f"due.{crc32(self.place.encode()):08x}."
        self.store_is_open = False
        if self.needs_store:
            try:
                self.open_store()
            except BrokerUnavailable as error:
                # What does not need it can still be sent. Nobody receives without it.
                if not self._store_is_away:
                    logger.warning("the store is away: %s", error)
                self._store_is_away = True

    def open_store(self) -> Broker | None:
        """Return the store, open; None when there is none. Raises `BrokerUnavailable` while it is away."""
        if self.store is not None and not self.store_is_open:
            with self._opening:
                self.store.clock = self.clock
                self.store.open()
                self.store_is_open, self._store_is_away = True, False
        return self.store

    def close(self) -> None:
        self.store_is_open = False
        try:
            self.transport.close()
        finally:
            if self.store is not None:
                self.store.close()

    def declare(self, queues: Sequence[Queue]) -> None:
        self._declared, self.broadcast = list(queues), frozenset(queue.name for queue in queues if queue.broadcast)
        # Kept like the queue itself, to which everything comes that goes through an exchange.
        subs = [
            Queue(name=of_step(queue.name, step), arguments=queue.arguments)
            for queue in queues
            for step in self.steps
            if step and queue.arguments and not queue.broadcast
        ]
        self.transport.declare([*queues, *subs])

    def setup(self, queues: Sequence[str]) -> Sequence[str]:
        made = list(self.transport.setup(self._all(queues)))
        return made if self.store is None else [*made, *self.store.setup([])]

    def advice(self, queues: Sequence[str]) -> Sequence[str]:
        advice = list(self.transport.advice(self._all(queues)))
        return advice if self.store is None else [*advice, *self.store.advice([])]

    # Queues under other names

    def expand(self, queues: Iterable[str]) -> list[str]:
        """Return the queues that stand for `queues` on the transport, the most urgent first."""
        return list(self.stand_ins(queues))

    def stand_ins(self, queues: Iterable[str]) -> dict[str, tuple[str, int]]:
        """Return which queue, and which priority in it, each queue on the transport stands for."""
        steps = {queue: (0,) if queue in self.broadcast else self.steps for queue in queues}
        return {of_step(queue, step): (queue, step) for queue in steps for step in steps[queue]}

    def _all(self, queues: Sequence[str]) -> list[str]:
        dead = [] if self.native.dead_letters else [queue + DEAD for queue in queues]
        return [*self.expand(queues), *dead]

    def due(self, queue: str) -> str:
        """Return the name of the queue in the store that holds what is not due yet."""
        return self._due + queue

    # Publishing

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        if rejected := self._send(self._place(envelopes)):
            raise PublishError(rejected)

    def publish_within(self, connection: Any, envelopes: Sequence[Envelope]) -> None:
        placed = self._place(envelopes)
        if placed.later:
            raise NotSupported("a delay that the store keeps cannot be part of a transaction with the broker")
        self.transport.publish_within(connection, placed.now)

    def send_copies(self, copies: Iterable[Copy]) -> Mapping[str, str]:
        """Publish copies of deliveries; return the ids of those that were refused, and why."""
        placed = Placed([], [])
        longest = self.native.max_delay
        for each, label, delay in copies:
            label, delay = self._hop(label, delay) if delay > longest and self.store is None else (label, delay)
            later = delay > longest
            # Labelled here: what the store hands over is passed on as it is.
            envelope = Envelope(
                id=each.id,
                queue=self.due(each.queue) if later else self.sub_queue(each.queue, each.priority),
                body=put_on(label, each.body),
                priority=each.priority,
                delay=delay,
                attempt=each.attempt,
                key=label.key or None,
            )
            (placed.later if later else placed.now).append(envelope)
        return self._send(placed)

    def _place(self, envelopes: Iterable[Envelope]) -> Placed:
        placed = Placed([], [])
        longest, split, keyed = self.native.max_delay, len(self.steps) > 1, bool(self.native.key)
        for envelope in envelopes:
            label = Label(key=envelope.key) if keyed and envelope.key else NO_LABEL
            delay = envelope.delay
            # What goes through an exchange has no queue yet in which it could wait in the store.
            if delay > longest and (self.store is None or envelope.exchange):
                self._check_may_hop(envelope)
                label, delay = self._hop(label, delay)
            if label is not NO_LABEL or is_labelled(envelope.body):
                envelope = _replace(envelope, delay=delay, body=put_on(label, envelope.body))
            if delay > longest:
                placed.later.append(_replace(envelope, queue=self.due(envelope.queue)))
                continue
            if envelope.priority and split and not envelope.exchange:
                envelope = _replace(envelope, queue=self.sub_queue(envelope.queue, envelope.priority))
            placed.now.append(envelope)
        return placed

    def _check_may_hop(self, envelope: Envelope) -> None:
        """Refuse a hop after which each worker would send its own copy on to all others."""
        where = reached(self._declared, envelope.exchange, envelope.routing_key)
        if envelope.queue in self.broadcast or any(queue.broadcast for queue in where):
            longest, how = self.native.max_delay, " that names the queue itself" if envelope.exchange else ""
            raise NotSupported(f"a broadcast{how} is delayed by {longest:g} s at most without a store (store_url)")

    def _hop(self, label: Label, delay: float) -> tuple[Label, float]:
        """Return the label for the first part of a delay that is longer than the broker's, and how long that is."""
        longest = self.native.max_delay
        return _replace(label, hop=longest, rest=delay - longest, until=self.clock.time() + longest), longest

    def pass_on(self, envelopes: Iterable[Envelope]) -> Mapping[str, str]:
        """Publish what was placed before; return the ids of those that were refused, and why."""
        return self._send(Placed(list(envelopes), []))

    def _send(self, placed: Placed) -> dict[str, str]:
        """Publish everything; return the ids of those that were refused, and why: all others are safe then."""
        rejected: dict[str, str] = {}
        if placed.later and (store := self.open_store()) is not None:
            _collect(store, placed.later, rejected)
        _collect(self.transport, placed.now, rejected)
        return rejected

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
        return (self.transport.find if self.capabilities.find else super().find)(ids)

    # Looking

    def queues(self) -> Sequence[str]:
        names = {plain(name) for name in self.transport.queues()}
        store = self._store_with("size")
        if store is not None:
            names |= {name.removeprefix(self._due) for name in store.queues() if name.startswith(self._due)}
        return sorted(names)

    def sizes(self, queues: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        dead = [] if self.native.dead_letters else [queue + DEAD for queue in queues]
        counted = self.transport.sizes([*self.expand(queues), *dead])
        sizes = {queue: dict.fromkeys(("ready", "delayed", "leased", "dead"), 0) for queue in queues}
        for name, (queue, _) in self.stand_ins(queues).items():
            for state, number in counted.get(name, {}).items():
                sizes[queue][state] += number
        for queue in queues:
            sizes[queue]["dead"] += sum(counted.get(queue + DEAD, {}).values())
        store = self._store_with("size")
        if store is not None:
            waiting = store.sizes([self.due(queue) for queue in queues])
            for queue in queues:
                sizes[queue]["delayed"] += sum(waiting.get(self.due(queue), {}).values())
        return sizes

    def _store_with(self, capability: str) -> Broker | None:
        """Return the store, open, if messages may wait there and it has this capability."""
        store = self.open_store() if self.needs_store else None
        return store if store is not None and getattr(store.capabilities, capability) else None

    def peek(self, queue: str, limit: int) -> Sequence[Waiting]:
        found: list[Waiting] = []
        for name in self.expand([queue]):
            found += self.transport.peek(name, limit - len(found)) if len(found) < limit else ()
        return [_replace(seen, queue=queue, body=take_off(seen.body)[1]) for seen in found]

    def purge(self, queue: str) -> int:
        gone = sum(self.transport.purge(name) for name in self.expand([queue]))
        store = self._store_with("purge")
        return gone if store is None else gone + store.purge(self.due(queue))

    # Dead letters: messages in a queue of their own, which are borrowed to be looked at

    def lay_dead(self, letters: Iterable[tuple[Delivery, Label]]) -> Mapping[str, str]:
        """Put a copy of each into the dead letters of its queue; return the ids of those that were refused, and why."""
        # Without a key: of several letters with the same one only the first could be looked at.
        envelopes = [
            Envelope(id=each.id, queue=each.queue + DEAD, body=put_on(label, each.body), attempt=each.attempt)
            for each, label in letters
        ]
        return self.pass_on(envelopes)

    def dead(self, queue: str, limit: int, ids: Sequence[str] | None = None) -> Sequence[Waiting]:
        if self.native.dead_letters:
            return self.transport.dead(queue, limit, ids)
        found: list[Waiting] = []

        def look(letters: Sequence[Letter]) -> Sequence[Letter]:
            found.extend(letter.shown for letter in letters)
            return ()

        self._letters(queue, ids, look)
        # Borrowing does not keep their order everywhere; the label does.
        return sorted(found, key=lambda letter: letter.buried or 0.0)[:limit]

    def replay(self, queue: str, ids: Sequence[str] | None = None) -> int:
        if self.native.dead_letters:
            return self.transport.replay(queue, ids)

        def back(letters: Sequence[Letter]) -> Sequence[Letter]:
            # Published first: killed before the letters are acked, they are both dead and waiting, and never neither.
            refused = self.send_copies(_revived(letter, queue) for letter in letters)
            for id, reason in refused.items():
                logger.error("the dead letter %s stays where it is: %s", id, reason)
            return [letter for letter in letters if letter.shown.id not in refused]

        return self._letters(queue, ids, back)

    def discard(self, queue: str, ids: Sequence[str] | None = None) -> int:
        if self.native.dead_letters:
            return self.transport.discard(queue, ids)
        return self._letters(queue, ids, lambda letters: letters)

    def _letters(
        self, queue: str, ids: Sequence[str] | None, take: Callable[[Sequence[Letter]], Sequence[Letter]]
    ) -> int:
        """Show `take` the dead letters of a queue; those that it returns are deleted. Return how many.

        The others are held until the end, or they would come round again and again.
        """
        wanted = None if ids is None else set(ids)
        consumer, taken, held = self.transport.consumer([queue + DEAD], LETTERS_LEASE), 0, list[Delivery]()
        try:
            while len(held) < LETTERS_MOST:
                came = consumer.receive(self.native.max_receive_batch, LETTERS_WAIT)
                if not came:
                    break
                ours = [_letter(loan, queue) for loan in came if wanted is None or loan.id in wanted]
                done = {letter.loan.receipt: letter.loan for letter in take(ours)}
                held += [loan for loan in came if loan.receipt not in done]
                taken += len(done) - len(consumer.ack(list(done.values())))
            consumer.release(held)
        finally:
            consumer.close()
        return taken


def _collect(broker: Broker, envelopes: Sequence[Envelope], rejected: dict[str, str]) -> None:
    """Publish in the batches that the broker takes, and add to `rejected` what it refused; the others are safe."""
    size = broker.capabilities.max_publish_batch
    for start in range(0, len(envelopes), size):
        try:
            broker.publish(envelopes[start : start + size])
        except PublishError as error:
            rejected.update(error.rejected)


def _letter(loan: Delivery, queue: str) -> Letter:
    label, body = take_off(loan.body)
    shown = Waiting(
        id=loan.id,
        queue=queue,
        body=body,
        priority=label.priority,
        attempt=loan.attempt,
        delivery_count=label.count,
        published=loan.published,
        state="dead",
        reason=label.reason,
        buried=label.buried or None,
    )
    return Letter(shown, label, loan)


def _revived(letter: Letter, queue: str) -> Copy:
    body, priority = letter.shown.body, letter.shown.priority
    again = _replace(letter.loan, queue=queue, body=body, priority=priority)
    return Copy(again, Label(buried=letter.label.buried, key=letter.label.key), 0.0)
