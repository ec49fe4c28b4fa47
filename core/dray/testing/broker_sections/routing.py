"""Routing: queues that are declared, exchanges that pass on by key, and a copy for every consumer."""

from __future__ import annotations

import pytest

from ...broker import Broker
from ...errors import PublishError
from ...message import Queue
from .kit import LONG, BrokerKit, envelope, ids, needs


class Routing(BrokerKit):
    """routing"""

    def test_a_direct_exchange_passes_on_by_the_equal_key(self, broker: Broker) -> None:
        self._declare(broker, a="x direct red", b="x direct blue")
        self._send_to(broker, "x", first="red", second="blue")
        assert self._received(broker, "a") == ["first"]
        assert self._received(broker, "b") == ["second"]

    def test_a_topic_exchange_passes_on_by_the_pattern(self, broker: Broker) -> None:
        self._declare(broker, star="x topic order.*", hash="x topic order.#", exact="x topic order.paid.eur")
        self._send_to(broker, "x", none="order", one="order.paid", two="order.paid.eur")
        assert self._received(broker, "star") == ["one"]
        assert self._received(broker, "hash") == ["none", "one", "two"]
        assert self._received(broker, "exact") == ["two"]

    def test_a_fanout_exchange_passes_on_whatever_the_key(self, broker: Broker) -> None:
        self._declare(broker, a="x fanout", b="x fanout ignored")
        self._send_to(broker, "x", first="anything", second="")
        assert self._received(broker, "a") == ["first", "second"]
        assert self._received(broker, "b") == ["first", "second"]

    def test_what_several_queues_got_is_settled_in_each(self, broker: Broker) -> None:
        self._declare(broker, a="x fanout", b="x fanout")
        self._send_to(broker, "x", one="")
        first, second = self.consumer(broker, "a"), self.consumer(broker, "b")
        first.ack(self.take(first))
        second.requeue(self.take(second))
        assert self.left(first) == []
        assert ids(self.take(second)) == ["one"]

    def test_what_comes_through_an_exchange_comes_whole(self, broker: Broker) -> None:
        self._declare(broker, a="x direct key")
        self.send(broker, envelope("one", "", b"\x00whole", attempt=2, exchange="x", routing_key="key"))
        (delivery,) = self.take(self.consumer(broker, "a"))
        assert (delivery.id, delivery.queue, delivery.body, delivery.attempt) == ("one", "a", b"\x00whole", 2)

    def test_a_bound_queue_is_reached_by_its_name_too(self, broker: Broker) -> None:
        self._declare(broker, a="x direct key")
        self.send(broker, "one", queue="a")
        assert self._received(broker, "a") == ["one"]

    def test_what_fits_no_queue_is_refused_by_its_id(self, broker: Broker) -> None:
        self._declare(broker, a="x direct key")
        with pytest.raises(PublishError) as refusal:
            self._send_to(broker, "x", lost="another", found="key")
        assert list(refusal.value.rejected) == ["lost"]
        assert self._received(broker, "a") == ["found"]

    def test_exchanges_do_not_mix(self, broker: Broker) -> None:
        self._declare(broker, a="x direct key", b="y direct key")
        self._send_to(broker, "y", one="key")
        assert self._received(broker, "a") == []
        assert self._received(broker, "b") == ["one"]

    def test_what_goes_through_an_exchange_can_be_delayed(self, broker: Broker) -> None:
        self._declare(broker, a="x topic order.*", b="x topic #")
        needs(broker, "max_delay", LONG)
        self.send(broker, envelope("later", "", exchange="x", routing_key="order.paid", delay=LONG))
        assert self._received(broker, "a") == []
        self.send(broker, envelope("sooner", "", exchange="x", routing_key="order.paid", delay=self.lease))
        self.pass_time(broker, self.lease * 1.5)
        assert ids(self.take(self.consumer(broker, "a"))) == ["sooner"]
        assert ids(self.take(self.consumer(broker, "b"))) == ["sooner"]

    def test_what_was_declared_is_there_for_others_and_may_be_declared_again(self, broker: Broker) -> None:
        self._declare(broker, a="x direct key")
        self._declare(broker, a="x direct key")
        with self.another(broker) as other:
            self._declare(other, a="x direct key")
            self._send_to(other, "x", one="key")
            assert self._received(broker, "a") == ["one"]

    # A copy for every consumer

    def test_every_consumer_gets_a_copy_of_a_broadcast(self, broker: Broker) -> None:
        self._broadcast(broker)
        consumers = [self.consumer(broker, "news") for _ in range(3)]
        self.send(broker, "one", "two", queue="news")
        assert [sorted(ids(self.take(consumer, 2))) for consumer in consumers] == [["one", "two"]] * 3
        assert [self.left(consumer) for consumer in consumers] == [[]] * 3

    def test_consumers_on_other_connections_get_a_copy_too(self, broker: Broker) -> None:
        self._broadcast(broker)
        with self.another(broker) as other:
            self._broadcast(other)
            mine, yours = self.consumer(broker, "news"), self.consumer(other, "news")
            self.send(other, "one", queue="news")
            assert ids(self.take(mine)) == ["one"]
            (delivery,) = self.take(yours)
            assert (delivery.id, delivery.queue) == ("one", "news")

    def test_a_broadcast_while_nobody_listens_is_missed_and_no_error(self, broker: Broker) -> None:
        self._broadcast(broker)
        self.send(broker, "missed", queue="news")
        consumer = self.consumer(broker, "news")
        assert self.left(consumer) == []
        self.send(broker, "heard", queue="news")
        assert ids(self.take(consumer)) == ["heard"]

    def test_a_copy_is_settled_for_one_consumer_only(self, broker: Broker) -> None:
        self._broadcast(broker)
        mine, yours = self.consumer(broker, "news"), self.consumer(broker, "news")
        self.send(broker, "one", queue="news")
        mine.requeue(self.take(mine))
        yours.ack(self.take(yours))
        assert ids(self.take(mine)) == ["one"]
        assert self.left(yours) == []

    def test_a_copy_that_is_given_back_with_a_delay_comes_to_the_same_consumer(self, broker: Broker) -> None:
        self._broadcast(broker)
        needs(broker, "requeue_delay")
        mine, yours = self.consumer(broker, "news"), self.consumer(broker, "news")
        self.send(broker, "one", queue="news")
        mine.requeue(self.take(mine), self.lease)
        yours.ack(self.take(yours))
        self.pass_time(broker, self.lease * 1.5)
        assert ids(self.take(mine)) == ["one"]
        assert self.left(yours) == []

    def test_who_has_left_keeps_nobody_waiting(self, broker: Broker) -> None:
        self._broadcast(broker)
        leaving, staying = self.consumer(broker, "news"), self.consumer(broker, "news")
        leaving.close()
        self.send(broker, "one", queue="news")
        assert ids(self.take(staying)) == ["one"]

    def test_broadcast_and_plain_queues_can_be_consumed_together(self, broker: Broker) -> None:
        self._broadcast(broker)
        consumer = self.consumer(broker, "plain", "news")
        self.send(broker, "one", queue="news")
        self.send(broker, "two", queue="plain")
        assert sorted((each.id, each.queue) for each in self.take(consumer, 2)) == [("one", "news"), ("two", "plain")]

    def test_a_broadcast_can_be_delayed(self, broker: Broker) -> None:
        self._broadcast(broker)
        needs(broker, "max_delay", LONG)
        consumers = [self.consumer(broker, "news"), self.consumer(broker, "news")]
        self.send(broker, envelope("later", "news", delay=LONG))
        assert [self.left(consumer) for consumer in consumers] == [[], []]
        self.send(broker, envelope("sooner", "news", delay=self.lease))
        self.pass_time(broker, self.lease * 1.5)
        assert [ids(self.take(consumer)) for consumer in consumers] == [["sooner"], ["sooner"]]

    # The tools of these tests

    def _declare(self, broker: Broker, **bindings: str) -> None:
        """Declare queues, each described as "exchange type key"."""
        needs(broker, "exchanges")
        described = {name: [*binding.split(" "), ""] for name, binding in bindings.items()}
        broker.declare(
            [
                Queue(name=name, exchange=words[0], type=words[1], routing_key=words[2])
                for name, words in described.items()
            ]
        )

    def _broadcast(self, broker: Broker) -> None:
        needs(broker, "broadcast")
        broker.declare([Queue(name="news", broadcast=True)])

    def _send_to(self, broker: Broker, exchange: str, **keys: str) -> None:
        """Publish, in one batch, one message for each id and routing key."""
        broker.publish([envelope(id, "", exchange=exchange, routing_key=key) for id, key in keys.items()])

    def _received(self, broker: Broker, queue: str) -> list[str]:
        """Return the ids of what comes out of a queue until nothing more does, sorted."""
        consumer = self.consumer(broker, queue)
        taken: list[str] = []
        while came := consumer.receive(10, self.moment * 4):
            taken += ids(came)
            consumer.ack(came)
        return sorted(taken)
