"""The Redis broker beyond the contract: what the server forgets, refuses or has no room for, and what is left."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest
from redis import Redis

from dray import Broker, BrokerUnavailable, Consumer, Delivery, Dray, PublishError
from dray.testing import wait_until
from dray.testing.background import HANGS, Background
from dray_brokers import redis as redis_broker
from dray_brokers import redis_consumer
from dray_brokers.redis import RedisBroker
from tests.contracts.redis_places import LONG, envelope, ids, open_broker, url_of
from tests.servers.redis import RedisCluster, RedisSentinel, RedisServer, RedisTlsServer, ask


@pytest.fixture
def broker(redis_server: RedisServer) -> Iterator[RedisBroker]:
    with open_broker(redis_server) as broker:
        yield broker


@pytest.fixture(params=["redis_server", "redis_cluster"])
def alone_and_in_a_cluster(request: pytest.FixtureRequest) -> Iterator[RedisBroker]:
    with open_broker(request.getfixturevalue(request.param)) as broker:
        yield broker


@pytest.fixture
def only_bells_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    """No look without a bell, within the time of a test."""
    monkeypatch.setattr(redis_consumer, "LOOK", LONG)


def admin(server: RedisServer) -> Redis:
    """Return a client that may do everything."""
    return Redis(port=server.port)


def prefix_of(broker: RedisBroker) -> str:
    return broker.url.options["prefix"]


def keys_of(broker: RedisBroker, server: RedisServer) -> list[str]:
    """Return the names of all keys of a broker, without its prefix."""
    with admin(server) as client:
        start = f"{prefix_of(broker)}:"
        return sorted(key.decode().removeprefix(start) for key in client.scan_iter(f"{start}*", count=1000))


# What the server forgets.


def test_scripts_that_the_server_has_forgotten_are_sent_again(broker: RedisBroker, redis_server: RedisServer) -> None:
    consumer = broker.consumer(["q"], LONG)
    for n in range(2):
        ask(redis_server.port, "SCRIPT FLUSH")
        broker.publish([envelope(f"{n}")])
        ask(redis_server.port, "SCRIPT FLUSH")
        taken = consumer.receive(1, HANGS)
        ask(redis_server.port, "SCRIPT FLUSH")
        assert (ids(taken), list(consumer.ack(taken))) == ([f"{n}"], [])


def test_a_killed_server_comes_back_with_all_that_was_confirmed(durable_redis: RedisServer) -> None:
    with open_broker(durable_redis) as broker:
        broker.publish([envelope(f"{n}") for n in range(100)])
        consumer = broker.consumer(["q"], LONG)
        consumer.ack(consumer.receive(10, HANGS))
        durable_redis.kill()
        for call in (lambda: broker.publish([envelope("late")]), lambda: consumer.receive(1, 0.2), broker.open):
            with pytest.raises(BrokerUnavailable, match="cannot be reached"):
                call()
        durable_redis.start()
        broker.open()
        assert len(broker.consumer(["q"], LONG).receive(1000, HANGS)) == 90


def test_a_consumer_of_before_is_dead_after_opening_again(broker: RedisBroker) -> None:
    consumer = broker.consumer(["q"], LONG)
    broker.open()
    with pytest.raises(BrokerUnavailable):
        consumer.receive(1, 0.2)


# Waking.

MAKE_READY: dict[str, Callable[[Broker, Consumer, list[Delivery]], object]] = {
    "publish": lambda broker, holder, held: broker.publish([envelope("a", attempt=1)]),
    "requeue": lambda broker, holder, held: holder.requeue(held),
    "release": lambda broker, holder, held: holder.release(held),
    "close": lambda broker, holder, held: holder.close(),
    "replay": lambda broker, holder, held: (holder.bury(held, "for the test"), broker.replay("q")),
}


@pytest.mark.usefixtures("only_bells_wake")
@pytest.mark.parametrize("verb", MAKE_READY)
def test_a_waiting_worker_is_woken_by_a_bell(alone_and_in_a_cluster: RedisBroker, verb: str) -> None:
    broker = alone_and_in_a_cluster
    consumer, holder = broker.consumer(["other", "q"], LONG), broker.consumer(["q"], LONG)
    broker.publish([envelope("a")])
    held = list(holder.receive(1, HANGS))
    assert list(consumer.receive(1, 0.05)) == []
    waiting = Background(lambda: consumer.receive(1, HANGS / 2))
    MAKE_READY[verb](broker, holder, held)
    assert ids(waiting.result()) == ["a"]


@pytest.mark.usefixtures("only_bells_wake")
def test_a_batch_wakes_as_many_workers_as_it_can_occupy(alone_and_in_a_cluster: RedisBroker) -> None:
    broker = alone_and_in_a_cluster
    consumers = [broker.consumer(["q"], LONG) for _ in range(4)]
    assert [list(consumer.receive(1, 0.05)) for consumer in consumers] == [[]] * 4
    waiting = [Background(lambda consumer=consumer: consumer.receive(1, HANGS / 2)) for consumer in consumers]
    broker.publish([envelope(f"{n}") for n in range(4)])
    assert sorted(id for each in waiting for id in ids(each.result())) == ["0", "1", "2", "3"]


@pytest.mark.usefixtures("only_bells_wake")
def test_an_idle_worker_waits_and_does_not_search(broker: RedisBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = broker.consumer(["q"], LONG)
    run, scripts = broker._queues.run, []
    monkeypatch.setattr(broker._queues, "run", lambda name, *rest: (scripts.append(name), run(name, *rest))[1])
    for _ in range(5):
        assert list(consumer.receive(10, 0.02)) == []
    assert scripts == ["receive"]


def test_a_ring_that_is_lost_costs_two_seconds_and_no_message(broker: RedisBroker, redis_server: RedisServer) -> None:
    consumer = broker.consumer(["q"], LONG)
    assert list(consumer.receive(1, 0.05)) == []
    broker.publish([envelope("a")])
    ask(redis_server.port, "DEL", broker._queues.bell("q"))
    assert ids(consumer.receive(1, HANGS)) == ["a"]


def test_a_short_delay_is_told_to_a_worker_that_waits(broker: RedisBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_consumer, "LOOK", LONG)
    consumer = broker.consumer(["q"], LONG)
    assert list(consumer.receive(1, 0.05)) == []
    waiting = Background(lambda: consumer.receive(1, HANGS / 2))
    broker.publish([envelope("soon", delay=0.3)])
    assert ids(waiting.result()) == ["soon"]


# What is left.


def test_nothing_is_left_of_messages_that_are_done(
    broker: RedisBroker, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = broker.consumer(["q", "other"], LONG)
    broker.publish([envelope(f"p{n}", priority=n) for n in range(10)])
    broker.publish([envelope("later", delay=0.05), envelope("again"), envelope("again", attempt=1)])
    broker.publish([envelope("elsewhere", "other"), envelope("dead"), envelope("replayed")])
    broker.cancel(["p1", "unknown"], 0.05)
    once = True
    while taken := consumer.receive(5, 0.5):
        some = [each for each in taken if each.id in ("dead", "replayed") and each.delivery_count == 1 and once]
        consumer.bury(some, "for the test")
        rest = [each for each in taken if each not in some]
        consumer.requeue([each for each in rest if each.id == "p3" and each.delivery_count == 1], 0.05)
        consumer.release([each for each in rest if each.id == "p4" and once])
        consumer.extend(rest, LONG)
        consumer.ack(rest)
        if some:
            once = False
            broker.replay("q", ["replayed"])
    assert broker.discard("q") == 1
    # The marks go when the last of them ends, give or take a second.
    wait_until(lambda: keys_of(broker, redis_server) == ["queues"])

    monkeypatch.setattr(redis_broker, "FORGET_AFTER", 0.0)
    assert list(broker.queues()) == []
    assert keys_of(broker, redis_server) == []


def test_a_queue_that_holds_something_is_never_forgotten(broker: RedisBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_broker, "FORGET_AFTER", 0.0)
    broker.publish([envelope("a", "full"), envelope("b", "empty")])
    broker.purge("empty")
    assert list(broker.queues()) == ["full"]
    assert broker.find(["a"]) == {"a": "ready"}


def test_two_prefixes_on_one_server_know_nothing_of_each_other(redis_server: RedisServer) -> None:
    with open_broker(redis_server) as mine, open_broker(redis_server) as yours:
        mine.publish([envelope("a")])
        mine.cancel(["a"], LONG)
        assert (yours.queues(), yours.find(["a"]), yours.cancelled(["a"])) == ([], {}, set())
        assert list(yours.consumer(["q"], LONG).receive(1, 0)) == []


def test_a_waiting_task_takes_no_more_than_250_bytes(redis_server: RedisServer) -> None:
    app = Dray("shop", broker=url_of(redis_server).reveal())

    @app.task(name="shop.nothing")
    def nothing() -> None: ...

    many = 5000
    for _ in range(many):
        nothing.delay()
    broker = app.broker
    try:
        prefix = broker.url.options["prefix"]
        with admin(redis_server) as client:
            keys = list(client.scan_iter(f"{prefix}:*", count=1000))
            taken = sum(client.memory_usage(key, samples=0) or 0 for key in keys)
        assert taken / many <= 250
    finally:
        (queue,) = broker.queues()
        broker.purge(queue)
        app.close()


def test_what_somebody_deletes_by_hand_holds_up_nothing_else(broker: RedisBroker, redis_server: RedisServer) -> None:
    consumer = broker.consumer(["q"], LONG)
    broker.publish([envelope("a"), envelope("b", delay=0.05)])
    lent = consumer.receive(1, HANGS)
    ask(redis_server.port, "DEL", f"{broker._queues.base('q')}:held", f"{broker._queues.base('q')}:loans")
    broker.publish([envelope("c")])
    assert list(consumer.requeue(lent)) == lent
    taken = [*consumer.receive(5, HANGS), *consumer.receive(5, 0.2)]
    assert ids(taken) == ["c"]
    # And it may be sent again.
    broker.publish([envelope("b")])
    assert ids(consumer.receive(5, HANGS)) == ["b"]


def test_keys_of_somebody_else_are_left_alone(broker: RedisBroker, redis_server: RedisServer) -> None:
    ask(redis_server.port, "SET", f"{broker._queues.base('q')}:ids", "not ours")
    with pytest.raises(PublishError, match="keys of that name that are not ours"):
        broker.publish([envelope("a")])
    assert ask(redis_server.port, "GET", f"{broker._queues.base('q')}:ids") == b"not ours"


# Loans, which are one for each fetch.

LEASE = 0.2


def lent_of(broker: RedisBroker, consumer: Consumer, many: int) -> list[Delivery]:
    """Publish `many` messages and borrow them in one fetch."""
    broker.publish([envelope(f"m{n:04}") for n in range(many)])
    lent = list(consumer.receive(many, HANGS))
    assert ids(lent) == [f"m{n:04}" for n in range(many)]
    return lent


def states(broker: RedisBroker) -> tuple[int, int]:
    """Return how many are ready, and how many are lent."""
    sizes = broker.sizes(["q"])["q"]
    return sizes["ready"], sizes["leased"]


def loans_of(broker: RedisBroker, server: RedisServer) -> tuple[int, int]:
    """Return how many loans the server keeps, and for how many it knows when they end."""
    base = broker._queues.base("q")
    with admin(server) as client:
        return client.hlen(f"{base}:loans") // 2, client.zcard(f"{base}:leased")


def test_one_fetch_keeps_nobody_waiting_for_more_than_a_megabyte(broker: RedisBroker) -> None:
    broker.publish([envelope(f"m{n}", body=b"x" * 400_000) for n in range(7)])
    consumer = broker.consumer(["q"], lease=30)
    assert [ids(consumer.receive(100, 0)) for _ in range(4)] == [["m0", "m1", "m2"], ["m3", "m4", "m5"], ["m6"], []]


def test_large_messages_behind_small_ones_do_not_all_come_at_once(broker: RedisBroker) -> None:
    small, large = [f"s{n}" for n in range(80)], [f"l{n}" for n in range(200)]
    broker.publish([envelope(name) for name in small])
    broker.publish([envelope(name, body=b"x" * 50_000) for name in large])
    consumer = broker.consumer(["q"], lease=30)
    first = ids(consumer.receive(1000, 0))
    assert len(small) < len(first) <= len(small) + 64
    came = first
    while more := ids(consumer.receive(1000, 0)):
        assert len(more) <= 64
        came += more
    assert came == small + large


@pytest.mark.parametrize("many", [1, 31, 32, 33, 64, 1000])
def test_a_loan_is_settled_in_any_parts_and_gone_with_the_last(
    broker: RedisBroker, redis_server: RedisServer, many: int
) -> None:
    consumer = broker.consumer(["q"], LONG)
    lent = lent_of(broker, consumer, many)
    assert (states(broker), loans_of(broker, redis_server)) == ((0, many), (1, 1))
    parts = [lent[start::7] for start in range(7)]
    left = many
    for part in parts:
        assert list(consumer.ack(part)) == []
        left -= len(part)
        assert states(broker) == (0, left)
    assert loans_of(broker, redis_server) == (0, 0)
    assert consumer._lent == {"q": {}}
    assert broker.find(ids(lent)) == {}


def test_parts_of_several_loans_are_settled_in_one_call(broker: RedisBroker, redis_server: RedisServer) -> None:
    consumer = broker.consumer(["q", "other"], LONG)
    broker.publish([envelope(f"{queue}{n}", queue) for n in range(40) for queue in ("q", "other")])
    lent = [each for _ in range(4) for each in consumer.receive(20, HANGS)]
    assert len(lent) == 80
    assert list(consumer.ack(lent[::2])) == []
    assert ids(consumer.ack(lent)) == ids(lent[::2])
    assert loans_of(broker, redis_server) == (0, 0)
    assert broker.find(ids(lent)) == {}


def test_an_ack_says_who_was_acked_before_and_acks_the_others(broker: RedisBroker) -> None:
    consumer = broker.consumer(["q"], LONG)
    lent = lent_of(broker, consumer, 40)
    assert list(consumer.ack(lent[5:35])) == []
    assert ids(consumer.ack(lent)) == ids(lent[5:35])
    assert (states(broker), broker.find(ids(lent))) == ((0, 0), {})


def test_a_late_ack_leaves_alone_what_has_been_sent_again_since(broker: RedisBroker) -> None:
    consumer = broker.consumer(["q"], LONG)
    lent = lent_of(broker, consumer, 3)
    consumer.ack(lent[:1])
    broker.publish([envelope(lent[0].id)])
    assert ids(consumer.ack(lent)) == [lent[0].id]
    assert broker.find(ids(lent)) == {lent[0].id: "ready"}


def test_of_a_loan_that_ends_comes_back_what_was_not_settled(broker: RedisBroker, redis_server: RedisServer) -> None:
    late, holder = broker.consumer(["q"], LEASE), broker.consumer(["q"], LONG)
    lent = lent_of(broker, late, 40)
    late.ack(lent[::2])
    late.requeue(lent[1:2], LONG)
    taken: list[Delivery] = []
    wait_until(lambda: taken.extend(holder.receive(100, 0.1)) or len(taken) == 19)
    assert ids(taken) == ids(lent[3::2])
    assert {each.delivery_count for each in taken} == {2}
    assert loans_of(broker, redis_server) == (1, 1)
    assert ids(late.ack(lent)) == ids(lent)
    assert ids(late.release(lent)) == ids(lent)
    assert states(broker) == (0, 19)
    assert list(holder.ack(taken)) == []
    assert loans_of(broker, redis_server) == (0, 0)


def test_of_a_loan_only_those_that_are_renewed_go_on(broker: RedisBroker, redis_server: RedisServer) -> None:
    late, holder = broker.consumer(["q"], LEASE), broker.consumer(["q"], LONG)
    lent = lent_of(broker, late, 40)
    late.ack(lent[:10])
    assert ids(late.extend(lent[5:20], LONG)) == ids(lent[5:10])
    # One by one too; and what is renewed again ends later, or sooner.
    assert [list(late.extend([each], LONG)) for each in lent[20:30]] == [[]] * 10
    assert list(late.extend(lent[10:12], LEASE)) == []
    taken: list[Delivery] = []
    wait_until(lambda: taken.extend(holder.receive(100, 0.1)) or len(taken) == 12)
    assert sorted(ids(taken)) == ids(lent[10:12] + lent[30:])
    assert ids(late.extend(lent[10:], LONG)) == ids(lent[10:12] + lent[30:])
    assert states(broker) == (0, 30)
    assert sorted(ids(late.ack(lent[10:]))) == ids(lent[10:12] + lent[30:])
    fetches = len({each.receipt[0] for each in taken})
    assert loans_of(broker, redis_server) == (fetches, fetches)


def test_renewing_all_that_is_left_leaves_nothing_of_the_old_time(
    broker: RedisBroker, redis_server: RedisServer
) -> None:
    consumer = broker.consumer(["q"], LEASE)
    lent = lent_of(broker, consumer, 1000)
    consumer.ack(lent[::3])
    for _ in range(3):
        assert list(consumer.extend([each for n, each in enumerate(lent) if n % 3], LONG)) == []
    base = broker._queues.base("q")
    with admin(redis_server) as client:
        terms = client.hget(f"{base}:loans", lent[0].receipt[0] + b"t")
        ((_, ends),) = client.zrange(f"{base}:leased", 0, -1, withscores=True)
        now = client.time()[0]
    # When, the length of the mask, and a mask of whole words: one group.
    assert len(terms) == 8 + 2 + 128
    assert ends - now > LONG / 2


@pytest.mark.parametrize("verb", ["release", "close"])
def test_a_large_batch_goes_back_to_its_old_place_in_order(broker: RedisBroker, verb: str) -> None:
    consumer, leaving = broker.consumer(["q"], LONG), broker.consumer(["q"], LONG)
    broker.publish([envelope(f"m{n:04}") for n in range(1200)])
    first, second = list(leaving.receive(700, HANGS)), list(leaving.receive(300, HANGS))
    assert list(leaving.ack(first[::2])) == []
    if verb == "close":
        leaving.close()
    else:
        assert list(leaving.release([*reversed(second), *first[1::2]])) == []
    expected = [*ids(first[1::2]), *ids(second), *(f"m{n:04}" for n in range(1000, 1200))]
    assert [each.id for each in broker.peek("q", 2000)] == expected
    # What is given back twice keeps the place of the first time, also beside what is lent for the first time.
    again = list(consumer.receive(660, HANGS))
    assert ids(again) == expected[:660]
    assert {each.delivery_count for each in again[:650]} == {1 if verb == "release" else 2}
    assert list(consumer.release(again[::-1])) == []
    assert [each.id for each in broker.peek("q", 2000)] == expected


def test_a_later_attempt_is_told_from_an_earlier_one_in_a_loan(broker: RedisBroker) -> None:
    consumer = broker.consumer(["q"], LONG)
    broker.publish([envelope("a", attempt=n) for n in (0, 1, 2, 2)])
    lent = list(consumer.receive(10, HANGS))
    assert [each.attempt for each in lent] == [0, 1, 2]
    consumer.ack(lent[::2])
    assert broker.find(["a"]) == {"a": "leased"}
    assert [each.attempt for each in broker.peek("q", 10)] == [1]
    assert ids(consumer.ack(lent)) == ["a", "a"]
    assert broker.find(["a"]) == {}


def test_ids_of_every_length_are_found_among_what_is_lent(broker: RedisBroker) -> None:
    uuids = [f"01a1fc7d-96d2-7dad-8ab1-be8f45{n:06x}" for n in range(50)]
    names = [*uuids, *("x" * length for length in (1, 13, 14, 16, 17, 18, 128))]
    broker.publish([envelope(id, attempt=n % 2, body=b"") for n, id in enumerate(names)])
    consumer = broker.consumer(["q"], LONG)
    lent = [*consumer.receive(20, HANGS), *consumer.receive(100, HANGS)]
    broker.publish([envelope(f"01a1fc7d-96d2-7dad-8ab1-be8f45ffff{n:02x}") for n in range(100)])
    assert [broker.find([id]) for id in names] == [{id: "leased"} for id in names]
    assert broker.find([*uuids, "01a1fc7d-96d2-7dad-8ab1-be8f45ffff00"]) == {
        **dict.fromkeys(uuids, "leased"),
        "01a1fc7d-96d2-7dad-8ab1-be8f45ffff00": "ready",
    }
    waiting = [each.id for each in broker.peek("q", 100)]
    assert broker.find([*names, *waiting]) == {**dict.fromkeys(names, "leased"), **dict.fromkeys(waiting, "ready")}
    consumer.ack(lent[:30])
    assert broker.find(names[29:31]) == {names[30]: "leased"}


def test_what_is_lent_is_marked_as_cancelled_by_its_number(broker: RedisBroker) -> None:
    consumer = broker.consumer(["other", "q"], LONG)
    broker.publish([envelope("x", "other"), *(envelope(f"{n}") for n in range(40))])
    broker.cancel(["x", "7", "39"], LONG)
    lent = consumer.receive(100, HANGS)
    assert [each.id for each in lent if each.cancelled] == ["x", "7", "39"]


def test_peek_shows_what_is_lent_and_what_is_not_settled_of_it(broker: RedisBroker) -> None:
    consumer = broker.consumer(["q"], LONG)
    lent = lent_of(broker, consumer, 40)
    consumer.ack(lent[:30])
    consumer.extend(lent[35:], 2 * LONG)
    broker.publish([envelope("waiting")])
    seen = broker.peek("q", 9)
    assert [(each.id, each.state) for each in seen] == [
        ("waiting", "ready"),
        *((each.id, "leased") for each in lent[30:38]),
    ]


def test_bodies_of_every_length_come_back_whole(broker: RedisBroker) -> None:
    bodies = [
        bytes([n % 256]) * length for n, length in enumerate([0, 1, 5, 13, 14, 237, 238, 239, 65535, 65536, 10**6])
    ]
    broker.publish([envelope(f"{n}", body=body) for n, body in enumerate(bodies)])
    consumer = broker.consumer(["q"], LONG)
    lent = list(consumer.receive(100, HANGS))
    assert [each.body for each in lent] == bodies
    assert list(consumer.release(lent)) == []
    assert [each.body for each in consumer.receive(100, HANGS)] == bodies


# A server without room.


@pytest.fixture
def full(durable_redis: RedisServer) -> Iterator[RedisBroker]:
    with open_broker(durable_redis) as broker:
        broker.publish([envelope(f"{n}", body=bytes(1000)) for n in range(10)])
        ask(durable_redis.port, "CONFIG SET", "maxmemory", "1000")
        yield broker


def test_a_full_server_refuses_what_is_sent_in_words_and_keeps_nothing_of_it(
    full: RedisBroker, durable_redis: RedisServer
) -> None:
    with pytest.raises(BrokerUnavailable, match="is full: its maxmemory is reached and its policy is noeviction"):
        full.publish([envelope("x"), envelope("y")])
    ask(durable_redis.port, "CONFIG SET", "maxmemory", "0")
    assert full.find(["x", "y"]) == {}
    full.publish([envelope("x"), envelope("y")])
    assert full.find(["x", "y"]) == {"x": "ready", "y": "ready"}


def test_a_full_server_can_be_emptied(full: RedisBroker) -> None:
    consumer = full.consumer(["q"], LONG)
    taken = consumer.receive(10, HANGS)
    assert len(taken) == 10
    for _ in range(2):
        assert full.find(ids(taken[:5])) == dict.fromkeys(ids(taken[:5]), "leased")
    assert list(consumer.extend(taken, LONG)) == []
    assert list(consumer.extend(taken[:5], LONG)) == []
    assert list(consumer.bury(taken[:2], "for the test")) == []
    assert list(consumer.requeue(taken[2:4], 0.05)) == []
    assert list(consumer.requeue(taken[4:6])) == []
    assert list(consumer.release(taken[6:8])) == []
    assert list(consumer.ack(taken[8:])) == []
    assert full.replay("q") == 2
    assert full.purge("q") == 8
    assert list(full.queues()) == []


def test_advice_names_what_loses_tasks(durable_redis: RedisServer) -> None:
    with open_broker(durable_redis) as broker:
        assert list(broker.advice(["q"])) == []
        for name, value in {"maxmemory-policy": "allkeys-lru", "appendonly": "no"}.items():
            ask(durable_redis.port, "CONFIG SET", name, value)
        eviction, persistence = broker.advice(["q"])
    assert "allkeys-lru" in eviction
    assert "appendonly" in persistence


def test_advice_says_what_it_may_not_look_at(redis_tls_server: RedisTlsServer) -> None:
    with open_broker(redis_tls_server) as broker:
        assert [advice for advice in broker.advice(["q"]) if "CONFIG is not allowed" not in advice] == []


def test_advice_is_given_on_a_cluster(redis_cluster: RedisCluster) -> None:
    with open_broker(redis_cluster) as broker:
        assert any("appendonly" in advice for advice in broker.advice(["q"]))


# Replies that are lost.


class Proxy:
    """Stands between a client and a server, and can keep one reply back and hang up instead."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._swallow = threading.Event()
        self.swallowed = threading.Event()
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow_next_reply(self) -> None:
        self.swallowed.clear()
        self._swallow.set()

    def close(self) -> None:
        self._door.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._door.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server))
            threading.Thread(target=self._pass_on, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(server, client, True), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, replies: bool) -> None:
        with source, target:
            with suppress(OSError):
                while data := source.recv(65536):
                    if replies and self._swallow.is_set():
                        self._swallow.clear()
                        self.swallowed.set()
                        break
                    target.sendall(data)
            for end in (source, target):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    with closing(Proxy(redis_server.port)) as proxy:
        yield proxy


