"""Failover: one broker made of several, of which one at a time is used and the others stand by."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from .broker import Broker, Consumer
from .errors import BrokerUnavailable
from .message import Envelope, Queue, Waiting

T = TypeVar("T")


class Failover(Broker):
    """Several brokers behind one: when the one in use cannot be reached, `open()` takes the next that can.

    They are tried in the order given, or, with `shuffle`, in random order. What waits in one is not in another: they
    are nodes of one cluster, or somebody works off each of them. Thread-safe as any broker.
    """

    def __init__(self, brokers: Sequence[Broker], shuffle: bool = False) -> None:
        super().__init__(brokers[0].url)
        self.brokers = list(brokers)
        if shuffle:
            random.shuffle(self.brokers)
        #: The one in use.
        self.current = self.brokers[0]
        self._failed = False
        self._declared: Sequence[Queue] = ()

    def open(self) -> None:
        at = self.brokers.index(self.current)
        # One that connects lazily can always be opened; that it failed since then is what counts.
        first = at + 1 if self._failed else at
        tried: list[str] = []
        for broker in (self.brokers[first:] + self.brokers[:first]) or self.brokers:
            broker.clock = self.clock
            try:
                broker.open()
                if broker is not self.current and self._declared:
                    broker.declare(self._declared)
            except BrokerUnavailable as error:
                tried.append(f"{broker.url}: {error}")
                continue
            self.current, self._failed = broker, False
            self.url, self.capabilities, self.place = broker.url, broker.capabilities, broker.place
            return
        raise BrokerUnavailable(f"none of {len(tried)} brokers can be reached: {'; '.join(tried)}")

    def close(self) -> None:
        for broker in self.brokers:
            broker.close()

    def _ask(self, verb: Callable[[Broker], T]) -> T:
        asked = self.current
        try:
            return verb(asked)
        except BrokerUnavailable:
            # Another thread may have moved on meanwhile; its choice has not failed.
            self._failed = self.current is asked
            raise

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        self._ask(lambda broker: broker.publish(envelopes))

    def publish_within(self, connection: Any, envelopes: Sequence[Envelope]) -> None:
        self._ask(lambda broker: broker.publish_within(connection, envelopes))

    def consumer(self, queues: Sequence[str], lease: float) -> Consumer:
        return self._ask(lambda broker: broker.consumer(queues, lease))

    def declare(self, queues: Sequence[Queue]) -> None:
        self._ask(lambda broker: broker.declare(queues))
        self._declared = queues

    def setup(self, queues: Sequence[str]) -> Sequence[str]:
        return self._ask(lambda broker: broker.setup(queues))

    def advice(self, queues: Sequence[str]) -> Sequence[str]:
        return self._ask(lambda broker: broker.advice(queues))

    def cancel(self, ids: Sequence[str], ttl: float) -> None:
        self._ask(lambda broker: broker.cancel(ids, ttl))

    def cancelled(self, ids: Sequence[str]) -> set[str]:
        return self._ask(lambda broker: broker.cancelled(ids))

    def find(self, ids: Sequence[str]) -> Mapping[str, str]:
        return self._ask(lambda broker: broker.find(ids))

    def queues(self) -> Sequence[str]:
        return self._ask(lambda broker: broker.queues())

    def sizes(self, queues: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        return self._ask(lambda broker: broker.sizes(queues))

    def peek(self, queue: str, limit: int) -> Sequence[Waiting]:
        return self._ask(lambda broker: broker.peek(queue, limit))

    def purge(self, queue: str) -> int:
        return self._ask(lambda broker: broker.purge(queue))

    def dead(self, queue: str, limit: int, ids: Sequence[str] | None = None) -> Sequence[Waiting]:
        return self._ask(lambda broker: broker.dead(queue, limit, ids))

    def replay(self, queue: str, ids: Sequence[str] | None = None) -> int:
        return self._ask(lambda broker: broker.replay(queue, ids))

    def discard(self, queue: str, ids: Sequence[str] | None = None) -> int:
        return self._ask(lambda broker: broker.discard(queue, ids))
