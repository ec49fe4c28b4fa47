"""The kombu+...:// broker: every transport that kombu has, declared as what it is.

    kombu+redis://localhost:6379/0          kombu+filesystem:///var/spool/tasks
    kombu+amqp://guest@localhost//          kombu+sqla+postgresql://localhost/tasks

For Redis, RabbitMQ, SQS, PostgreSQL and SQLite dray has brokers of its own, which are quicker and lose nothing; this
one is for all the others, and for queues that are shared with Celery. The engine adds what is missing
(`dray doctor` tells what). What becomes of a message that a worker holds, measured by killing it:

    amqp, pyamqp                    comes out again when the server sees the connection end
    redis, rediss, sentinel         comes out again after `visibility_timeout` (kombu: one hour, finished or not);
                                    one that was between two commands of kombu's is lost
    sqs, pgmq, azureservicebus      comes out again after the transport's own visibility timeout
    memory, filesystem, sqla,       is gone: kombu takes the message away when it hands it over. At most once, then, if
    mongodb and others              workers are killed; a worker that is stopped gives back what it holds

Messages are fetched one by one, when there is a slot for them: nothing is fetched in advance and held back.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dray import (
    Broker,
    BrokerError,
    BrokerUnavailable,
    Capabilities,
    Consumer,
    Delivery,
    Envelope,
    PublishError,
    Url,
)

from .kombu_link import Link, Refused
from .kombu_place import Place
from .kombu_wire import again, read, written

logger = logging.getLogger("dray.brokers.kombu")

#: Most messages of one call. Each costs a request or two, and acks take turns with them.
BATCH = 100
#: Seconds between the first two looks of an idle worker, and how much longer each pause is than the one before it.
FIRST_PAUSE, GROWTH = 0.005, 1.5
#: Longest time between two looks for messages whose visibility timeout is over (seconds), and most that come back.
SWEEP_EVERY, SWEEP = 10.0, 100
#: The transports that dray has a better broker for, and which.
BETTER = {
    **dict.fromkeys(("redis", "rediss", "sentinel"), "redis"),
    **dict.fromkeys(("amqp", "amqps", "pyamqp", "librabbitmq"), "amqp"),
    "sqs": "sqs",
    "pgmq": "postgresql",
    "memory": "memory",
}

#: What proves a loan: the number of the consumer and kombu's delivery tag.
Receipt = tuple[int, Any]
_numbers = itertools.count(1)


class KombuBroker(Broker):
    """`kombu+<transport>://...`, with kombu's own URL behind the plus. Options: `kombu_place.KombuOptions`.

    What a consumer holds ends with its connection, and comes back at once where kombu can do that.
    """

    capabilities = Capabilities(max_receive_batch=BATCH, max_publish_batch=BATCH, redelivers=False, durable=False)

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        self.where = Place(url)
        self._link = Link(self.where, heals=True)
        self._lock = threading.Lock()
        self._consumers: list[KombuConsumer] = []
        #: Queues that this connection has had to do with: kombu cannot list those there are.
        self._known: set[str] = set()

    def open(self) -> None:
        self._link.open()
        traits = self.where.traits
        self.capabilities = Capabilities(
            lease_max=self.where.held_at_most,
            max_message_bytes=traits.max_bytes,
            max_publish_batch=BATCH,
            max_receive_batch=BATCH,
            fifo=traits.fifo,
            purge=self._link.purges,
            size="approximate" if self._link.tells_size else "",
            redelivers=traits.redelivers,
            durable=traits.durable,
            shared=traits.shared,
        )
        # Who shares a store must call the host alike: nothing else tells one server from another.
        hosts = ",".join(f"{host}:{port or ''}" for host, port in self.url.hosts)
        self.place = f"{self.url.scheme}:{hosts}{self.url.path}:{self.where.options.prefix}"
        for consumer in self._each_consumer():
            consumer.end_if_lost()

    def close(self) -> None:
        for consumer in self._each_consumer():
            consumer.close()
        self._link.close()

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        rejected: dict[str, str] = {}
        now = self.clock.time()
        for envelope in envelopes:
            try:
                self._link.publish(envelope.queue, written(envelope, now))
            except Refused as refusal:
                rejected[envelope.id] = str(refusal)
        if envelopes:
            self._known.update(envelope.queue for envelope in envelopes)
            self.ring()
        if rejected:
            raise PublishError(rejected)

    def consumer(self, queues: Sequence[str], lease: float) -> Consumer:
        consumer = KombuConsumer(self, queues)
        self._known.update(queues)
        with self._lock:
            self._consumers.append(consumer)
        return consumer

    def setup(self, queues: Sequence[str]) -> Sequence[str]:
        for queue in queues:
            self._link.declare(queue)
        return [f"the queue {self.where.name_there(queue)} is there" for queue in queues]

    def advice(self, queues: Sequence[str]) -> Sequence[str]:
        traits, transport, advice = self.where.traits, self.where.transport, []
        if not traits.redelivers and traits.shared:
            advice.append(
                f"kombu's transport {transport} takes messages away when it hands them over: what a worker holds when "
                "it is killed is lost. Stop workers with SIGTERM, and keep what must not be lost elsewhere."
            )
        if traits.visibility is not None:
            advice.append(
                f"A task that takes longer than {self.where.held_at_most:g} s is run once more beside itself: that is "
                f"the visibility timeout of kombu's transport {transport}."
            )
        if transport in BETTER:
            advice.append(
                f"dray's own {BETTER[transport]}:// broker is quicker than kombu's, keeps leases and counts deliveries."
            )
        return advice

    # Looking

    def queues(self) -> Sequence[str]:
        if not self.capabilities.size:
            return super().queues()
        sizes = self.sizes(sorted(self._known))
        return [queue for queue, counted in sizes.items() if any(counted.values())]

    def sizes(self, queues: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        if not self.capabilities.size:
            return super().sizes(queues)
        held: Counter[str] = Counter()
        for consumer in self._each_consumer():
            held.update(consumer.held())
        return {
            queue: {"ready": self._link.count(queue) or 0, "delayed": 0, "leased": held[queue], "dead": 0}
            for queue in queues
        }

    def purge(self, queue: str) -> int:
        if not self.capabilities.purge:
            return super().purge(queue)
        return self._link.purge(queue)

    # For the consumers

    def ring(self) -> None:
        """Wake the consumers of this connection: something may be there for them."""
        for consumer in self._each_consumer():
            consumer.wake()

    def forget(self, consumer: KombuConsumer) -> None:
        """Take note that a consumer holds nothing any more."""
        with self._lock:
            if consumer in self._consumers:
                self._consumers.remove(consumer)

    def _each_consumer(self) -> Sequence[KombuConsumer]:
        with self._lock:
            return tuple(self._consumers)


class KombuConsumer(Consumer):
    """The loans of one worker, through a connection of its own."""

    def __init__(self, broker: KombuBroker, queues: Sequence[str]) -> None:
        self._broker = broker
        self._clock = broker.clock
        self._place = broker.where
        self._queues = tuple(queues)
        self._number = next(_numbers)
        self._link = Link(self._place, heals=False)
        try:
            self._link.open()
            for queue in self._queues:
                self._link.declare(queue)
        except BaseException:
            self._link.close()
            raise
        #: What was lent and is not settled: queue and message of kombu's.
        self._lent: dict[Receipt, tuple[str, Any]] = {}
        self._rung = threading.Event()
        self._pause = FIRST_PAUSE
        #: When (monotonic) to look again, and when to look for visibility timeouts that are over.
        self._next_look = 0.0
        self._next_sweep = 0.0
        self._closed = False

    def receive(self, limit: int, wait: float, queues: Sequence[str] | None = None) -> Sequence[Delivery]:
        names = self._queues if queues is None else queues
        limit = min(limit, BATCH)
        end = self._clock.monotonic() + wait
        while True:
            now = self._clock.monotonic()
            if wait <= 0 or now >= self._next_look or self._rung.is_set():
                # Silenced before the look, so that what is published after it is heard.
                self._rung.clear()
                taken = self._look(names, limit)
                if taken or wait <= 0:
                    return taken
                now = self._clock.monotonic()
                self._pause = min(self._pause * GROWTH, self._place.poll)
                self._next_look = now + self._pause
            if now >= end:
                return ()
            self._clock.wait(self._rung, min(end, self._next_look) - now)

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return self._settle(deliveries, lambda channel, queue, message: channel.basic_ack(message.delivery_tag))

    def requeue(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> Sequence[Delivery]:
        def renew(channel: Any, queue: str, message: Any) -> None:
            # Rejected, it would be the head of the line again on some transports. Killed between the two, it is there
            # twice, never not at all.
            self._link.publish(queue, again(message))
            channel.basic_ack(message.delivery_tag)

        over = self._settle(deliveries, renew)
        self._broker.ring()
        return over

    def release(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        over = self._settle(deliveries, lambda channel, queue, message: self._link.reject(message.delivery_tag))
        self._broker.ring()
        return over

    def bury(self, deliveries: Sequence[Delivery], reason: str) -> Sequence[Delivery]:
        # Not rejected: a dead-letter exchange of the server's would keep a second copy of what the engine keeps.
        return self.ack(deliveries)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._bring_back()
        except BrokerError as error:
            logger.warning("%d message(s) of %s cannot be given back: %s", len(self._lent), self._place.url, error)
        self._link.close()
        self._lent.clear()
        self._broker.forget(self)
        self._broker.ring()

    # For the broker

    def wake(self) -> None:
        """Look again now."""
        self._rung.set()

    def held(self) -> Counter[str]:
        """Count what is lent, by queue."""
        return Counter(queue for queue, _ in tuple(self._lent.values()))

    def end_if_lost(self) -> None:
        """Close this consumer if its connection was lost.

        Raises `BrokerUnavailable` while what it held cannot come back, to be called again.
        """
        if self._link.broken:
            try:
                self._bring_back()
            except BrokerUnavailable:
                raise
            except BrokerError as error:
                logger.warning("what was held cannot be given back: %s", error)
            self.close()

    # Inside

    def _bring_back(self) -> None:
        with self._link.turn:
            while self._lent:
                receipt = next(iter(self._lent))
                self._link.give_back(receipt[1])
                del self._lent[receipt]

    def _look(self, names: Sequence[str], limit: int) -> list[Delivery]:
        self._sweep()
        taken: list[Delivery] = []
        for queue in names:
            while len(taken) < limit and (delivery := self._fetch(queue)) is not None:
                taken.append(delivery)
        if taken:
            self._pause, self._next_look = FIRST_PAUSE, 0.0
        return taken

    def _fetch(self, queue: str) -> Delivery | None:
        # One message in each turn, so that acks of other threads come between.
        with self._link.turn:
            message = self._link.fetch(queue)
            if message is None:
                return None
            receipt = (self._number, message.delivery_tag)
            self._lent[receipt] = queue, message
        return read(message, queue, receipt)

    def _settle(self, deliveries: Sequence[Delivery], how: Callable[[Any, str, Any], None]) -> Sequence[Delivery]:
        over = []
        for delivery in deliveries:
            if self._link.broken:
                # What it held comes out again (`end_if_lost`); only the next consumer can go on.
                over.append(delivery)
                continue
            with self._link.using("settle with") as channel:
                lent = self._lent.get(delivery.receipt)
                if lent is None:
                    over.append(delivery)
                    continue
                how(channel, *lent)
                del self._lent[delivery.receipt]
        return over

    def _sweep(self) -> None:
        """Let what dead workers held come out again, where a timeout says when; kombu leaves that to the consumers."""
        if self._place.traits.visibility is None or self._clock.monotonic() < self._next_sweep:
            return
        self._next_sweep = self._clock.monotonic() + min(SWEEP_EVERY, self._place.held_at_most / 4)
        with self._link.using("receive from") as channel:
            channel.qos.restore_visible(num=SWEEP, interval=1)
