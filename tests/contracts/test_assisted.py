"""What the engine adds to a poor broker, against the contract: with and without a store, with and without leases."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from dray import Broker, Capabilities, Consumer, Delivery, Envelope, Url
from dray.assisted import Assisted
from dray.testing import BrokerContract
from dray_brokers.memory import MemoryBroker

#: What a poor broker cannot do; each test class gives it some of it back.
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
    """A broker in memory that does no more than it declares, and is told nothing else."""

    def __init__(self, inner: Broker, **can: Any) -> None:
        super().__init__(inner.url)
        self.inner = inner
        self.can = {**POOR, **can}
        self.number = count()

    def open(self) -> None:
        self.inner.clock = self.clock
        self.inner.open()
        self.capabilities = msgspec.structs.replace(self.inner.capabilities, **self.can)

    def close(self) -> None:
        self.inner.close()

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        for envelope in envelopes:
            assert envelope.delay <= self.capabilities.max_delay
        # An id of its own for each, for this broker recognises none.
        levels = self.can["priority_levels"]
        self.inner.publish(
            [
                msgspec.structs.replace(e, id=f"{e.id}|{uuid4()}", priority=e.priority if levels > 1 else 0)
                for e in envelopes
            ]
        )

    def consumer(self, queues: Sequence[str], lease: float) -> Consumer:
        return PoorConsumer(self, self.inner.consumer(queues, lease if self.capabilities.lease else 1e6))

    def queues(self) -> Sequence[str]:
        return self.inner.queues()

    def sizes(self, queues: Sequence[str]) -> Any:
        return self.inner.sizes(queues)

    def purge(self, queue: str) -> int:
        return self.inner.purge(queue)


class PoorConsumer(Consumer):
    def __init__(self, broker: PoorBroker, inner: Consumer) -> None:
        self.can = broker.capabilities
        self.inner = inner

    def receive(self, limit: int, wait: float, queues: Sequence[str] | None = None) -> Sequence[Delivery]:
        shown = {"delivery_count": 1} if not self.can.delivery_count else {}
        return [
            msgspec.structs.replace(each, id=each.id.rpartition("|")[0], cancelled=False, **shown)
            for each in self.inner.receive(limit, wait, queues)
        ]

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return self.inner.ack(deliveries)

    def requeue(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> Sequence[Delivery]:
        return self.inner.requeue(deliveries, delay if self.can.requeue_delay else 0.0)

    def bury(self, deliveries: Sequence[Delivery], reason: str) -> Sequence[Delivery]:
        return self.inner.ack(deliveries)

    def extend(self, deliveries: Sequence[Delivery], seconds: float) -> Sequence[Delivery]:
        return self.inner.extend(deliveries, seconds)

    def close(self) -> None:
        self.inner.close()


class AssistedKit(BrokerContract):
    lease = 0.2
    moment = 0.02
    can: dict[str, Any] = {}
    stored = True

    @pytest.fixture(autouse=True)
    def _do_not_wait_for_letters(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # In memory what is there comes at once.
        monkeypatch.setattr("dray.assisted.LETTERS_WAIT", 0.0)

    def make_broker(self, tmp_path: Path) -> Assisted:
        transport = PoorBroker(MemoryBroker(Url.parse("memory://")), **self.can)
        store = MemoryBroker(Url.parse("memory://")) if self.stored else None
        return Assisted(transport, store)


class TestCountingWithLeases(AssistedKit):
    """Like SQS: delays of some length, leases, counts; no store."""

    can = {"max_delay": 0.125, "delivery_count": True, "requeue_delay": True}
    stored = False


class TestCountingWithLeasesAndAStore(AssistedKit):
    can = TestCountingWithLeases.can


class TestNothingAtAllButAStore(AssistedKit):
    """Like most of kombu's transports."""


class TestNothingAtAll(AssistedKit):
    stored = False


class TestHeldUntilTheConnectionEnds(AssistedKit):
    """Like RabbitMQ: no leases, priorities of its own."""

    can = {"lease": False, "delivery_count": True, "max_delay": 100.0, "priority_levels": 10}
    stored = False


def test_capabilities_say_what_has_been_added() -> None:
    broker = AssistedKit().make_broker(Path())
    broker.open()
    can = broker.capabilities
    assert isinstance(can, Capabilities)
    assert (can.cancel, can.dead_letters, can.delivery_count, can.requeue_delay) == (True, True, True, True)
    assert (can.priority_levels, can.find, can.peek, can.dedup) == (3, False, False, False)
