"""Failover: one broker made of several, of which one at a time is used and the others stand by."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TypeVar

from .broker import Broker, Consumer
from .errors import BrokerError, BrokerUnavailable
from .message import Delivery, Queue
from .relay import Relay

T = TypeVar("T")


class Failover(Relay):
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
        #: Held while one is chosen, so that threads which failed together move on together.
        self._choosing = threading.Lock()

    def open(self) -> None:
        with self._choosing:
            left, self.current = self.current, self._reachable()
            self._failed = False
            now = self.current
            self.url, self.capabilities, self.place = now.url, now.capabilities, now.place
            if left is not now:
                # What is lent there comes back, or runs out: nobody here would settle it any more.
                with suppress(BrokerError):
                    left.close()

    def _reachable(self) -> Broker:
        """Return the first that can be opened, beginning with the one in use, unless it has failed."""
        at = self.brokers.index(self.current)
        # One that connects lazily can always be opened; that it failed since then is what counts.
        first = at + 1 if self._failed else at
        tried: list[str] = []
        for broker in self.brokers[first:] + self.brokers[:first]:
            broker.clock = self.clock
            try:
                broker.open()
                if broker is not self.current and self._declared:
                    broker.declare(self._declared)
            except BrokerUnavailable as error:
                tried.append(f"{broker.url}: {error}")
                continue
            return broker
        raise BrokerUnavailable(f"none of {len(tried)} brokers can be reached: {'; '.join(tried)}")

    def close(self) -> None:
        for broker in self.brokers:
            broker.close()

    def consumer(self, queues: Sequence[str], lease: float) -> Consumer:
        broker = self.current
        return _Loans(self, broker, self.ask(broker, lambda: broker.consumer(queues, lease)))

    def declare(self, queues: Sequence[Queue]) -> None:
        super().declare(queues)
        self._declared = queues

    def ask(self, broker: Broker, call: Callable[[], T]) -> T:
        """Make a call of `broker`, and note if it cannot be reached."""
        try:
            return call()
        except BrokerUnavailable:
            # Another thread may have moved on meanwhile; its choice has not failed.
            if broker is self.current:
                self._failed = True
            raise

    def _ask(self, verb: str, call: Callable[[Broker], T], ids: Iterable[str] = ()) -> T:
        broker = self.current
        return self.ask(broker, lambda: call(broker))


class _Loans(Consumer):
    """One worker's loans from one of several brokers. It brings nothing more when another is in use."""

    def __init__(self, failover: Failover, broker: Broker, inner: Consumer) -> None:
        self._failover = failover
        self._broker = broker
        self._inner = inner

    def receive(self, limit: int, wait: float, queues: Sequence[str] | None = None) -> Sequence[Delivery]:
        if self._broker is not self._failover.current:
            # A sender has moved on: who went on looking here would leave what is sent from now on to others.
            raise BrokerUnavailable(f"{self._failover.current.url} has taken over")
        return self._failover.ask(self._broker, lambda: self._inner.receive(limit, wait, queues))

    def wake(self) -> None:
        self._inner.wake()

    def resume(self) -> bool:
        return self._broker is self._failover.current and self._inner.resume()

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return self._inner.ack(deliveries)

    def requeue(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> Sequence[Delivery]:
        return self._inner.requeue(deliveries, delay)

    def release(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return self._inner.release(deliveries)

    def bury(self, deliveries: Sequence[Delivery], reason: str) -> Sequence[Delivery]:
        return self._inner.bury(deliveries, reason)

    def extend(self, deliveries: Sequence[Delivery], seconds: float) -> Sequence[Delivery]:
        return self._inner.extend(deliveries, seconds)

    def close(self) -> None:
        self._inner.close()
