"""What the memory adapters promise beyond the contract: one object, one world; the real clock; and nothing hoarded."""

from __future__ import annotations

from typing import Any

import pytest

from dray import Envelope, ManualClock, Record, Url, UrlError
from dray_backends.memory import MemoryBackend
from dray_brokers.memory import MemoryBroker


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def broker(clock: ManualClock) -> MemoryBroker:
    broker = MemoryBroker(Url.parse("memory://"))
    broker.clock = clock
    broker.open()
    return broker


@pytest.fixture
def backend(clock: ManualClock) -> MemoryBackend:
    backend = MemoryBackend(Url.parse("memory://"))
    backend.clock = clock
    backend.open()
    return backend


def message(id: str, **fields: Any) -> Envelope:
    return Envelope(id=id, queue="q", body=b"", **fields)


@pytest.mark.parametrize("adapter", [MemoryBroker, MemoryBackend])
class TestUrl:
    def test_an_option_is_refused_by_its_name(self, adapter: Any) -> None:
        with pytest.raises(UrlError, match="no option 'size'"):
            adapter(Url.parse("memory://?size=3"))

    @pytest.mark.parametrize("url", ["memory://shop", "memory:///shop", "memory://localhost:80"])
    def test_a_place_is_refused_and_the_right_words_are_named(self, adapter: Any, url: str) -> None:
        with pytest.raises(UrlError, match=r"write memory://, or sqlite:///path to share"):
            adapter(Url.parse(url))


class TestBroker:
    def test_two_brokers_with_one_url_do_not_see_each_other(self, broker: MemoryBroker) -> None:
        other = MemoryBroker(broker.url)
        broker.publish([message("a")])
        assert list(other.consumer(["q"], 30).receive(1, 0)) == []

    def test_messages_stay_while_the_object_lives(self, broker: MemoryBroker) -> None:
        broker.publish([message("a")])
        broker.close()
        broker.open()
        assert [each.id for each in broker.consumer(["q"], 30).receive(1, 0)] == ["a"]

    def test_what_falls_due_comes_out_in_the_order_of_publishing(
        self, broker: MemoryBroker, clock: ManualClock
    ) -> None:
        broker.publish([message("a", delay=20.0), message("b", delay=10.0), message("c")])
        consumer = broker.consumer(["q"], 30)
        clock.advance(10)
        assert [each.id for each in broker.peek("q", 10)] == ["b", "c", "a"]
        clock.advance(10)
        assert [each.id for each in consumer.receive(10, 0)] == ["a", "b", "c"]

    def test_a_loan_that_runs_out_goes_back_to_its_old_place(self, broker: MemoryBroker, clock: ManualClock) -> None:
        broker.publish([message("a"), message("b")])
        broker.consumer(["q"], 30).receive(1, 0)
        clock.advance(30)
        assert [each.id for each in broker.consumer(["q"], 30).receive(10, 0)] == ["a", "b"]

    def test_loans_of_different_lengths_run_out_one_by_one(self, broker: MemoryBroker, clock: ManualClock) -> None:
        broker.publish([message("a"), message("b"), message("c")])
        for lease in (30, 10, 20):
            broker.consumer(["q"], lease).receive(1, 0)
        came = []
        for _ in range(3):
            clock.advance(10)
            came += [each.id for each in broker.consumer(["q"], 300).receive(10, 0)]
        assert came == ["b", "c", "a"]

    def test_a_dead_letter_whose_message_was_published_again_stays_dead(self, broker: MemoryBroker) -> None:
        broker.publish([message("a")])
        consumer = broker.consumer(["q"], 30)
        consumer.bury(consumer.receive(1, 0), "first")
        broker.publish([message("a")])
        assert broker.replay("q") == 0
        assert broker.sizes(["q"])["q"] == {"ready": 1, "delayed": 0, "leased": 0, "dead": 1}

    def test_two_dead_letters_of_one_message_are_replayed_as_one(self, broker: MemoryBroker) -> None:
        consumer = broker.consumer(["q"], 30)
        for reason in ("first", "second"):
            broker.publish([message("a")])
            consumer.bury(consumer.receive(1, 0), reason)
        assert broker.replay("q") == 1
        assert [letter.reason for letter in broker.dead("q", 10)] == ["second"]

    def test_peek_shows_what_is_lent_last(self, broker: MemoryBroker) -> None:
        broker.publish([message("lent"), message("ready"), message("later", delay=5.0)])
        broker.consumer(["q"], 30).receive(1, 0)
        assert [(each.id, each.state) for each in broker.peek("q", 10)] == [
            ("ready", "ready"),
            ("later", "delayed"),
            ("lent", "leased"),
        ]

    def test_nothing_is_kept_of_messages_that_are_done(self, broker: MemoryBroker) -> None:
        consumer = broker.consumer(["q"], 30)
        for n in range(1000):
            broker.publish([message(str(n))])
            consumer.ack(consumer.receive(1, 0))
        consumer.close()
        assert broker.queues() == []
        assert (len(broker._by_id), len(broker._consumers)) == (0, 0)

    def test_nothing_is_kept_of_cancellations_that_are_over(self, broker: MemoryBroker, clock: ManualClock) -> None:
        for n in range(1000):
            broker.cancel([str(n)], 10)
            clock.advance(1)
        assert (len(broker._cancelled), len(broker._cancellations)) == (10, 10)

    def test_on_the_machines_own_clock_delays_and_leases_end_by_themselves(self) -> None:
        broker = MemoryBroker(Url.parse("memory://"))
        broker.publish([message("a", delay=0.02)])
        assert [each.delivery_count for each in broker.consumer(["q"], 0.02).receive(1, 30)] == [1]
        assert [each.delivery_count for each in broker.consumer(["q"], 30).receive(1, 30)] == [2]
        assert list(broker.consumer(["q"], 30).receive(1, 0.02)) == []


class TestBackend:
    def test_two_backends_with_one_url_do_not_see_each_other(self, backend: MemoryBackend) -> None:
        other = MemoryBackend(backend.url)
        backend.store([Record(id="a", state="SUCCESS", final=True, body=b"")], None)
        assert other.fetch(["a"]) == {}

    def test_expired_records_are_dropped_while_others_are_stored(
        self, backend: MemoryBackend, clock: ManualClock
    ) -> None:
        for n in range(1000):
            backend.store([Record(id=str(n), state="SUCCESS", final=True, body=b"")], 10)
            clock.advance(1)
        assert len(backend._kept) == 10

    def test_progress_reported_again_and_again_does_not_pile_up(self, backend: MemoryBackend) -> None:
        for _ in range(5000):
            backend.store([Record(id="a", state="PROGRESS", final=False, body=b"")], 3600)
        assert len(backend._ends) <= 1002

    def test_nothing_is_kept_of_those_who_have_waited(self, backend: MemoryBackend) -> None:
        backend.wait(["a", "b", "a"], 0)
        assert backend._waiters == {}
