"""Order: oldest first, most urgent first, and queues in the order they were asked for."""

from __future__ import annotations

from ...broker import Broker
from .kit import BrokerKit, envelope, ids, needs


class Order(BrokerKit):
    """order"""

    def test_the_oldest_comes_first(self, broker: Broker) -> None:
        needs(broker, "fifo")
        sent = [f"m{n}" for n in range(50)]
        for id in sent:
            self.send(broker, id)
        assert ids(self.take(self.consumer(broker), 50)) == sent

    def test_a_batch_keeps_its_order(self, broker: Broker) -> None:
        needs(broker, "fifo")
        sent = [f"m{n}" for n in range(200)]
        self.send(broker, *sent)
        assert ids(self.take(self.consumer(broker), 200)) == sent

    def test_the_most_urgent_comes_first(self, broker: Broker) -> None:
        needs(broker, "priority_levels", 2)
        self.send(broker, envelope("low", priority=0), envelope("high", priority=9))
        consumer = self.consumer(broker)
        assert ids(self.take(consumer, 1)) == ["high"]
        assert ids(self.take(consumer, 1)) == ["low"]

    def test_all_ten_priorities_are_told_apart(self, broker: Broker) -> None:
        needs(broker, "priority_levels", 10)
        self.send(broker, *(envelope(f"p{p}", priority=p) for p in (3, 9, 0, 7, 1, 8, 2, 6, 4, 5)))
        deliveries = self.take(self.consumer(broker), 10)
        assert [each.priority for each in deliveries] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
        assert ids(deliveries) == [f"p{each.priority}" for each in deliveries]

    def test_among_equally_urgent_ones_the_oldest_comes_first(self, broker: Broker) -> None:
        needs(broker, "priority_levels", 2)
        needs(broker, "fifo")
        self.send(broker, *(envelope(f"m{n}", priority=9 if n % 2 else 0) for n in range(10)))
        assert ids(self.take(self.consumer(broker), 10)) == ["m1", "m3", "m5", "m7", "m9", "m0", "m2", "m4", "m6", "m8"]

    def test_an_urgent_latecomer_overtakes_those_that_wait(self, broker: Broker) -> None:
        needs(broker, "priority_levels", 2)
        self.send(broker, "a", "b", "c")
        consumer = self.consumer(broker)
        self.take(consumer, 1)
        self.send(broker, "late", priority=9)
        assert ids(self.take(consumer, 1)) == ["late"]

    def test_never_more_than_the_limit_come(self, broker: Broker) -> None:
        self.send(broker, "a", "b", "c")
        consumer = self.consumer(broker)
        assert len(consumer.receive(1, self.patience)) == 1
        assert 1 <= len(consumer.receive(2, self.patience)) <= 2

    def test_queues_are_looked_at_in_the_order_given(self, broker: Broker) -> None:
        self.send(broker, "b", queue="second")
        self.send(broker, "a", queue="first")
        consumer = self.consumer(broker, "first", "second")
        assert ids(self.take(consumer, 1)) == ["a"]
        assert ids(self.take(consumer, 1)) == ["b"]

    def test_a_later_queue_gets_the_room_that_is_left(self, broker: Broker) -> None:
        self.send(broker, "a", "b", "c", queue="first")
        self.send(broker, "z", queue="second", priority=0)
        consumer = self.consumer(broker, "first", "second")
        assert {each.queue for each in self.take(consumer, 2)} == {"first"}
        assert [each.queue for each in self.take(consumer, 2)] == ["first", "second"]

    def test_a_look_may_be_narrowed_to_some_queues(self, broker: Broker) -> None:
        self.send(broker, "a", queue="first")
        self.send(broker, "b", queue="second")
        consumer = self.consumer(broker, "first", "second")
        assert ids(self.take(consumer, 1, queues=["second"])) == ["b"]
        assert ids(consumer.receive(5, self.moment, ["second"])) == []
        assert ids(self.take(consumer, 1, queues=["first"])) == ["a"]

    def test_a_look_may_turn_the_order_of_the_queues_round(self, broker: Broker) -> None:
        self.send(broker, "a", queue="first")
        self.send(broker, "b", queue="second")
        consumer = self.consumer(broker, "first", "second")
        assert ids(self.take(consumer, 1, queues=["second", "first"])) == ["b"]

    def test_a_look_at_no_queue_finds_nothing(self, broker: Broker) -> None:
        self.send(broker, "a")
        assert ids(self.consumer(broker).receive(5, 0, [])) == []

    def test_queues_do_not_mix(self, broker: Broker) -> None:
        names = [f"queue{n}" for n in range(8)]
        for name in names:
            self.send(broker, f"for-{name}", queue=name)
        for name in reversed(names):
            consumer = self.consumer(broker, name)
            assert ids(self.take(consumer)) == [f"for-{name}"]
            assert self.left(consumer) == []

    def test_a_queue_nobody_has_heard_of_is_empty(self, broker: Broker) -> None:
        assert self.left(self.consumer(broker, "never-used")) == []
