"""Publishing: whole batches, refusals by name, and a repeated publish that changes nothing."""

from __future__ import annotations

from functools import partial

import pytest

from ...broker import Broker
from ...errors import PublishError
from ..background import Background
from .kit import BrokerKit, envelope, ids, needs


class Publishing(BrokerKit):
    """publishing"""

    def test_what_is_published_comes_out_as_it_was(self, broker: Broker) -> None:
        self.send(broker, envelope("a", body=b"\x00bytes", attempt=3))
        (delivery,) = self.take(self.consumer(broker))
        assert (delivery.id, delivery.queue, delivery.body, delivery.attempt) == ("a", "q", b"\x00bytes", 3)

    def test_a_batch_is_published_whole(self, broker: Broker) -> None:
        sent = [f"m{n}" for n in range(300)]
        self.send(broker, *sent)
        assert sorted(ids(self.take(self.consumer(broker), 300))) == sorted(sent)

    def test_one_batch_may_go_to_several_queues(self, broker: Broker) -> None:
        broker.publish([envelope("a", "first"), envelope("b", "second")])
        assert ids(self.take(self.consumer(broker, "second"))) == ["b"]
        assert ids(self.take(self.consumer(broker, "first"))) == ["a"]

    def test_a_consumer_opened_first_sees_what_is_published_later(self, broker: Broker) -> None:
        consumer = self.consumer(broker, "new")
        assert self.left(consumer) == []
        self.send(broker, "a", queue="new")
        assert ids(self.take(consumer)) == ["a"]

    def test_an_empty_batch_does_nothing(self, broker: Broker) -> None:
        broker.publish([])
        assert self.left(self.consumer(broker)) == []

    def test_threads_that_publish_at_once_lose_nothing(self, broker: Broker) -> None:
        senders = [Background(partial(self.send, broker, *(f"{n}-{m}" for m in range(100)))) for n in range(4)]
        for sender in senders:
            sender.result()
        assert len(set(ids(self.take(self.consumer(broker), 400)))) == 400

    def test_a_body_of_exactly_the_limit_is_taken(self, broker: Broker) -> None:
        needs(broker, "max_message_bytes")
        body = b"x" * (broker.capabilities.max_message_bytes or 0)
        self.send(broker, envelope("full", body=body))
        (delivery,) = self.take(self.consumer(broker))
        assert delivery.body == body

    def test_a_body_over_the_limit_is_refused_by_its_id(self, broker: Broker) -> None:
        needs(broker, "max_message_bytes")
        body = b"x" * ((broker.capabilities.max_message_bytes or 0) + 1)
        with pytest.raises(PublishError) as refusal:
            broker.publish([envelope("fat", body=body)])
        assert list(refusal.value.rejected) == ["fat"]
        assert self.left(self.consumer(broker)) == []

    def test_what_is_refused_takes_nothing_else_of_its_batch_with_it(self, broker: Broker) -> None:
        needs(broker, "max_message_bytes")
        body = b"x" * ((broker.capabilities.max_message_bytes or 0) + 1)
        with pytest.raises(PublishError) as refusal:
            broker.publish([envelope("before"), envelope("fat", body=body), envelope("after")])
        assert list(refusal.value.rejected) == ["fat"]
        assert sorted(ids(self.take(self.consumer(broker), 2))) == ["after", "before"]

    def test_published_again_while_it_waits_it_comes_out_once(self, broker: Broker) -> None:
        needs(broker, "dedup")
        self.send(broker, "a")
        self.send(broker, "a")
        broker.publish([envelope("b"), envelope("b")])
        consumer = self.consumer(broker)
        assert sorted(ids(self.take(consumer, 2))) == ["a", "b"]
        assert self.left(consumer) == []

    def test_published_again_while_it_is_lent_it_comes_out_once(self, broker: Broker) -> None:
        needs(broker, "dedup")
        self.send(broker, "a")
        consumer = self.consumer(broker)
        lent = self.take(consumer)
        self.send(broker, "a")
        assert self.left(consumer) == []
        consumer.ack(lent)
        assert self.left(consumer) == []

    def test_published_again_while_it_is_delayed_the_delay_stays(self, broker: Broker) -> None:
        needs(broker, "dedup")
        needs(broker, "max_delay", 300)
        self.send(broker, "a", delay=300.0)
        self.send(broker, "a")
        assert self.left(self.consumer(broker)) == []

    def test_the_next_attempt_is_another_message(self, broker: Broker) -> None:
        self.send(broker, envelope("a", attempt=0))
        consumer = self.consumer(broker)
        first = self.take(consumer)
        self.send(broker, envelope("a", attempt=1))
        consumer.ack(first)
        (second,) = self.take(consumer)
        assert (second.id, second.attempt) == ("a", 1)

    def test_published_again_after_the_ack_it_comes_out_again(self, broker: Broker) -> None:
        self.send(broker, "a")
        consumer = self.consumer(broker)
        consumer.ack(self.take(consumer))
        self.send(broker, "a")
        assert ids(self.take(consumer)) == ["a"]
