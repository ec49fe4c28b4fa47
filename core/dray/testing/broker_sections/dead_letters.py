"""Dead letters: buried whole and with a reason, out of the way, and brought back as if never delivered."""

from __future__ import annotations

from ...broker import Broker, Consumer
from .kit import BrokerKit, envelope, ids, needs


class DeadLetters(BrokerKit):
    """dead letters"""

    def test_what_is_buried_does_not_come_out(self, broker: Broker) -> None:
        self.send(broker, "a")
        consumer = self.consumer(broker, lease=self.lease)
        assert list(consumer.bury(self.take(consumer), "unreadable")) == []
        self.pass_time(broker, self.lease * 1.5)
        assert self.left(consumer) == []

    def test_a_dead_letter_is_kept_whole_with_its_reason(self, broker: Broker) -> None:
        needs(broker, "dead_letters")
        body = bytes(range(256))
        reason = "no task is called 'shop.päy':\nit was removed"
        self.send(broker, envelope("a", body=body, attempt=2))
        self._bury(broker, self.consumer(broker), reason)
        (letter,) = broker.dead("q", 10)
        assert (letter.id, letter.queue, letter.body, letter.attempt) == ("a", "q", body, 2)
        assert (letter.state, letter.reason) == ("dead", reason)

    def test_the_oldest_dead_letter_is_shown_first(self, broker: Broker) -> None:
        needs(broker, "dead_letters")
        consumer = self.consumer(broker)
        for id in ("c", "a", "b"):
            self.send(broker, id)
            self._bury(broker, consumer)
            # One grain of the coarsest clock a broker may order them by.
            self.pass_time(broker, 0.002)
        assert ids(broker.dead("q", 10)) == ["c", "a", "b"]
        assert ids(broker.dead("q", 2)) == ["c", "a"]

    def test_only_the_letters_asked_for_are_shown(self, broker: Broker) -> None:
        needs(broker, "dead_letters")
        self.send(broker, "a", "b", "c")
        self._bury(broker, self.consumer(broker), n=3)
        assert sorted(ids(broker.dead("q", 10, ["a", "c", "unknown"]))) == ["a", "c"]

    def test_dead_letters_of_one_queue_are_not_those_of_another(self, broker: Broker) -> None:
        needs(broker, "dead_letters")
        self.send(broker, "a", queue="first")
        self.send(broker, "b", queue="second")
        self._bury(broker, self.consumer(broker, "first", "second"), n=2)
        assert ids(broker.dead("first", 10)) == ["a"]
        assert broker.discard("second") == 1
        assert ids(broker.dead("first", 10)) == ["a"]

    def test_what_is_replayed_comes_out_whole(self, broker: Broker) -> None:
        needs(broker, "dead_letters")
        self.send(broker, envelope("a", body=b"\x00whole", attempt=2))
        consumer = self.consumer(broker)
        self._bury(broker, consumer)
        assert broker.replay("q") == 1
        (delivery,) = self.take(consumer)
        assert (delivery.id, delivery.queue, delivery.body, delivery.attempt) == ("a", "q", b"\x00whole", 2)
        assert list(broker.dead("q", 10)) == []

    def test_what_is_replayed_counts_from_one_again(self, broker: Broker) -> None:
        needs(broker, "dead_letters")
        needs(broker, "delivery_count")
        self.send(broker, "a")
        consumer = self.consumer(broker)
        for _ in range(3):
            consumer.requeue(self.take(consumer))
        self._bury(broker, consumer)
        broker.replay("q")
        (delivery,) = self.take(consumer)
        assert delivery.delivery_count == 1

    def test_only_the_letters_asked_for_are_replayed(self, broker: Broker) -> None:
        needs(broker, "dead_letters")
        self.send(broker, "a", "b", "c")
        consumer = self.consumer(broker)
        self._bury(broker, consumer, n=3)
        assert broker.replay("q", ["b", "unknown"]) == 1
        assert ids(self.take(consumer)) == ["b"]
        assert sorted(ids(broker.dead("q", 10))) == ["a", "c"]

    def test_what_is_replayed_can_be_buried_again(self, broker: Broker) -> None:
        needs(broker, "dead_letters")
        self.send(broker, "a")
        consumer = self.consumer(broker)
        self._bury(broker, consumer, "first reason")
        broker.replay("q")
        self._bury(broker, consumer, "second reason")
        assert [letter.reason for letter in broker.dead("q", 10)] == ["second reason"]

    def test_all_letters_of_a_queue_are_discarded(self, broker: Broker) -> None:
        needs(broker, "dead_letters")
        self.send(broker, "a", "b")
        consumer = self.consumer(broker)
        self._bury(broker, consumer, n=2)
        assert broker.discard("q") == 2
        assert list(broker.dead("q", 10)) == []
        assert self.left(consumer) == []

    def test_only_the_letters_asked_for_are_discarded(self, broker: Broker) -> None:
        needs(broker, "dead_letters")
        self.send(broker, "a", "b", "c")
        self._bury(broker, self.consumer(broker), n=3)
        assert broker.discard("q", ["a", "c", "unknown"]) == 2
        assert ids(broker.dead("q", 10)) == ["b"]

    def test_asking_for_no_letters_touches_none(self, broker: Broker) -> None:
        needs(broker, "dead_letters")
        self.send(broker, "a")
        self._bury(broker, self.consumer(broker))
        assert (list(broker.dead("q", 10, [])), broker.replay("q", []), broker.discard("q", [])) == ([], 0, 0)
        assert ids(broker.dead("q", 10)) == ["a"]

    def test_a_queue_without_dead_letters_has_none(self, broker: Broker) -> None:
        needs(broker, "dead_letters")
        assert (list(broker.dead("never-used", 10)), broker.replay("never-used"), broker.discard("never-used")) == (
            [],
            0,
            0,
        )

    def test_an_id_may_be_published_again_while_its_letter_is_kept(self, broker: Broker) -> None:
        needs(broker, "dead_letters")
        self.send(broker, "a")
        consumer = self.consumer(broker)
        self._bury(broker, consumer)
        self.send(broker, "a")
        assert ids(self.take(consumer)) == ["a"]
        assert ids(broker.dead("q", 10)) == ["a"]

    def _bury(self, broker: Broker, consumer: Consumer, reason: str = "tried too often", n: int = 1) -> None:
        consumer.bury(self.take(consumer, n), reason)
