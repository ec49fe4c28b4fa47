"""Looking: find, peek, sizes and purge, for people and dashboards; looking changes nothing."""

from __future__ import annotations

from ...broker import Broker
from .kit import LONG, BrokerKit, envelope, ids, needs


class Looking(BrokerKit):
    """looking"""

    def test_find_says_in_which_state_an_id_is_stored(self, broker: Broker) -> None:
        needs(broker, "find")
        consumer = self.consumer(broker)
        self.send(broker, "leased")
        self.take(consumer)
        expected = {"ready": "ready", "leased": "leased"}
        if broker.capabilities.dead_letters:
            self.send(broker, "dead")
            consumer.bury(self.take(consumer), "for the test")
            expected["dead"] = "dead"
        if broker.capabilities.max_delay >= LONG:
            self.send(broker, "delayed", delay=LONG)
            expected["delayed"] = "delayed"
        self.send(broker, "ready")
        assert broker.find(["ready", "leased", "dead", "delayed", "unknown"]) == expected

    def test_find_does_not_know_what_was_acked(self, broker: Broker) -> None:
        needs(broker, "find")
        self.send(broker, "a")
        consumer = self.consumer(broker)
        consumer.ack(self.take(consumer))
        assert broker.find(["a"]) == {}

    def test_find_knows_every_attempt(self, broker: Broker) -> None:
        needs(broker, "find")
        self.send(broker, "a")
        consumer = self.consumer(broker)
        first = self.take(consumer)
        self.send(broker, envelope("a", attempt=1))
        consumer.ack(first)
        assert broker.find(["a"]) == {"a": "ready"}

    def test_peek_shows_what_comes_next_first(self, broker: Broker) -> None:
        needs(broker, "peek")
        needs(broker, "fifo")
        self.send(broker, "a", "b", "c")
        assert ids(broker.peek("q", 10)) == ["a", "b", "c"]
        assert ids(broker.peek("q", 2)) == ["a", "b"]

    def test_peek_shows_the_urgent_first(self, broker: Broker) -> None:
        needs(broker, "peek")
        needs(broker, "priority_levels", 2)
        self.send(broker, envelope("low", priority=0), envelope("high", priority=9))
        assert ids(broker.peek("q", 10)) == ["high", "low"]

    def test_peek_shows_messages_whole(self, broker: Broker) -> None:
        needs(broker, "peek")
        body = bytes(range(256))
        self.send(broker, envelope("a", body=body, attempt=2))
        (seen,) = broker.peek("q", 10)
        assert (seen.id, seen.queue, seen.body, seen.attempt, seen.state) == ("a", "q", body, 2, "ready")

    def test_peek_takes_nothing_and_counts_nothing(self, broker: Broker) -> None:
        needs(broker, "peek")
        self.send(broker, "a")
        for _ in range(3):
            broker.peek("q", 10)
        (delivery,) = self.take(self.consumer(broker))
        assert (delivery.id, delivery.delivery_count) == ("a", 1)

    def test_peek_shows_how_long_a_delayed_message_waits(self, broker: Broker) -> None:
        needs(broker, "peek")
        needs(broker, "max_delay", LONG)
        self.send(broker, "later", delay=LONG)
        self.send(broker, "now")
        now, later = broker.peek("q", 10)
        assert (now.id, now.state, now.delay) == ("now", "ready", 0.0)
        assert (later.id, later.state) == ("later", "delayed")
        assert LONG - 100 < later.delay <= LONG + 1

    def test_peek_does_not_show_the_dead(self, broker: Broker) -> None:
        needs(broker, "peek")
        needs(broker, "dead_letters")
        self.send(broker, "a")
        consumer = self.consumer(broker)
        consumer.bury(self.take(consumer), "for the test")
        assert list(broker.peek("q", 10)) == []

    def test_peek_at_an_unknown_queue_shows_nothing(self, broker: Broker) -> None:
        needs(broker, "peek")
        assert list(broker.peek("never-used", 10)) == []

    def test_sizes_count_each_state(self, broker: Broker) -> None:
        needs(broker, "size", "exact")
        consumer = self.consumer(broker)
        expected = {"ready": 3, "delayed": 0, "leased": 2, "dead": 0}
        self.send(broker, "a", "b")
        self.take(consumer, 2)
        if broker.capabilities.dead_letters:
            self.send(broker, "c")
            consumer.bury(self.take(consumer), "for the test")
            expected["dead"] = 1
        self.send(broker, "d", "e", "f")
        if broker.capabilities.max_delay >= LONG:
            self.send(broker, "g", delay=LONG)
            expected["delayed"] = 1
        assert dict(broker.sizes(["q"])["q"]) == expected

    def test_sizes_follow_what_is_settled(self, broker: Broker) -> None:
        needs(broker, "size", "exact")
        self.send(broker, "a", "b", "c")
        consumer = self.consumer(broker)
        first, second, _ = self.take(consumer, 3)
        consumer.ack([first])
        consumer.requeue([second])
        assert dict(broker.sizes(["q"])["q"]) == {"ready": 1, "delayed": 0, "leased": 1, "dead": 0}

    def test_sizes_of_an_unknown_queue_are_nought(self, broker: Broker) -> None:
        needs(broker, "size")
        assert dict(broker.sizes(["never-used"])["never-used"]) == {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}

    def test_sizes_of_many_queues_come_in_one_call(self, broker: Broker) -> None:
        needs(broker, "size", "exact")
        self.send(broker, "a", queue="first")
        self.send(broker, "b", "c", queue="second")
        sizes = broker.sizes(["second", "first"])
        assert {queue: sizes[queue]["ready"] for queue in sizes} == {"first": 1, "second": 2}
        assert dict(broker.sizes([])) == {}

    def test_queues_names_those_that_hold_anything(self, broker: Broker) -> None:
        needs(broker, "size")
        self.send(broker, "a", queue="zebra")
        self.send(broker, "b", queue="apple")
        self.send(broker, "c", queue="lent")
        self.take(self.consumer(broker, "lent"))
        assert list(broker.queues()) == ["apple", "lent", "zebra"]

    def test_queues_names_those_that_hold_only_dead_letters(self, broker: Broker) -> None:
        needs(broker, "size")
        needs(broker, "dead_letters")
        self.send(broker, "a")
        consumer = self.consumer(broker)
        consumer.bury(self.take(consumer), "for the test")
        assert list(broker.queues()) == ["q"]

    def test_purge_empties_a_queue_and_says_how_many(self, broker: Broker) -> None:
        needs(broker, "purge")
        self.send(broker, "a", "b", "c")
        assert broker.purge("q") == 3
        assert broker.purge("q") == 0
        assert self.left(self.consumer(broker)) == []

    def test_purge_takes_delayed_messages_too(self, broker: Broker) -> None:
        needs(broker, "purge")
        needs(broker, "max_delay")
        needs(broker, "size", "exact")
        self.send(broker, "later", delay=self.lease)
        assert broker.purge("q") == 1
        self.pass_time(broker, self.lease * 1.5)
        assert self.left(self.consumer(broker)) == []

    def test_purge_leaves_what_is_lent(self, broker: Broker) -> None:
        needs(broker, "purge")
        self.send(broker, "lent")
        consumer = self.consumer(broker)
        lent = self.take(consumer)
        self.send(broker, "waiting")
        assert broker.purge("q") == 1
        assert list(consumer.requeue(lent)) == []
        assert ids(self.take(consumer)) == ["lent"]

    def test_purge_leaves_the_dead(self, broker: Broker) -> None:
        needs(broker, "purge")
        needs(broker, "dead_letters")
        self.send(broker, "a")
        consumer = self.consumer(broker)
        consumer.bury(self.take(consumer), "for the test")
        assert broker.purge("q") == 0
        assert ids(broker.dead("q", 10)) == ["a"]

    def test_purge_leaves_other_queues(self, broker: Broker) -> None:
        needs(broker, "purge")
        self.send(broker, "a", queue="emptied")
        self.send(broker, "b", queue="kept")
        broker.purge("emptied")
        assert ids(self.take(self.consumer(broker, "emptied", "kept"))) == ["b"]

    def test_what_was_purged_can_be_published_again(self, broker: Broker) -> None:
        needs(broker, "purge")
        self.send(broker, "a")
        broker.purge("q")
        self.send(broker, "a")
        assert ids(self.take(self.consumer(broker))) == ["a"]
