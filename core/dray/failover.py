"""Failover: one broker made of several, of which one at a time is used and the others stand by."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from .broker import Broker
from .errors import BrokerUnavailable
from .message import Queue
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

    def _ask(self, verb: str, call: Callable[[Broker], T], ids: Iterable[str] = ()) -> T:
        asked = self.current
        try:
            return call(asked)
        except BrokerUnavailable:
            # Another thread may have moved on meanwhile; its choice has not failed.
            self._failed = self.current is asked
            raise

    def declare(self, queues: Sequence[Queue]) -> None:
        super().declare(queues)
        self._declared = queues
