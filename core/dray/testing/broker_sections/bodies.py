"""Bodies, ids and names: any bytes, any text, and no surprises at the edges."""

from __future__ import annotations

import pytest

from ...broker import Broker
from .kit import BrokerKit, envelope, ids

#: Ids that have been seen to break a separator, a pattern, a path, a key or a statement somewhere.
ODD_IDS = [
    "naïve-ключ-鍵-🛒",
    "a b\tc",
    "a:b,c;d|e",
    "../../etc/passwd",
    "%s%d{0}",
    "'; drop table x; --",
    '"\\"',
    "*?[a]",
    "x" * 128,
]
ODD_QUEUES = ["UPPER.and.lower", "a:b,c;d|e", "..", "%41", "ключ-鍵-🛒", "it's", "q*?[a]", "a/b", "q" * 60]


class Bodies(BrokerKit):
    """bodies and names"""

    def test_every_byte_value_survives(self, broker: Broker) -> None:
        body = bytes(range(256)) * 2
        self.send(broker, envelope("a", body=body))
        (delivery,) = self.take(self.consumer(broker))
        assert delivery.body == body

    @pytest.mark.parametrize("body", [b"", b"\x00", b"\n", b"null", b"\xff\xfe"], ids=repr)
    def test_a_short_body_survives(self, broker: Broker, body: bytes) -> None:
        self.send(broker, envelope("a", body=body))
        (delivery,) = self.take(self.consumer(broker))
        assert delivery.body == body

    def test_a_body_of_a_megabyte_survives(self, broker: Broker) -> None:
        size = min(1_000_000, broker.capabilities.max_message_bytes or 1_000_000)
        body = (bytes(range(256)) * (size // 256 + 1))[:size]
        self.send(broker, envelope("a", body=body))
        (delivery,) = self.take(self.consumer(broker))
        assert delivery.body == body

    def test_odd_ids_survive(self, broker: Broker) -> None:
        self.send(broker, *ODD_IDS)
        deliveries = self.take(self.consumer(broker), len(ODD_IDS))
        assert {each.id: each.body for each in deliveries} == {id: f"body of {id}".encode() for id in ODD_IDS}

    @pytest.mark.parametrize("queue", ODD_QUEUES)
    def test_an_odd_queue_name_is_a_queue_like_any_other(self, broker: Broker, queue: str) -> None:
        self.send(broker, "a", queue=queue)
        self.send(broker, "b", queue="q")
        consumer = self.consumer(broker, queue)
        (delivery,) = self.take(consumer)
        assert (delivery.id, delivery.queue) == ("a", queue)
        assert list(consumer.ack([delivery])) == []
        assert self.left(consumer) == []

    def test_the_hour_of_publishing_is_an_instant_or_not_kept(self, broker: Broker) -> None:
        self.send(broker, "a")
        (delivery,) = self.take(self.consumer(broker))
        # A day is enough to tell seconds from milliseconds, and an instant from the time since the machine was started.
        assert delivery.published is None or abs(delivery.published - broker.clock.time()) < 86_400

    def test_large_and_small_bodies_mix(self, broker: Broker) -> None:
        size = min(100_000, broker.capabilities.max_message_bytes or 100_000)
        self.send(broker, *(envelope(f"m{n}", body=b"x" * (size if n % 2 else n)) for n in range(20)))
        lengths = {each.id: len(each.body) for each in self.take(self.consumer(broker), 20)}
        assert lengths == {f"m{n}": size if n % 2 else n for n in range(20)}

    def test_ids_that_differ_in_case_only_are_two(self, broker: Broker) -> None:
        self.send(broker, "Same", "same")
        assert sorted(ids(self.take(self.consumer(broker), 2))) == ["Same", "same"]