def test_a_send_whose_reply_was_lost_is_not_repeated_by_the_driver_and_may_be_by_us(proxy: Proxy) -> None:
    with open_broker(f"redis://127.0.0.1:{proxy.port}/0") as broker:
        broker.publish([envelope("first")])
        proxy.swallow_next_reply()
        with pytest.raises(BrokerUnavailable):
            broker.publish([envelope("a")])
        assert proxy.swallowed.is_set()
        assert broker.sizes(["q"])["q"]["ready"] == 2
        broker.publish([envelope("a")])
        consumer = broker.consumer(["q"], LONG)
        assert ids(consumer.receive(10, HANGS)) == ["first", "a"]
        assert list(consumer.receive(10, 0.05)) == []


def test_messages_that_were_lent_in_a_lost_reply_come_back(proxy: Proxy) -> None:
    with open_broker(f"redis://127.0.0.1:{proxy.port}/0") as broker:
        broker.publish([envelope("a")])
        consumer = broker.consumer(["q"], 0.3)
        proxy.swallow_next_reply()
        with pytest.raises(BrokerUnavailable):
            consumer.receive(1, 0)
        assert broker.find(["a"]) == {"a": "leased"}
        (delivery,) = consumer.receive(1, HANGS)
        assert (delivery.id, delivery.delivery_count) == ("a", 2)


