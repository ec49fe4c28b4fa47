"""Delays: not before its time, soon after it, and never in the way of what is due."""

from __future__ import annotations

from ...broker import Broker
from .kit import LONG, BrokerKit, envelope, ids, needs


class Delays(BrokerKit):
    """delays"""

    def test_nothing_comes_before_its_time(self, broker: Broker) -> None:
        needs(broker, "max_delay", LONG)
        self.send(broker, "later", delay=LONG)
        assert self.left(self.consumer(broker)) == []

    def test_it_comes_when_its_time_has_come(self, broker: Broker) -> None:
        needs(broker, "max_delay")
        self.send(broker, "later", delay=self.lease)
        self.pass_time(broker, self.lease * 1.5)
        (delivery,) = self.take(self.consumer(broker))
        assert (delivery.id, delivery.body) == ("later", b"body of later")

    def test_a_delay_does_not_hold_up_what_is_due(self, broker: Broker) -> None:
        needs(broker, "max_delay", LONG)
        self.send(broker, envelope("later", delay=LONG), envelope("now"))
        consumer = self.consumer(broker)
        assert ids(self.take(consumer)) == ["now"]
        assert self.left(consumer) == []

    def test_the_shorter_delay_ends_first(self, broker: Broker) -> None:
        needs(broker, "max_delay", LONG)
        self.send(broker, envelope("later", delay=LONG), envelope("sooner", delay=self.lease))
        self.pass_time(broker, self.lease * 1.5)
        consumer = self.consumer(broker)
        assert ids(self.take(consumer)) == ["sooner"]
        assert self.left(consumer) == []

    def test_every_delay_of_a_batch_is_kept(self, broker: Broker) -> None:
        needs(broker, "max_delay", LONG)
        self.send(broker, *(envelope(f"m{n}", delay=LONG if n % 2 else self.lease) for n in range(10)))
        self.pass_time(broker, self.lease * 1.5)
        consumer = self.consumer(broker)
        assert sorted(ids(self.take(consumer, 5))) == ["m0", "m2", "m4", "m6", "m8"]
        assert self.left(consumer) == []

    def test_an_urgent_message_that_is_not_due_lets_the_others_pass(self, broker: Broker) -> None:
        needs(broker, "max_delay", LONG)
        needs(broker, "priority_levels", 2)
        self.send(broker, envelope("urgent-later", priority=9, delay=LONG), envelope("now", priority=0))
        consumer = self.consumer(broker)
        assert ids(self.take(consumer)) == ["now"]
        assert self.left(consumer) == []

    def test_what_has_fallen_due_comes_by_priority(self, broker: Broker) -> None:
        needs(broker, "max_delay")
        needs(broker, "priority_levels", 2)
        self.send(
            broker,
            envelope("low", priority=0, delay=self.lease),
            envelope("high", priority=9, delay=self.lease),
            envelope("waiting", priority=0),
        )
        self.pass_time(broker, self.lease * 1.5)
        consumer = self.consumer(broker)
        assert ids(self.take(consumer, 1)) == ["high"]
        assert sorted(ids(self.take(consumer, 2))) == ["low", "waiting"]

    def test_what_has_fallen_due_is_lent_once(self, broker: Broker) -> None:
        needs(broker, "max_delay")
        self.send(broker, "later", delay=self.lease)
        self.pass_time(broker, self.lease * 1.5)
        consumer = self.consumer(broker)
        assert ids(self.take(consumer)) == ["later"]
        assert self.left(consumer) == []
