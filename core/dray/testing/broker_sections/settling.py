"""Settling: ack, requeue, release, and what becomes of a message that nobody settles."""

from __future__ import annotations

from ...broker import Broker
from .kit import BrokerKit, envelope, ids, needs


class Settling(BrokerKit):
    """settling"""

    def test_what_is_acked_never_comes_again(self, broker: Broker) -> None:
        self.send(broker, "a")
        consumer = self.consumer(broker, lease=self.lease)
        assert list(consumer.ack(self.take(consumer))) == []
        self.pass_time(broker, self.lease * 1.5)
        assert self.left(consumer) == []

    def test_a_batch_is_acked_in_one_call(self, broker: Broker) -> None:
        self.send(broker, *(f"m{n}" for n in range(20)))
        consumer = self.consumer(broker)
        assert list(consumer.ack(self.take(consumer, 20))) == []
        consumer.close()
        assert self.left(self.consumer(broker)) == []

    def test_a_batch_may_be_settled_in_parts(self, broker: Broker) -> None:
        self.send(broker, *(f"m{n}" for n in range(4)))
        consumer = self.consumer(broker)
        lent = sorted(self.take(consumer, 4), key=lambda each: each.id)
        consumer.ack(lent[:3])
        consumer.requeue(lent[3:])
        assert ids(self.take(consumer)) == ["m3"]
        assert self.left(consumer) == []

    def test_settling_nothing_is_harmless(self, broker: Broker) -> None:
        consumer = self.consumer(broker)
        for verb in (consumer.ack, consumer.requeue, consumer.release):
            assert list(verb([])) == []
        assert list(consumer.bury([], "no reason")) == []
        assert list(consumer.extend([], self.lease)) == []

    def test_acking_twice_is_harmless(self, broker: Broker) -> None:
        self.send(broker, "a", "b")
        consumer = self.consumer(broker)
        first, second = self.take(consumer, 2)
        consumer.ack([first])
        consumer.ack([first])
        assert list(consumer.ack([second])) == []

    def test_what_was_acked_cannot_be_given_back(self, broker: Broker) -> None:
        self.send(broker, "a")
        consumer = self.consumer(broker)
        lent = self.take(consumer)
        consumer.ack(lent)
        consumer.requeue(lent)
        consumer.release(lent)
        assert self.left(consumer) == []

    def test_what_was_given_back_twice_comes_once(self, broker: Broker) -> None:
        self.send(broker, "a")
        consumer = self.consumer(broker)
        lent = self.take(consumer)
        consumer.requeue(lent)
        consumer.requeue(lent)
        assert ids(self.take(consumer)) == ["a"]
        assert self.left(consumer) == []

    def test_what_is_requeued_comes_back_whole(self, broker: Broker) -> None:
        self.send(broker, envelope("a", body=b"\x00whole", attempt=2, priority=0))
        consumer = self.consumer(broker)
        assert list(consumer.requeue(self.take(consumer))) == []
        (again,) = self.take(consumer)
        assert (again.id, again.queue, again.body, again.attempt) == ("a", "q", b"\x00whole", 2)

    def test_what_is_requeued_goes_behind_the_others(self, broker: Broker) -> None:
        needs(broker, "fifo")
        self.send(broker, "a", "b", "c")
        consumer = self.consumer(broker)
        consumer.requeue(self.take(consumer, 1))
        assert ids(self.take(consumer, 3)) == ["b", "c", "a"]

    def test_what_is_requeued_keeps_its_priority(self, broker: Broker) -> None:
        needs(broker, "priority_levels", 2)
        self.send(broker, envelope("high", priority=9), envelope("low", priority=0))
        consumer = self.consumer(broker)
        consumer.requeue(self.take(consumer, 1))
        assert ids(self.take(consumer, 1)) == ["high"]

    def test_requeueing_keeps_the_delivery_count(self, broker: Broker) -> None:
        needs(broker, "delivery_count")
        self.send(broker, "a")
        consumer = self.consumer(broker)
        counts = []
        for _ in range(4):
            (delivery,) = self.take(consumer)
            counts.append(delivery.delivery_count)
            consumer.requeue([delivery])
        assert counts == [1, 2, 3, 4]

    def test_requeued_with_a_delay_it_stays_away(self, broker: Broker) -> None:
        needs(broker, "requeue_delay")
        self.send(broker, "a")
        consumer = self.consumer(broker)
        consumer.requeue(self.take(consumer), 300.0)
        assert self.left(consumer) == []

    def test_requeued_with_a_delay_it_comes_when_that_is_over(self, broker: Broker) -> None:
        needs(broker, "requeue_delay")
        self.send(broker, "a")
        consumer = self.consumer(broker)
        consumer.requeue(self.take(consumer), self.lease)
        self.pass_time(broker, self.lease * 1.5)
        (again,) = self.take(consumer)
        assert again.id == "a"
        assert again.delivery_count == (2 if broker.capabilities.delivery_count else 1)

    def test_what_is_released_comes_back_at_once(self, broker: Broker) -> None:
        self.send(broker, "a")
        consumer = self.consumer(broker)
        assert list(consumer.release(self.take(consumer))) == []
        assert ids(self.take(consumer)) == ["a"]

    def test_what_is_released_was_not_counted(self, broker: Broker) -> None:
        needs(broker, "release_uncharged")
        self.send(broker, "a")
        consumer = self.consumer(broker)
        for _ in range(3):
            consumer.release(self.take(consumer))
        (delivery,) = self.take(consumer)
        assert delivery.delivery_count == 1

    def test_what_is_released_keeps_its_place(self, broker: Broker) -> None:
        needs(broker, "release_uncharged")
        needs(broker, "fifo")
        self.send(broker, *(f"m{n}" for n in range(6)))
        consumer = self.consumer(broker)
        consumer.release(list(reversed(self.take(consumer, 3))))
        assert ids(self.take(consumer, 6)) == [f"m{n}" for n in range(6)]

    def test_a_consumer_that_closes_gives_back_what_it_holds(self, broker: Broker) -> None:
        self.send(broker, "done", "held", "held-too")
        leaving = self.consumer(broker)
        lent = self.take(leaving, 3)
        leaving.ack([each for each in lent if each.id == "done"])
        leaving.close()
        assert sorted(ids(self.take(self.consumer(broker), 2))) == ["held", "held-too"]

    def test_a_consumer_that_closes_leaves_the_loans_of_others_alone(self, broker: Broker) -> None:
        self.send(broker, "a", "b")
        staying, leaving = self.consumer(broker), self.consumer(broker)
        kept = self.take(staying, 1)
        given_back = self.take(leaving, 1)
        leaving.close()
        assert ids(self.take(staying, 1)) == ids(given_back)
        assert list(staying.ack(kept)) == []

    def test_a_consumer_may_be_closed_twice(self, broker: Broker) -> None:
        self.send(broker, "a")
        leaving = self.consumer(broker)
        self.take(leaving)
        leaving.close()
        leaving.close()
        consumer = self.consumer(broker)
        assert ids(self.take(consumer)) == ["a"]
        assert self.left(consumer) == []
