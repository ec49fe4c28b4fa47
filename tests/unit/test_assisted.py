"""What the engine does in a broker's place, where the kit cannot look: names, labels, outages, kills, and marks."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dray import (
    Broker,
    BrokerUnavailable,
    Consumer,
    Delivery,
    Dray,
    Envelope,
    NotSupported,
    PublishError,
    Queue,
    Url,
    hookimpl,
)
from dray.assisted import Assisted
from dray.assisted_consumer import PROMOTE_LEASE, PROMOTE_MOST
from dray.capabilities import LABEL_BYTES, assisted
from dray.clock import ManualClock
from dray.failover import Failover
from dray.labels import NO_LABEL, Label, put_on, take_off
from dray.sub_queues import plain
from dray.testing import FlakyBroker, wait_until
from dray_brokers.memory import MemoryBroker, MemoryConsumer

LEASE = 10.0
#: What the broker of these tests lacks, unless a test says otherwise.
LACKS: dict[str, Any] = {
    "max_delay": 0.0,
    "priority_levels": 1,
    "delivery_count": False,
    "release_uncharged": False,
    "requeue_delay": False,
    "dedup": False,
    "fifo": False,
    "cancel": False,
    "find": False,
    "peek": False,
    "dead_letters": False,
}


class Plain(MemoryBroker):
    """A broker in memory that does no more than it declares, and notes what it is told to publish."""

    def __init__(self, place: str = "", **can: Any) -> None:
        super().__init__(Url.parse("memory://"))
        self.capabilities = msgspec.structs.replace(self.capabilities, **{**LACKS, **can})
        self.place = place
        self.told: list[Envelope] = []
        self.batches: list[int] = []
        self.opened = 0
        self.says_age = True

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        self.told += envelopes
        self.batches.append(len(envelopes))
        # An id of its own for each: it recognises none that it has seen.
        super().publish([msgspec.structs.replace(each, id=f"{each.id}|{uuid4()}", priority=0) for each in envelopes])

    def consumer(self, queues: Sequence[str], lease: float) -> MemoryConsumer:
        self.opened += 1
        return PlainConsumer(self, queues, lease if self.capabilities.lease else 1e9)


class PlainConsumer(MemoryConsumer):
    def __init__(self, broker: Plain, queues: Sequence[str], lease: float) -> None:
        super().__init__(broker, queues, lease)
        self.plain = broker

    def receive(self, limit: int, wait: float, queues: Sequence[str] | None = None) -> Sequence[Delivery]:
        hidden: dict[str, Any] = {} if self.plain.capabilities.delivery_count else {"delivery_count": 1}
        if not self.plain.says_age:
            hidden["age"] = None
        came = super().receive(limit, wait, queues)
        return [msgspec.structs.replace(each, id=each.id.partition("|")[0], **hidden) for each in came]

    def requeue(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> Sequence[Delivery]:
        return super().requeue(deliveries, delay if self.plain.capabilities.requeue_delay else 0.0)

    def release(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return self.requeue(deliveries)

    def bury(self, deliveries: Sequence[Delivery], reason: str) -> Sequence[Delivery]:
        return self.ack(deliveries)


def memory() -> MemoryBroker:
    return MemoryBroker(Url.parse("memory://"))


@pytest.fixture(autouse=True)
def _do_not_wait_for_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    # In memory what is there comes at once.
    monkeypatch.setattr("dray.assisted.LETTERS_WAIT", 0.0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


Build = Callable[..., Assisted]


@pytest.fixture
def build(clock: ManualClock) -> Build:
    def make(transport: Broker, store: Broker | None = None, remember: float = 0.0) -> Assisted:
        broker = Assisted(transport, store, remember)
        broker.clock = clock
        broker.open()
        return broker

    return make


def sent(id: str, queue: str = "q", **more: Any) -> Envelope:
    return Envelope(**{"id": id, "queue": queue, "body": f"body of {id}".encode(), **more})


def take(consumer: Consumer, limit: int = 100) -> list[Delivery]:
    return list(consumer.receive(limit, 0.0))


def ids(deliveries: Iterable[Any]) -> list[str]:
    return [each.id for each in deliveries]


# Names


def test_queues_within_a_queue_are_named_with_two_underscores(build: Build) -> None:
    transport = Plain()
    broker = build(transport)
    broker.publish([sent(str(n), priority=n) for n in range(10)])
    assert [each.queue for each in transport.told] == ["q", *["q__p1"] * 4, *["q__p5"] * 5]
    assert broker.expand(["q", "r"]) == ["q__p5", "q__p1", "q", "r__p5", "r__p1", "r"]
    consumer = broker.consumer(["q"], LEASE)
    consumer.bury(take(consumer, 1), "no")
    assert transport.told[-1].queue == "q__dead"
    assert broker.queues() == ["q"]
    assert [plain(name) for name in ("q", "q__dead", "q__p1", "q__p5", "q__p7")] == ["q", "q", "q", "q", "q__p7"]


def test_a_users_queue_that_is_named_like_one_of_ours_is_a_queue_of_its_own(build: Build) -> None:
    broker = build(Plain())
    broker.publish([sent("a", "mail__p5"), sent("b", "mail__dead", priority=9)])
    consumer = broker.consumer(["mail__p5", "mail__dead"], LEASE)
    assert [(each.id, each.queue) for each in take(consumer)] == [("a", "mail__p5"), ("b", "mail__dead")]


def test_messages_come_out_by_steps_of_priority_and_show_them(build: Build) -> None:
    broker = build(Plain())
    broker.publish([sent("none"), sent("some", priority=3), sent("most", priority=9)])
    assert [(each.id, each.priority) for each in take(broker.consumer(["q"], LEASE))] == [
        ("most", 5),
        ("some", 1),
        ("none", 0),
    ]


def test_a_broker_that_lacks_nothing_keeps_its_own_ways(build: Build) -> None:
    broker = build(memory())
    broker.publish([sent("a", priority=7, delay=1.0)])
    assert broker.capabilities == broker.native
    assert (broker.expand(["q"]), broker.needs_store) == (["q"], False)
    assert broker.find(["a"]) == {"a": "delayed"}


# Labels

labels = st.builds(
    Label,
    count=st.integers(-(2**31), 2**31),
    hop=st.floats(0, 1e9),
    rest=st.floats(0, 1e9),
    until=st.floats(0, 1e11),
    reason=st.text(max_size=50),
    buried=st.floats(0, 1e11),
    priority=st.integers(0, 9),
    key=st.text(max_size=128),
)


@given(labels, st.binary())
def test_a_label_and_what_is_below_it_come_back_whole(label: Label, body: bytes) -> None:
    assert take_off(put_on(label, body)) == (label, body)


@given(labels, labels, st.binary())
def test_a_label_may_stand_on_a_label(outer: Label, inner: Label, body: bytes) -> None:
    below = put_on(inner, body)
    assert take_off(put_on(outer, below)) == (outer, below)


@given(st.binary())
def test_a_body_without_a_label_stays_as_it_is(body: bytes) -> None:
    assert take_off(body) == (NO_LABEL, body)


@pytest.mark.parametrize("cut", range(9))
def test_a_label_that_is_cut_off_is_a_body(cut: int) -> None:
    body = put_on(Label(count=7, hop=1.0), b"")[:cut]
    assert take_off(body) == (NO_LABEL, body)


@given(st.text(min_size=1, max_size=10), st.text(st.characters(exclude_categories=["Cs"]), max_size=32))
def test_no_label_is_larger_than_the_room_for_it(reason: str, key: str) -> None:
    label = Label(count=2**31, hop=1e9, rest=1e9, until=1e9, reason=reason * 5000, buried=1e9, priority=9, key=key * 4)
    assert len(put_on(label, b"")) <= LABEL_BYTES


def test_a_reason_that_is_no_proper_text_can_be_noted_all_the_same() -> None:
    label, _ = take_off(put_on(Label(reason="lone \ud800 surrogate"), b""))
    assert label.reason == "lone \\ud800 surrogate"


@pytest.mark.parametrize("body", [b"\xd7L1", b"\xd7L1\x00\x01\x80rest", put_on(Label(count=3), b"x"), b""])
@pytest.mark.parametrize("delay", [0.0, 5.0])
def test_a_body_that_begins_like_a_label_comes_out_as_it_went_in(
    build: Build, clock: ManualClock, body: bytes, delay: float
) -> None:
    for broker in (build(Plain(), memory()), build(Plain(max_delay=2.0, delivery_count=True))):
        broker.publish([sent("a", body=body, delay=delay)])
        consumer = broker.consumer(["q"], LEASE)
        for _ in range(3):
            clock.advance(2.0)
            take_all = take(consumer)
            if take_all:
                break
        assert [(each.body, each.delivery_count) for each in take_all] == [(body, 1)]
        consumer.requeue(take_all, 1.0)
        clock.advance(1.0)
        assert [each.body for each in take(consumer)] == [body]
        consumer.close()


def test_the_room_for_a_label_is_taken_from_what_a_body_may_have(build: Build) -> None:
    most = 10_000
    broker = build(Plain(max_message_bytes=most))
    assert broker.capabilities.max_message_bytes == most - LABEL_BYTES
    assert assisted(memory().capabilities, None).max_message_bytes is None


# Hops


@pytest.mark.parametrize("says_age", [True, False], ids=["the broker's clock", "our clock"])
def test_a_long_delay_is_waited_for_in_hops(build: Build, clock: ManualClock, says_age: bool) -> None:
    transport = Plain(max_delay=100.0)
    transport.says_age = says_age
    broker = build(transport)
    broker.publish([sent("a", delay=250.0, priority=5)])
    consumer = broker.consumer(["q"], LEASE)
    seen = []
    for _ in range(5):
        seen.append(ids(take(consumer)))
        clock.advance(50.0)
    assert seen == [[], [], [], [], []]
    (delivery,) = take(consumer)
    assert (delivery.queue, delivery.priority, delivery.body) == ("q", 5, b"body of a")
    assert [each.delay for each in transport.told] == [100.0, 100.0, 50.0]
    assert {each.queue for each in transport.told} == {"q__p5"}


@pytest.mark.parametrize("says_age", [True, False], ids=["the broker's clock", "our clock"])
def test_a_worker_that_comes_late_to_a_hop_shortens_the_next(build: Build, clock: ManualClock, says_age: bool) -> None:
    transport = Plain(max_delay=100.0)
    transport.says_age = says_age
    broker = build(transport)
    broker.publish([sent("a", delay=250.0), sent("b", delay=150.0)])
    clock.advance(230.0)
    consumer = broker.consumer(["q"], LEASE)
    in_time = take(consumer)
    assert ids(in_time) == ["b"]
    consumer.ack(in_time)
    assert [each.delay for each in transport.told[2:]] == [20.0]
    clock.advance(20.0)
    assert ids(take(consumer)) == ["a"]


def test_a_hop_is_not_counted_and_keeps_the_attempt(build: Build, clock: ManualClock) -> None:
    broker = build(Plain(max_delay=1.0, delivery_count=True))
    broker.publish([sent("a", delay=3.0, attempt=2)])
    consumer = broker.consumer(["q"], LEASE)
    came: list[Delivery] = []
    while not came:
        clock.advance(1.0)
        came = take(consumer)
    assert [(each.delivery_count, each.attempt) for each in came] == [(1, 2)]


def test_hops_that_end_together_are_one_request(build: Build, clock: ManualClock) -> None:
    transport = Plain(max_delay=1.0, max_publish_batch=40)
    broker = build(transport)
    broker.publish([sent(f"{n}", delay=2.0) for n in range(100)])
    clock.advance(1.0)
    take(broker.consumer(["q"], LEASE))
    assert transport.batches == [40, 40, 20, 40, 40, 20]


@pytest.mark.parametrize("rest", [float("inf"), float("nan"), 1e300, -1.0])
def test_a_forged_rest_ends_no_worker(build: Build, rest: float) -> None:
    transport, store = Plain(max_delay=1.0), memory()
    broker = build(transport, store)
    transport.publish([sent("a", body=put_on(Label(rest=rest), b"forged")), sent("b")])
    assert "b" in ids(take(broker.consumer(["q"], LEASE)))


# Exchanges, broadcast, keys


def test_what_goes_through_an_exchange_keeps_it_for_the_first_hop(build: Build, clock: ManualClock) -> None:
    transport = Plain(max_delay=10.0, exchanges=True)
    broker = build(transport, memory())
    broker.publish([sent("a", "", exchange="news", routing_key="x", delay=25.0, priority=9)])
    (first,) = transport.told
    assert (first.queue, first.exchange, first.routing_key, first.delay) == ("", "news", "x", 10.0)
    # The broker would do this.
    arrived = build(Plain(max_delay=10.0), broker.store)
    arrived.transport.publish([msgspec.structs.replace(first, queue="q", exchange="", routing_key="")])
    consumer = arrived.consumer(["q"], LEASE)
    clock.advance(10.0)
    assert take(consumer) == []
    clock.advance(15.0)
    assert [(each.id, each.body) for each in take(consumer)] == [("a", b"body of a")]


def test_a_broadcast_is_not_multiplied_by_hops_and_has_no_steps(build: Build) -> None:
    broker = build(Plain(max_delay=10.0, exchanges=True, broadcast=True))
    broker.declare([Queue(name="all", exchange="news", type="fanout", broadcast=True), Queue(name="q")])
    assert broker.expand(["all", "q"]) == ["all", "q__p5", "q__p1", "q"]
    for envelope in (sent("a", "all", delay=11.0), sent("a", "", exchange="news", delay=11.0)):
        with pytest.raises(NotSupported, match=r"delayed by 10 s at most"):
            broker.publish([envelope])
    broker.publish([sent("a", "all", delay=10.0), sent("b", "all", priority=9)])
    assert [each.queue for each in broker.transport.told] == ["all", "all"]  # type: ignore[attr-defined]


def test_the_queues_of_a_queues_priorities_are_kept_as_it_is(build: Build) -> None:
    transport, told = Plain(exchanges=True), list[Queue]()
    transport.declare = told.extend  # type: ignore[method-assign, assignment]
    short = Queue(name="q", exchange="news", type="topic", routing_key="x", arguments={"x-message-ttl": 1000})
    build(transport).declare([short, Queue(name="r", exchange="news", type="topic")])
    arguments = {queue.name: (queue.exchange, queue.arguments) for queue in told}
    ttl = {"x-message-ttl": 1000}
    assert arguments == {"q": ("news", ttl), "r": ("news", {}), "q__p5": ("", ttl), "q__p1": ("", ttl)}


def test_copies_keep_their_key(build: Build, clock: ManualClock) -> None:
    transport = Plain(key="fair", delivery_count=True)
    broker = build(transport, memory())
    broker.publish([sent("now", key="ann"), sent("later", key="bob", delay=5.0), sent("none")])
    clock.advance(5.0)
    consumer = broker.consumer(["q"], LEASE)
    came = take(consumer)
    consumer.release(came)
    assert {(each.id, each.key) for each in transport.told[-3:]} == {("now", "ann"), ("later", "bob"), ("none", None)}
    came = take(consumer)
    consumer.bury(came, "no")
    assert {each.key for each in transport.told[-3:]} == {None}
    broker.replay("q")
    assert {(each.id, each.key) for each in transport.told[-3:]} == {("now", "ann"), ("later", "bob"), ("none", None)}
    assert {each.body for each in take(consumer)} == {b"body of now", b"body of later", b"body of none"}


def test_where_keys_are_kept_in_order_nothing_is_given_back_as_a_copy(build: Build) -> None:
    transport = Plain(key="order", delivery_count=True)
    broker = build(transport, memory())
    broker.publish([sent("a", key="k"), sent("b", key="k")])
    consumer = broker.consumer(["q"], LEASE)
    consumer.release(take(consumer, 1))
    assert len(transport.told) == 2
    assert not broker.capabilities.release_uncharged


# The store


def test_one_store_keeps_two_places_apart(build: Build, clock: ManualClock) -> None:
    store = memory()
    east, west = build(Plain("east"), store), build(Plain("west"), store)
    east.publish([sent("of-east", delay=5.0)])
    west.publish([sent("of-west", delay=5.0)])
    clock.advance(5.0)
    assert ids(take(west.consumer(["q"], LEASE))) == ["of-west"]
    assert east.sizes(["q"])["q"]["delayed"] == 1
    assert (east.queues(), west.queues()) == (["q"], ["q"])
    assert east.purge("q") == 1
    assert take(east.consumer(["q"], LEASE)) == []


def test_two_connections_to_one_place_share_what_is_due(build: Build, clock: ManualClock) -> None:
    store, transport = memory(), Plain("here")
    build(transport, store).publish([sent("a", delay=5.0)])
    clock.advance(5.0)
    assert ids(take(build(transport, store).consumer(["q"], LEASE))) == ["a"]


def test_what_is_due_is_passed_on_in_batches_and_nothing_waits_behind_them(build: Build, clock: ManualClock) -> None:
    transport = Plain(max_publish_batch=100)
    broker = build(transport, memory())
    number = 2 * PROMOTE_MOST + 1
    broker.publish([sent(str(n), delay=5.0) for n in range(number)])
    clock.advance(5.0)
    consumer = broker.consumer(["q"], LEASE)
    came = [len(take(consumer, 1000)) for _ in range(4)]
    assert came == [PROMOTE_MOST, PROMOTE_MOST, 1, 0]
    assert max(transport.batches) == 100


@pytest.mark.parametrize(("max_delay", "moment"), [(0.0, 0.25), (60.0, 0.25), (900.0, 1.8), (86_400.0, 2.0)])
def test_the_longer_the_delays_it_keeps_the_less_often_the_store_is_asked(
    build: Build, clock: ManualClock, max_delay: float, moment: float
) -> None:
    store = FlakyBroker(memory())
    broker = build(Plain(max_delay=max_delay, delivery_count=True), store)
    broker.publish([sent(str(n)) for n in range(9)])
    consumer = broker.consumer(["q"], LEASE)
    for looks in (1, 2, 3):
        for _ in range(3):
            assert len(take(consumer, 1)) == 1
        assert store.calls["receive"] == looks
        clock.advance(moment)


def test_who_does_not_wait_is_given_what_is_due_by_now(build: Build, clock: ManualClock) -> None:
    broker = build(Plain(max_delay=900.0), memory())
    broker.publish([sent("a", delay=900.5)])
    consumer = broker.consumer(["q"], LEASE)
    clock.advance(900.0)
    assert take(consumer) == []
    clock.advance(0.5)
    assert ids(take(consumer)) == ["a"]


def test_what_the_broker_refuses_when_it_is_due_waits_in_the_store(
    build: Build, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    transport, store = FlakyBroker(Plain()), memory()
    broker = build(transport, store)
    broker.publish([sent("a", delay=5.0), sent("b", delay=5.0)])
    clock.advance(5.0)
    consumer = broker.consumer(["q"], LEASE)

    def refuse(verb: str, when: str) -> None:
        if verb == "publish" and when == "after":
            raise PublishError({"b": "the queue is full"})

    transport.observe(refuse)
    assert {*ids(take(consumer))} == {"a", "b"}
    assert "b: the queue is full" in caplog.text
    transport._observers.clear()
    assert broker.sizes(["q"])["q"]["delayed"] == 1
    clock.advance(5.0)
    assert ids(take(consumer)) == ["b"]


def test_while_the_store_is_away_nothing_is_borrowed_and_what_is_held_stays_held(
    build: Build, clock: ManualClock
) -> None:
    transport = FlakyBroker(Plain(lease=False))
    store = FlakyBroker(memory())
    broker = build(transport, store)
    broker.publish([sent("held"), sent("next")])
    consumer = broker.consumer(["q"], LEASE)
    held = take(consumer, 1)
    store.sleep()
    for _ in range(3):
        clock.advance(1.0)
        with pytest.raises(BrokerUnavailable):
            take(consumer)
        # What the engine does then.
        broker.open()
        assert consumer.resume()
    borrowed = transport.calls["receive"]
    broker.publish([sent("meanwhile")])
    with pytest.raises(BrokerUnavailable):
        broker.publish([sent("later", delay=5.0)])
    store.wake()
    broker.open()
    assert consumer.resume()
    assert borrowed == 1
    assert transport.calls["consumer"] == 1
    assert list(consumer.ack(held)) == []
    assert sorted(ids(take(consumer))) == ["meanwhile", "next"]


def test_what_cannot_be_looked_up_in_the_store_is_given_back(build: Build) -> None:
    store = FlakyBroker(memory())
    broker = build(Plain(lease=False), store)
    broker.publish([sent("a")])
    consumer = broker.consumer(["q"], LEASE)
    store.fail("cancelled")
    with pytest.raises(BrokerUnavailable):
        take(consumer)
    broker.open()
    assert consumer.resume()
    assert ids(take(consumer)) == ["a"]


def test_a_consumer_that_lost_its_broker_does_not_go_on(build: Build) -> None:
    transport = FlakyBroker(Plain())
    consumer = build(transport, memory()).consumer(["q"], LEASE)
    transport.fail("receive")
    with pytest.raises(BrokerUnavailable):
        take(consumer)
    assert not consumer.resume()


def test_a_store_that_is_away_is_told_of_once(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    store = FlakyBroker(memory())
    store.sleep()
    broker = build(Plain(), store)
    for _ in range(5):
        broker.open()
        with pytest.raises(BrokerUnavailable):
            broker.consumer(["q"], LEASE)
    assert caplog.text.count("the store is away") == 1
    assert broker.transport.opened == 0  # type: ignore[attr-defined]


def test_a_broker_that_needs_no_store_does_without_one_that_is_away(build: Build) -> None:
    store = FlakyBroker(memory())
    store.sleep()
    broker = build(memory(), store, remember=60.0)
    broker.publish([sent("a", delay=1.0), sent("b")])
    consumer = broker.consumer(["q"], LEASE)
    assert list(consumer.ack(take(consumer))) == []
    assert store.calls["open"] == 0


# Loans


def test_loans_with_a_lease_outlive_their_consumer(build: Build) -> None:
    broker = build(Plain(delivery_count=True))
    broker.publish([sent("a", priority=9), sent("b", priority=9)])
    lent = take(broker.consumer(["q"], LEASE))
    another = broker.consumer(["q"], LEASE)
    assert list(another.ack(lent[:1])) == []
    assert list(another.bury(lent[1:], "no")) == []
    assert ids(broker.dead("q", 10)) == ["b"]


def test_loans_without_a_lease_end_with_their_consumer_and_are_not_copied(build: Build) -> None:
    transport = Plain(lease=False, delivery_count=True)
    broker = build(transport)
    broker.publish([sent("a")])
    lent = take(broker.consumer(["q"], LEASE))
    another = broker.consumer(["q"], LEASE)
    assert ids(another.bury(lent, "no")) == ["a"]
    assert ids(another.release(lent)) == ["a"]
    assert len(transport.told) == 1


def test_nothing_is_remembered_of_loans_that_have_ended(build: Build, clock: ManualClock) -> None:
    broker = build(Plain(), memory(), remember=60.0)
    broker.publish([sent(f"{n}", priority=n) for n in range(6)])
    consumer = broker.consumer(["q"], LEASE)
    came = take(consumer)
    consumer.ack(came[:1])
    consumer.requeue(came[1:2], 0.0)
    consumer.requeue(came[2:3], 5.0)
    consumer.release(came[3:4])
    consumer.bury(came[4:5], "no")
    clock.advance(LEASE + 1)
    another = take(broker.consumer(["q"], LEASE))
    assert ids(consumer.extend(came, LEASE)) == ids(came)
    consumer.ack(another)
    assert (broker.lent, broker.live) == ({}, set())


def test_a_letter_that_is_refused_is_not_lost(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    transport = FlakyBroker(Plain())
    broker = build(transport)
    broker.publish([sent("a")])
    consumer = broker.consumer(["q"], LEASE)
    lent = take(consumer)
    transport.fail("publish", PublishError({"a": "the queue is full"}))
    assert list(consumer.bury(lent, "no")) == []
    assert "a comes out once more, what should follow was refused: the queue is full" in caplog.text
    assert broker.dead("q", 10) == []
    assert ids(take(consumer)) == ["a"]


def test_letters_are_laid_replayed_and_discarded_in_the_brokers_batches(build: Build) -> None:
    transport = Plain(max_publish_batch=4, max_receive_batch=5)
    broker = build(transport)
    broker.publish([sent(f"{n}") for n in range(10)])
    consumer = broker.consumer(["q"], LEASE)
    consumer.bury(take(consumer), "no")
    assert len(broker.dead("q", 100)) == 10
    assert broker.replay("q", ["3", "7"]) == 2
    assert broker.discard("q", ["4"]) == 1
    assert len(broker.dead("q", 100)) == 7
    assert broker.replay("q") == 7
    assert max(transport.batches) == 4


def test_who_lists_dead_letters_while_another_does_sees_those_that_are_left(build: Build) -> None:
    transport = Plain()
    broker = build(transport)
    broker.publish([sent("a"), sent("b")])
    consumer = broker.consumer(["q"], LEASE)
    consumer.bury(take(consumer), "no")
    other = transport.consumer(["q__dead"], LEASE)
    held = other.receive(1, 0.0)
    assert len(broker.dead("q", 10)) == 1
    other.release(held)
    assert len(broker.dead("q", 10)) == 2


# Marks


def test_what_was_done_is_dropped_when_it_comes_again(build: Build, clock: ManualClock) -> None:
    transport = Plain()
    broker = build(transport, memory(), remember=60.0)
    broker.publish([sent("a"), sent("a"), sent("a", attempt=1), sent("a", body=b"another time")])
    consumer = broker.consumer(["q"], LEASE)
    first = take(consumer, 1)
    consumer.ack(first)
    assert [(each.attempt, each.body) for each in take(consumer)] == [(1, b"body of a"), (0, b"another time")]
    clock.advance(61.0)
    transport.publish([transport.told[0]])
    assert ids(take(consumer)) == ["a", "a", "a"]


def test_what_was_given_back_or_replayed_was_not_done(build: Build, clock: ManualClock) -> None:
    broker = build(Plain(), memory(), remember=1e6)
    broker.publish([sent("a")])
    consumer = broker.consumer(["q"], LEASE)
    consumer.release(take(consumer))
    consumer.requeue(take(consumer))
    consumer.requeue(take(consumer), 3.0)
    clock.advance(3.0)
    consumer.bury(take(consumer), "no")
    broker.replay("q")
    assert ids(take(consumer)) == ["a"]


def test_deliveries_are_counted_however_many_there_are(build: Build, clock: ManualClock) -> None:
    broker = build(Plain(), memory())
    broker.publish([sent("a"), sent("b", delay=200.0)])
    counts = []
    for _ in range(30):
        # Each worker dies with it.
        counts += [each.delivery_count for each in take(broker.consumer(["q"], LEASE)) if each.id == "a"]
        clock.advance(LEASE + 1)
    assert counts == list(range(1, 31))


def test_counting_begins_anew_when_a_letter_is_replayed_and_goes_on_in_copies(build: Build, clock: ManualClock) -> None:
    broker = build(Plain(), memory())
    broker.publish([sent("a")])
    for _ in range(9):
        consumer = broker.consumer(["q"], LEASE)
        lent = take(consumer)
        clock.advance(LEASE + 1)
    consumer.bury(take(consumer), "no")
    assert broker.dead("q", 1)[0].delivery_count == 10
    clock.advance(1.0)
    broker.replay("q")
    for number in (1, 2, 3):
        lent = take(consumer)
        assert lent[0].delivery_count == number
        consumer.requeue(lent, 5.0)
        clock.advance(5.0)
    consumer.release(take(consumer))
    assert take(consumer)[0].delivery_count == 4


def test_cancelled_tasks_are_shown_as_such_in_every_queue_of_theirs(build: Build, clock: ManualClock) -> None:
    broker = build(Plain(), memory())
    broker.publish([sent("a"), sent("b", priority=9), sent("c", delay=5.0), sent("d")])
    broker.cancel(["a", "b", "c"], 60.0)
    clock.advance(5.0)
    came = take(broker.consumer(["q"], LEASE))
    assert {each.id: each.cancelled for each in came} == {"a": True, "b": True, "c": True, "d": False}
    assert broker.cancelled(["a", "d"]) == {"a"}


# Looking


def test_what_the_broker_alone_would_not_find_is_not_asked_of_it(build: Build) -> None:
    broker = build(Plain(find=True))
    assert not broker.capabilities.find
    with pytest.raises(NotSupported):
        broker.find(["a"])


def test_sizes_add_up_what_waits_under_other_names(build: Build) -> None:
    broker = build(Plain(), memory())
    broker.publish([sent("a"), sent("b", priority=5), sent("c", delay=9.0), sent("d"), sent("e")])
    consumer = broker.consumer(["q"], LEASE)
    lent = {each.id: each for each in take(consumer, 3)}
    consumer.bury([lent["b"]], "no")
    assert broker.sizes(["q", "other"]) == {
        "q": {"ready": 1, "delayed": 1, "leased": 2, "dead": 1},
        "other": {"ready": 0, "delayed": 0, "leased": 0, "dead": 0},
    }


def test_what_the_store_keeps_cannot_be_part_of_a_transaction(build: Build) -> None:
    broker = build(Plain(transactional=True), memory())
    with pytest.raises(NotSupported, match="cannot be part of a transaction"):
        broker.publish_within(object(), [sent("a", delay=1.0)])


# Several brokers, of which one is used


def test_a_worker_goes_where_the_senders_have_gone(build: Build) -> None:
    first, second = FlakyBroker(Plain("1")), FlakyBroker(Plain("2", priority_levels=10))
    broker = build(Failover([first, second]), memory())
    broker.publish([sent("a", priority=9), sent("b")])
    consumer = broker.consumer(["q"], LEASE)
    lent = take(consumer, 1)
    first.fail("publish")
    with pytest.raises(BrokerUnavailable):
        broker.publish([sent("c", priority=9)])
    # What the sender does then.
    broker.open()
    broker.publish([sent("c", priority=9)])
    with pytest.raises(BrokerUnavailable, match="has taken over"):
        take(consumer)
    # What the worker does then.
    broker.open()
    assert not consumer.resume()
    another = broker.consumer(["q"], LEASE)
    (came,) = take(another)
    assert (came.id, came.queue) == ("c", "q")
    assert broker.expand(["q"]) == ["q"]
    # The proof of a loan says nothing to another broker.
    assert second.calls["publish"] == 1
    assert list(another.bury(lent, "no")) == lent or broker.dead("q", 1)


def test_a_broker_whose_consumers_fail_is_left_though_it_can_be_opened(build: Build) -> None:
    first, second = FlakyBroker(Plain("1")), FlakyBroker(Plain("2"))
    broker = build(Failover([first, second]))
    consumer = broker.consumer(["q"], LEASE)
    first.fail("receive")
    with pytest.raises(BrokerUnavailable):
        take(consumer)
    broker.open()
    assert broker.place == "2"


def test_a_store_that_is_away_moves_nobody_to_another_broker(build: Build) -> None:
    store = FlakyBroker(memory())
    broker = build(Failover([Plain("1"), Plain("2")]), store)
    broker.publish([sent("a")])
    consumer = broker.consumer(["q"], LEASE)
    store.fail("cancelled")
    with pytest.raises(BrokerUnavailable):
        take(consumer)
    broker.open()
    assert broker.place == "1"


# In a worker


class Places:
    """A plugin with a broker that lacks everything, and a store that can be away."""

    dray_api = (1, 0)

    def __init__(self, **can: Any) -> None:
        self.transport = Plain(**can)
        self.store = FlakyBroker(memory())

    @hookimpl
    def register_brokers(self, register: Callable[[str, Any], None]) -> None:
        register("plain", lambda url: self.transport)
        register("kept", lambda url: self.store)


@pytest.fixture
def places() -> Places:
    return Places(lease=False)


@pytest.fixture
def app(places: Places) -> Iterator[Dray]:
    app = Dray("assisted", broker="plain://", backend="memory://", store_url="kept://", set_as_current=False)
    app.plugins.register(places)
    yield app
    places.store.wake()
    app.close()


def test_tasks_that_run_while_the_store_goes_away_run_once(
    app: Dray, places: Places, caplog: pytest.LogCaptureFixture
) -> None:
    go, ran = threading.Event(), Counter[str]()

    @app.task
    def work(name: str) -> None:
        ran[name] += 1
        go.wait(30)

    with app.worker(concurrency=2) as worker:
        work.delay("during")
        wait_until(lambda: worker.running == 1)
        places.store.sleep()
        waiting = work.delay("after")
        wait_until(lambda: places.store.calls["open"] >= 3)
        go.set()
        wait_until(lambda: "away while settling" in caplog.text)
        assert ran == {"during": 1}
        places.store.wake()
        waiting.get(timeout=20)
        wait_until(lambda: not any(places.transport.sizes(["default"])["default"].values()))
    assert ran == {"during": 1, "after": 1}
    assert places.transport.opened == 1


def test_what_was_acked_first_and_not_begun_is_not_taken_for_done(app: Dray, places: Places) -> None:
    go, began, ran = threading.Event(), threading.Event(), list[str]()

    @app.task(acks_late=False)
    def work(name: str) -> None:
        ran.append(name)
        began.set()
        go.wait(30)

    app.conf.worker_prefetch_multiplier = 4
    worker = app.worker(concurrency=1).start()
    for name in ("running", "waiting", "waiting too"):
        work.delay(name)
    began.wait(30)
    wait_until(lambda: worker.received == 3)
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    wait_until(lambda: len(places.transport.told) == 5)
    go.set()
    stopping.join()
    app.worker().run_until_idle()
    assert sorted(ran) == ["running", "waiting", "waiting too"]


def test_what_waits_behind_a_long_task_stays_where_giving_back_is_counted(
    app: Dray, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dray.source.SHARE_AFTER", 0.05)
    # A copy would not keep the order, so that what is given back is counted.
    places.transport.capabilities = msgspec.structs.replace(places.transport.capabilities, fifo=True)
    go, worker = threading.Event(), app.worker(concurrency=1)
    assert not app.broker.capabilities.release_uncharged

    @app.task
    def work(long: bool) -> None:
        if long:
            go.wait(30)

    with worker:
        # Short ones teach it to fetch some in advance.
        for result in work.delay_many([(False,)] * 20):
            result.get(timeout=20)
        work.delay_many([(True,), *[(False,)] * 10])
        wait_until(lambda: worker.received >= 22)
        # Long enough for it to be given back, if it were.
        wait_until(lambda: places.transport.clock.monotonic() - worker._source._last_end > 0.3)
        go.set()
        wait_until(lambda: not any(places.transport.sizes(["default"])["default"].values()))
    assert worker.received == 31


# Killed at every call in turn


class Killed(BaseException):
    """The process is gone."""


class Life:
    """One process after the other does the same work; the first is killed at its `at`-th call, before or after it."""

    def __init__(self, clock: ManualClock, at: int, stored: bool, **can: Any) -> None:
        self.clock = clock
        self.transport = FlakyBroker(Plain(**can))
        self.store = FlakyBroker(memory()) if stored else None
        self.steps = -1
        self.left = at
        self.ran: Counter[str] = Counter()
        for broker in filter(None, (self.transport, self.store)):
            broker.observe(self._step)

    def _step(self, verb: str, when: str) -> None:
        if verb == "open" or self.left < 0:
            return
        if self.left == 0:
            self.left = -1
            raise Killed
        self.left -= 1

    def process(self, work: Callable[[Assisted], None]) -> bool:
        """Let a new process do some work; return whether it was killed."""
        broker = Assisted(self.transport, self.store, remember=1000.0)
        broker.clock = self.clock
        broker.open()
        try:
            work(broker)
        except Killed:
            # Nobody closes anything. What it held comes out again when the loans are over.
            self.clock.advance(max(LEASE, PROMOTE_LEASE, 60.0) + 1)
            return True
        return False

    def produce(self, broker: Assisted) -> None:
        broker.publish([sent(id) for id in ("ack", "requeue", "release", "bury")])
        broker.publish([sent("due", delay=3.0), sent("urgent", priority=9), sent("far", delay=8.0)])

    def consume(self, broker: Assisted) -> None:
        consumer = broker.consumer(["q"], LEASE)
        quiet = 0
        while quiet < 12:
            came = take(consumer, 4)
            quiet = 0 if came else quiet + 1
            for each in came:
                self.settle(consumer, each)
            self.clock.advance(1.0)

    def settle(self, consumer: Consumer, delivery: Delivery) -> None:
        self.ran[delivery.id] += 1
        again = self.ran[delivery.id] > 1
        if delivery.id == "requeue" and not again:
            consumer.requeue([delivery], 2.0)
        elif delivery.id == "release" and not again:
            consumer.release([delivery])
        elif delivery.id == "bury":
            consumer.bury([delivery], "no")
        else:
            consumer.ack([delivery])


#: What it should come to when nobody is killed: how often each is handed out.
RUNS = {"ack": 1, "requeue": 2, "release": 2, "bury": 1, "due": 1, "urgent": 1, "far": 1}
KINDS: dict[str, tuple[bool, dict[str, Any]]] = {
    "store": (True, {}),
    "store, counted": (True, {"delivery_count": True}),
    "hops": (False, {"delivery_count": True, "max_delay": 2.0}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_call_work_is_repeated_and_never_lost(kind: str) -> None:
    stored, can = KINDS[kind]
    at, killed = 0, True
    while killed:
        life = Life(ManualClock(), at, stored, **can)
        # Before `publish` has returned, nothing is promised: whoever sends asks again.
        killed = life.process(life.produce) and not life.process(life.produce)
        killed |= life.process(life.consume)
        life.left = -1
        assert not life.process(life.consume)
        for id, wanted in RUNS.items():
            # Twice at most, and once more for what was published a second time.
            assert wanted <= life.ran[id] <= wanted + 2, (at, id, life.ran)
        letters: list[str] = []
        life.process(lambda broker: letters.extend(ids(broker.dead("q", 100))))  # noqa: B023
        assert set(letters) == {"bury"}
        life.process(lambda broker: _same(broker.discard("q"), len(letters)))  # noqa: B023
        life.process(lambda broker: _same(broker.sizes(["q"])["q"], dict.fromkeys(broker.sizes(["q"])["q"], 0)))
        at += 1
    # The last one ran through: there was nothing left to be killed at.
    assert life.ran == RUNS
    assert at > 50


@pytest.mark.parametrize("kind", KINDS)
def test_killed_while_replaying_a_letter_is_dead_or_waits_or_both(kind: str) -> None:
    stored, can = KINDS[kind]
    at, killed = 0, True
    while killed:
        life = Life(ManualClock(), -1, stored, **can)
        life.process(life.produce)
        life.process(life.consume)
        life.ran.clear()
        life.left = at
        killed = life.process(lambda broker: _same(broker.replay("q", ["bury"]), 1))
        life.left = -1
        life.process(life.consume)
        letters: list[str] = []
        life.process(lambda broker: letters.extend(ids(broker.dead("q", 100))))  # noqa: B023
        assert "bury" in letters
        assert life.ran["bury"] <= 1
        assert killed or life.ran["bury"] == 1
        at += 1
    assert at > 3


def _same(found: object, wanted: object) -> None:
    assert found == wanted
