"""Connections: opened twice, closed twice, cut, and what is still there afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ...broker import Broker
from ...errors import BrokerUnavailable, NotSupported
from .kit import LONG, BrokerKit, envelope, ids, needs

#: The optional verbs, each with the capability it stands behind, asked for something where there is nothing.
OPTIONAL: dict[str, tuple[str, Callable[[Broker], object]]] = {
    "cancel": ("cancel", lambda broker: broker.cancel(["a"], 1.0)),
    "cancelled": ("cancel", lambda broker: broker.cancelled(["a"])),
    "find": ("find", lambda broker: broker.find(["a"])),
    "queues": ("size", lambda broker: broker.queues()),
    "sizes": ("size", lambda broker: broker.sizes([])),
    "peek": ("peek", lambda broker: broker.peek("q", 1)),
    "purge": ("purge", lambda broker: broker.purge("q")),
    "dead": ("dead_letters", lambda broker: broker.dead("q", 1)),
    "replay": ("dead_letters", lambda broker: broker.replay("q")),
    "discard": ("dead_letters", lambda broker: broker.discard("q")),
}


class Connections(BrokerKit):
    """connections"""

    @pytest.mark.parametrize("verb", OPTIONAL)
    def test_what_is_not_declared_is_refused_and_what_is_declared_works(self, broker: Broker, verb: str) -> None:
        capability, call = OPTIONAL[verb]
        if getattr(broker.capabilities, capability):
            assert not call(broker)
        else:
            with pytest.raises(NotSupported):
                call(broker)

    def test_opening_twice_is_harmless(self, broker: Broker) -> None:
        self.send(broker, "a")
        broker.open()
        assert ids(self.take(self.consumer(broker))) == ["a"]

    def test_closing_twice_is_harmless(self, broker: Broker) -> None:
        broker.close()
        broker.close()
        broker.open()
        self.send(broker, "a")
        assert ids(self.take(self.consumer(broker))) == ["a"]

    def test_what_one_connection_publishes_another_receives_and_settles(self, broker: Broker) -> None:
        self.send(broker, envelope("a", body=b"\x00shared"))
        with self.another(broker) as other:
            consumer = self.consumer(other)
            (delivery,) = self.take(consumer)
            assert (delivery.id, delivery.body) == ("a", b"\x00shared")
            assert list(consumer.ack([delivery])) == []
        assert self.left(self.consumer(broker)) == []

    def test_what_was_published_is_there_after_a_restart(self, broker: Broker) -> None:
        needs(broker, "durable")
        self.send(broker, envelope("a", body=b"\x00kept", attempt=1))
        broker.close()
        with self.another(broker) as other:
            (delivery,) = self.take(self.consumer(other))
            assert (delivery.id, delivery.body, delivery.attempt) == ("a", b"\x00kept", 1)

    def test_what_was_acked_is_gone_after_a_restart(self, broker: Broker) -> None:
        needs(broker, "durable")
        self.send(broker, "acked", "kept")
        consumer = self.consumer(broker)
        consumer.ack([each for each in self.take(consumer, 2) if each.id == "acked"])
        consumer.close()
        broker.close()
        with self.another(broker) as other:
            consumer = self.consumer(other)
            assert ids(self.take(consumer)) == ["kept"]
            assert self.left(consumer) == []

    def test_what_was_delayed_still_waits_after_a_restart(self, broker: Broker) -> None:
        needs(broker, "durable")
        needs(broker, "max_delay", LONG)
        self.send(broker, envelope("later", delay=LONG), envelope("sooner", delay=self.lease))
        broker.close()
        with self.another(broker) as other:
            self.pass_time(other, self.lease * 1.5)
            consumer = self.consumer(other)
            assert ids(self.take(consumer)) == ["sooner"]
            assert self.left(consumer) == []

    def test_what_was_buried_or_cancelled_is_so_after_a_restart(self, broker: Broker) -> None:
        needs(broker, "durable")
        needs(broker, "dead_letters")
        self.send(broker, "a")
        consumer = self.consumer(broker)
        consumer.bury(self.take(consumer), "kept on disk")
        if broker.capabilities.cancel:
            broker.cancel(["b"], LONG)
        consumer.close()
        broker.close()
        with self.another(broker) as other:
            assert [(letter.id, letter.reason) for letter in other.dead("q", 10)] == [("a", "kept on disk")]
            if other.capabilities.cancel:
                assert other.cancelled(["b"]) == {"b"}

    def test_loans_of_a_process_that_vanished_come_back_to_the_next(self, broker: Broker) -> None:
        needs(broker, "durable")
        needs(broker, "lease")
        self.send(broker, "a")
        # No consumer.close() before the connection goes: the process was killed.
        self.take(broker.consumer(["q"], self.lease))
        broker.close()
        with self.another(broker) as other:
            self.pass_time(other, self.lease * 1.5)
            (delivery,) = self.take(self.consumer(other))
            assert delivery.delivery_count == (2 if other.capabilities.delivery_count else 1)

    def test_after_the_connection_was_cut_open_heals_it(self, broker: Broker) -> None:
        self.send(broker, "before")
        self.cut(broker)
        try:
            self.send(broker, "during")
        except BrokerUnavailable:
            pass
        broker.open()
        self.send(broker, "after")
        consumer = self.consumer(broker)
        assert {"before", "after"} <= {*ids(self.take(consumer, 2)), *self.left(consumer)}
