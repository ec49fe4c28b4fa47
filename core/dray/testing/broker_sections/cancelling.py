"""Cancelling: a cancelled id is marked wherever it is, however often it is tried, until its time is over."""

from __future__ import annotations

from ...broker import Broker
from .kit import LONG, BrokerKit, envelope, needs


class Cancelling(BrokerKit):
    """cancelling"""

    def test_a_message_is_not_cancelled_unless_someone_says_so(self, broker: Broker) -> None:
        self.send(broker, "a")
        (delivery,) = self.take(self.consumer(broker))
        assert delivery.cancelled is False

    def test_a_cancelled_message_is_marked_when_received(self, broker: Broker) -> None:
        needs(broker, "cancel")
        self.send(broker, "a", "b")
        broker.cancel(["a"], LONG)
        assert {each.id: each.cancelled for each in self.take(self.consumer(broker), 2)} == {"a": True, "b": False}

    def test_an_id_can_be_cancelled_before_it_is_published(self, broker: Broker) -> None:
        needs(broker, "cancel")
        broker.cancel(["a"], LONG)
        self.send(broker, "a")
        (delivery,) = self.take(self.consumer(broker))
        assert delivery.cancelled is True

    def test_a_cancelled_id_is_marked_while_it_is_lent(self, broker: Broker) -> None:
        needs(broker, "cancel")
        self.send(broker, "a")
        self.take(self.consumer(broker))
        broker.cancel(["a"], LONG)
        assert broker.cancelled(["a", "b"]) == {"a"}

    def test_the_next_attempts_are_cancelled_too(self, broker: Broker) -> None:
        needs(broker, "cancel")
        broker.cancel(["a"], LONG)
        consumer = self.consumer(broker)
        for attempt in range(3):
            self.send(broker, envelope("a", attempt=attempt))
            (delivery,) = self.take(consumer)
            assert delivery.cancelled is True
            consumer.ack([delivery])
        assert broker.cancelled(["a"]) == {"a"}

    def test_a_requeued_message_stays_cancelled(self, broker: Broker) -> None:
        needs(broker, "cancel")
        self.send(broker, "a")
        broker.cancel(["a"], LONG)
        consumer = self.consumer(broker)
        consumer.requeue(self.take(consumer))
        (delivery,) = self.take(consumer)
        assert delivery.cancelled is True

    def test_a_cancellation_is_forgotten_when_its_time_is_over(self, broker: Broker) -> None:
        needs(broker, "cancel")
        self.send(broker, "a")
        broker.cancel(["a"], self.lease)
        self.pass_time(broker, self.lease * 1.5)
        assert broker.cancelled(["a"]) == set()
        (delivery,) = self.take(self.consumer(broker))
        assert delivery.cancelled is False

    def test_cancelling_again_lasts_longer(self, broker: Broker) -> None:
        needs(broker, "cancel")
        broker.cancel(["a"], self.lease)
        broker.cancel(["a"], LONG)
        self.pass_time(broker, self.lease * 1.5)
        assert broker.cancelled(["a"]) == {"a"}

    def test_many_ids_are_cancelled_in_one_call(self, broker: Broker) -> None:
        needs(broker, "cancel")
        many = [f"m{n}" for n in range(2000)]
        broker.cancel(many, LONG)
        assert broker.cancelled(many) == set(many)

    def test_cancelling_nothing_is_harmless(self, broker: Broker) -> None:
        needs(broker, "cancel")
        broker.cancel([], LONG)
        assert broker.cancelled([]) == set()
        assert broker.cancelled(["a"]) == set()

    def test_a_cancellation_is_seen_by_another_connection(self, broker: Broker) -> None:
        needs(broker, "cancel")
        broker.cancel(["a"], LONG)
        with self.another(broker) as other:
            assert other.cancelled(["a"]) == {"a"}
            self.send(other, "a")
            (delivery,) = self.take(self.consumer(other))
            assert delivery.cancelled is True