def test_an_ack_whose_reply_was_lost_was_an_ack(proxy: Proxy) -> None:
    with open_broker(f"redis://127.0.0.1:{proxy.port}/0") as broker:
        broker.publish([envelope("a")])
        consumer = broker.consumer(["q"], LONG)
        taken = consumer.receive(1, HANGS)
        proxy.swallow_next_reply()
        with pytest.raises(BrokerUnavailable):
            consumer.ack(taken)
        assert ids(consumer.ack(taken)) == ["a"]
        assert broker.find(["a"]) == {}


# Replicas.


def test_a_failover_is_an_outage_that_passes(durable_sentinel: RedisSentinel) -> None:
    with open_broker(durable_sentinel, wait_replicas=1, wait_timeout=5) as broker:
        broker.publish([envelope(f"{n}") for n in range(10)])
        consumer = broker.consumer(["q"], LONG)
        consumer.ack(consumer.receive(4, HANGS))
        dead = durable_sentinel.kill_master()
        with pytest.raises(BrokerUnavailable):
            wait_until(lambda: consumer.receive(1, 0.2) and False)
        durable_sentinel.wait_for_new_master(dead)
        wait_until(lambda: opens(broker))
        broker.publish([envelope("after")])
        taken = broker.consumer(["q"], LONG).receive(100, HANGS)
        assert {*map(str, range(4, 10)), "after"} <= set(ids(taken))


def opens(broker: Broker) -> bool:
    try:
        broker.open()
    except BrokerUnavailable:
        return False
    return True


def test_a_send_is_confirmed_when_enough_replicas_have_it(redis_sentinel: RedisSentinel) -> None:
    with open_broker(redis_sentinel, wait_replicas=2, wait_timeout=5) as broker:
        broker.publish([envelope("a")])
        assert broker.find(["a"]) == {"a": "ready"}


@pytest.mark.parametrize("server", ["redis_server", "redis_cluster"])
def test_a_send_is_not_confirmed_when_too_few_replicas_have_it(request: pytest.FixtureRequest, server: str) -> None:
    with open_broker(request.getfixturevalue(server), wait_replicas=1, wait_timeout=0.05) as broker:
        for _ in range(2):
            with pytest.raises(BrokerUnavailable, match="0 of 1 replicas had it within 0.05 s"):
                broker.publish([envelope("a")])
        assert broker.sizes(["q"])["q"]["ready"] == 1
