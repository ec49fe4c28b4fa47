"""The Redis store beyond the contract: shards, what the server forgets or has no room for, and a slot that moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import product
from math import inf

import pytest

from dray import (
    Absent,
    Add,
    Change,
    Changed,
    Delete,
    Due,
    Equals,
    Hold,
    Index,
    Put,
    Store,
    StoreError,
    StoreUnavailable,
    Take,
    Unindex,
    Write,
)
from dray.testing import wait_until
from dray_backends import redis_store
from dray_backends.redis_store import RedisStore
from tests.contracts.redis_places import LONG, open_store, url_of
from tests.servers.redis import RedisCluster, RedisSentinel, RedisServer, ask


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[RedisStore]:
    with open_store(redis_server) as store:
        yield store


@pytest.fixture(params=["redis_server", "redis_cluster"])
def in_two_shards(request: pytest.FixtureRequest) -> Iterator[RedisStore]:
    with open_store(request.getfixturevalue(request.param), shards=2) as store:
        yield store


def made(store: Store, part: str, *writes: Write, ttl: float | None = None) -> Changed:
    (done,) = store.commit([Change(part, writes=writes, ttl=ttl)])
    return done


def key_of(store: RedisStore, part: str) -> str:
    """Return the key of a partition whose name has no zero bytes."""
    return f"{store._base(part)}p:{part}"


def left_in(store: RedisStore, server: RedisServer, index: str) -> int:
    """Return how many entries an index of a store of one shard has, whatever their partitions are."""
    return int(ask(server.port, "ZCARD", f"{store._bases[0]}i:{index}"))


def calls(server: RedisServer) -> int:
    """Return how many scripts have been run."""
    told = ask(server.port, "INFO", "commandstats")
    return sum(int(told.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in ("evalsha", "eval"))


# Shards.


def test_who_opens_first_says_how_many_shards_there_are(redis_server: RedisServer) -> None:
    with open_store(redis_server, shards=4) as store:
        made(store, "p", Put("a", b"1"))
        without = dict(store.url.options)
        del without["shards"]
        with open_store(redis_server, **without) as other:
            assert len(other._bases) == 4
            assert other.get("p", "a") == {"a": b"1"}
        another = RedisStore(url_of(redis_server, **without, shards=2))
        with pytest.raises(StoreError, match=r"is in 4 shards; write shards=4.* take another prefix"):
            another.open()
        with pytest.raises(StoreUnavailable, match="not open"):
            another.get("p", "a")


def test_a_cluster_has_several_shards_and_a_single_server_has_one(
    redis_server: RedisServer, redis_cluster: RedisCluster
) -> None:
    with open_store(redis_server) as alone, open_store(redis_cluster) as spread:
        assert (len(alone._bases), len(spread._bases)) == (1, redis_store.SPREAD)


def test_a_batch_is_one_call_for_each_shard(redis_server: RedisServer) -> None:
    for shards in (1, 3):
        with open_store(redis_server, shards=shards) as store:
            holds = [Hold(f"l{n}", "me", LONG) for n in range(256)]
            assert (store.hold([]), store.take([]), store.commit([])) == ([], [], [])
            before = calls(redis_server)
            done = store.commit([Change(f"p{n}", (Absent("a"),), (Put("a", b"1"),), ("a",)) for n in range(256)])
            assert [*done] == [Changed(True, {"a": b"1"})] * 256
            assert calls(redis_server) - before == shards
            for _ in range(2):  # at first the server does not know the scripts
                before = calls(redis_server)
                assert store.take([Take(f"l{n}", 1000.0, 2) for n in range(256)]) == [0.0] * 256
                assert [token > 0 for token in store.hold(holds)] == [True] * 256
                store.let_go(holds)
            assert calls(redis_server) - before == 3 * shards


def test_a_batch_is_cut_where_it_would_keep_the_server_too_long(
    store: RedisStore, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "STEP", 30)
    monkeypatch.setattr(redis_store, "STEP_BYTES", 2000)
    before = calls(redis_server)
    store.commit([Change(f"p{n}", writes=(Put("a", b"x" * 100),)) for n in range(40)])
    in_bytes = calls(redis_server) - before
    store.commit([Change(f"p{n}", reads=("a",)) for n in range(40)])
    in_changes = calls(redis_server) - before - in_bytes
    assert (in_bytes, in_changes) == (3, 2)
    assert all(store.get(f"p{n}", "a") == {"a": b"x" * 100} for n in range(40))


def test_one_change_may_be_as_large_as_it_has_to(store: RedisStore) -> None:
    # More than Lua takes as arguments of one command.
    keys = tuple(f"k{n:05}" for n in range(20_000))
    made(store, "p", *(Put(key, key.encode()) for key in keys), *(Index("i", key, 1.0) for key in keys))
    assert store.get("p", *keys) == {key: key.encode() for key in keys}
    assert [entry.key for entry in store.due("i", inf, 100_000)] == [*keys]
    assert [key for key, _ in store.scan("p", "k1", "k10000", 3)] == ["k10001", "k10002", "k10003"]
    made(store, "p", *(Delete(key) for key in keys), *(Unindex("i", key) for key in keys))
    assert (store.scan("p"), store.due("i", inf, 1)) == ([], [])


# The order of entries.

NAMES = ["a", "a\x00", "a\x00b", "a\x00\x01", "a\x01", "a\x01\x01", "a\x01\x02", "a\x02", "ab", "\uffee", "\U0001f40e"]


def test_entries_of_one_instant_come_by_the_code_points_of_partition_and_key(in_two_shards: RedisStore) -> None:
    store, entries = in_two_shards, [Due(1.5, part, key) for part, key in product(NAMES, NAMES)]
    store.commit([Change(entry.part, writes=(Index("i", entry.key, entry.at),)) for entry in reversed(entries)])
    assert store.due("i", inf, 1000) == sorted(entries)
    for place, entry in enumerate(sorted(entries)):
        assert store.due("i", 1.5, 2, entry) == sorted(entries)[place + 1 : place + 3]


def test_a_page_goes_on_after_an_entry_that_has_gone_or_moved(store: RedisStore) -> None:
    entries = [Due(at, part, key) for at, part, key in product((1.0, 2.0), "pq", "abc")]
    store.commit([Change(entry.part, writes=(Index("i", entry.key + str(entry.at), entry.at),)) for entry in entries])
    listed = store.due("i", inf, 100)
    changes: list[Write] = [Unindex("i", "b1.0"), Index("i", "b1.0", 0.5), Index("i", "b1.0", 9.0)]
    for change in changes:
        made(store, "q", change)
        after = Due(1.0, "q", "b1.0")
        assert store.due("i", 2.0, 100, after) == [entry for entry in listed if entry > after]


@pytest.mark.parametrize("at", [-1.5, 0.0, 1e-9, 1_795_000_000.000001, 1_795_000_000.0000012, 2.0**60, inf])
def test_instants_come_back_as_they_were(store: RedisStore, at: float) -> None:
    made(store, "p", Index("i", "k", at))
    assert store.due("i", at, 1) == [Due(at, "p", "k")]
    assert store.due("i", at, 1, Due(at, "p", "k")) == []


# What was forgotten.


def test_entries_of_what_was_forgotten_are_taken_out_by_whoever_looks(
    store: RedisStore, redis_server: RedisServer
) -> None:
    made(store, "p", Put("a", b"1"), *(Index("i", f"k{n}", float(n)) for n in range(6000)))
    made(store, "q", Index("i", "k", 6000.0))
    ask(redis_server.port, "DEL", key_of(store, "p"))
    assert store.due("i", inf, 1) == [Due(6000.0, "q", "k")]
    assert left_in(store, redis_server, "i") == 1


def test_a_partition_that_began_anew_has_none_of_its_entries(store: RedisStore, redis_server: RedisServer) -> None:
    made(store, "p", Index("i", "old", 1.0), Index("i", "both", 1.0))
    ask(redis_server.port, "DEL", key_of(store, "p"))
    made(store, "p", Put("a", b"1"), Index("i", "both", 2.0))
    assert store.due("i", inf, 10) == [Due(2.0, "p", "both")]


def test_a_partition_without_records_and_entries_leaves_nothing(store: RedisStore, redis_server: RedisServer) -> None:
    made(store, "p", Put("a", b"1"), Index("i", "k", 1.0))
    made(store, "p", Unindex("i", "k"), Delete("a"))
    assert ask(redis_server.port, "EXISTS", key_of(store, "p"), f"{store._bases[0]}i:i") == 0


def test_a_change_that_puts_all_anew_leaves_the_time_to_live(store: RedisStore, redis_server: RedisServer) -> None:
    made(store, "p", Put("a", b"1"), ttl=LONG)
    made(store, "p", Delete("a"), Put("a", b"2"))
    made(store, "p", Delete("a"), Put("b", b"2"))
    made(store, "p", Delete("b"), Index("i", "k", 1.0))
    assert 0 < ask(redis_server.port, "PTTL", key_of(store, "p")) <= LONG * 1000


@pytest.mark.parametrize(("ttl", "left"), [(1e30, -1), (inf, -1), (0.0001, -2)])
def test_times_to_live_may_be_very_long_or_short(
    store: RedisStore, redis_server: RedisServer, ttl: float, left: int
) -> None:
    made(store, "p", Put("a", b"1"), ttl=ttl)
    wait_until(lambda: ask(redis_server.port, "PTTL", key_of(store, "p")) == left)


# Counts that cannot be added to.

HALF_WAY: dict[str, tuple[Write, ...]] = {
    "after a put": (Put("b", b"1"), Add("text")),
    "after another count": (Add("n"), Add("new"), Add("n"), Add("text")),
    "to what was just put": (Put("n", b"what"), Add("n")),
    "after putting and adding": (Put("n", b"7"), Add("n"), Put("n", b"8"), Add("text")),
    "after deleting": (Delete("n"), Add("n", 3), Delete("text"), Put("text", b"more"), Add("text")),
    "after an entry": (Index("i", "k", 1.0), Unindex("i", "kept"), Add("text")),
    "too large": (Put("b", b"1"), Add("large")),
    "too small": (Add("n"), Add("n", -(2**63)), Add("n", -2)),
    "no number of 64 bits": (Put("b", b"1"), Add("n", 2**63)),
}


@pytest.mark.parametrize("writes", HALF_WAY.values(), ids=HALF_WAY)
def test_what_cannot_be_added_leaves_nothing_half_made(
    store: RedisStore, redis_server: RedisServer, writes: tuple[Write, ...]
) -> None:
    large = b"%d" % (2**63 - 1)
    made(store, "p", Put("text", b"x"), Put("n", b"0"), Put("large", large), Index("i", "kept", 1.0), ttl=LONG)
    before = store.scan("p")
    with pytest.raises(StoreError, match="no count"):
        store.commit([Change("p", writes=writes, reads=("n",), ttl=inf)])
    assert store.scan("p") == before
    assert store.due("i", inf, 10) == [Due(1.0, "p", "kept")]
    assert ask(redis_server.port, "PTTL", key_of(store, "p")) > 0


def test_a_failed_change_does_not_make_a_partition(store: RedisStore, redis_server: RedisServer) -> None:
    with pytest.raises(StoreError, match="no count"):
        made(store, "p", Add("n"), Put("a", b"text"), Add("a"))
    assert ask(redis_server.port, "EXISTS", key_of(store, "p")) == 0


def test_counts_have_64_bits(store: RedisStore) -> None:
    made(store, "p", Add("n", 2**63 - 1), Add("m", -(2**63)), Put("o", b"5"), Add("o"), Delete("o"), Add("o", -3))
    assert store.get("p", "n", "m", "o") == {"n": b"%d" % (2**63 - 1), "m": b"%d" % -(2**63), "o": b"-3"}


def test_a_member_of_a_group_whose_count_is_none_is_not_added(store: RedisStore) -> None:
    made(store, "p", Put("g#", b"text"))
    with pytest.raises(StoreError, match="no count"):
        store.add_member("p", "g", "a", b"1")
    assert store.scan("p") == [("g#", b"text")]


# What limits and places leave is what the port's own versions of them leave and understand.


def test_what_is_kept_of_places_is_what_the_port_keeps(store: RedisStore) -> None:
    holds = [Hold("l", f"holder {n}", LONG, 3) for n in range(5)]
    hold = (store.hold, partial(Store.hold, store))
    let_go = (store.let_go, partial(Store.let_go, store))
    assert [hold[n % 2]([wish])[0] for n, wish in enumerate(holds)] == [1, 2, 3, 0, 0]
    for n, wish in enumerate(holds[:3]):
        let_go[n % 2]([wish])
    # Of places nobody holds there is a way of their own to be written.
    assert [hold[1 - n]([wish])[0] for n, wish in enumerate(holds[3:])] == [4, 5]


def test_what_is_kept_of_a_bucket_is_what_the_port_keeps(store: RedisStore) -> None:
    wish = Take("l", every=1000.0, burst=2)
    assert [*store.take([wish]), *Store.take(store, [wish])] == [0.0, 0.0]
    for wait in (*store.take([wish]), *Store.take(store, [wish])):
        assert 900.0 < wait <= 1000.0


def test_a_place_is_kept_while_others_are_taken_for_a_shorter_time(
    store: RedisStore, redis_server: RedisServer
) -> None:
    month = 30 * 86400.0
    store.hold([Hold("l", "me", month, 2), Hold("l", "you", 1.0, 2)])
    store.let_go([Hold("l", "you", 1.0, 2)])
    assert ask(redis_server.port, "PTTL", key_of(store, "l")) > month * 1000


# What the server forgets, refuses, or has no room for.


def test_scripts_that_the_server_has_forgotten_are_sent_again(
    in_two_shards: RedisStore, request: pytest.FixtureRequest
) -> None:
    store = in_two_shards
    name = request.node.callspec.params["in_two_shards"]
    server = request.getfixturevalue(name)
    ports = getattr(server, "ports", None) or [server.port]

    def flush() -> None:
        for port in ports:
            ask(port, "SCRIPT FLUSH")

    asking: list[Callable[[], object]] = [
        lambda: made(store, "p", Put("a", b"1"), Index("i", "k", 1.0)),
        lambda: store.get("p", "a"),
        lambda: store.scan("p"),
        lambda: store.due("i", inf, 10),
        lambda: store.add_member("p", "g", "m", b"1"),
        lambda: store.take([Take("l", 1.0)]),
        lambda: store.hold([Hold("l", "me", LONG)]),
        lambda: store.let_go([Hold("l", "me", LONG)]),
        lambda: store.now() > 0,
        store.open,
    ]
    for each in asking:
        flush()
        each()
    assert store.scan("p") == [("a", b"1"), ("g#", b"1"), ("g/m", b"1")]
    assert store.due("i", inf, 10) == [Due(1.0, "p", "k")]


def test_keys_of_somebody_else_are_named(store: RedisStore, redis_server: RedisServer) -> None:
    ask(redis_server.port, "SET", key_of(store, "p"), "theirs")
    with pytest.raises(StoreError, match="has keys of that name that are not ours"):
        made(store, "p", Put("a", b"1"))


def test_a_full_server_is_an_outage_and_nothing_is_half_made(durable_redis: RedisServer) -> None:
    with open_store(durable_redis) as store:
        made(store, "p", Put("a", b"1"), Put("n", b"1"), Index("i", "k", 1.0))
        before = store.scan("p")
        ask(durable_redis.port, "CONFIG SET", "maxmemory", "1000")
        refused: list[Callable[[], object]] = [
            lambda: made(store, "p", Delete("a"), Put("b", b"1"), Unindex("i", "k")),
            lambda: made(store, "p", Put("b", b"1"), Add("n"), Add("m")),
            lambda: store.add_member("p", "g", "m", b"1"),
            lambda: store.take([Take("l", 1.0)]),
            lambda: store.hold([Hold("l", "me", LONG)]),
        ]
        for each in refused:
            with pytest.raises(StoreUnavailable, match="is full"):
                each()
        assert (store.scan("p"), store.due("i", inf, 9)) == (before, [Due(1.0, "p", "k")])
        made(store, "p", Delete("a"), Unindex("i", "k"))
        ask(durable_redis.port, "CONFIG SET", "maxmemory", "0")
        assert (store.scan("p"), store.due("i", inf, 9)) == ([("n", b"1")], [])
        assert all(each() for each in refused)


def test_a_killed_server_comes_back_with_all_that_was_committed(durable_redis: RedisServer) -> None:
    with open_store(durable_redis) as store:
        made(store, "p", Put("a", b"1"), Index("i", "k", 1.0), ttl=LONG)
        (token,) = store.hold([Hold("l", "me", LONG)])
        durable_redis.kill()
        for call in (lambda: made(store, "p", Put("a", b"2")), lambda: store.due("i", inf, 1), store.open):
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                call()
        durable_redis.start()
        store.open()
        assert store.get("p", "a") == {"a": b"1"}
        assert store.due("i", inf, 1) == [Due(1.0, "p", "k")]
        assert store.hold([Hold("l", "you", LONG), Hold("l", "me", LONG)]) == [0, token]


def test_a_failover_is_an_outage_that_passes(durable_sentinel: RedisSentinel) -> None:
    with open_store(durable_sentinel, wait_replicas=1, wait_timeout=5) as store:
        made(store, "p", Put("a", b"1"), Index("i", "k", 1.0))
        dead = durable_sentinel.kill_master()
        with pytest.raises(StoreUnavailable):
            store.get("p", "a")
        durable_sentinel.wait_for_new_master(dead)

        def is_back() -> bool:
            with suppress(StoreUnavailable):
                store.open()
                return store.commit([Change("p", (Equals("a", b"1"),), (Put("b", b"2"),))])[0].applied
            return False

        wait_until(is_back)
        assert store.get("p", "a", "b") == {"a": b"1", "b": b"2"}
        assert store.due("i", inf, 1) == [Due(1.0, "p", "k")]


@pytest.mark.parametrize("server", ["redis_server", "redis_cluster"])
def test_a_change_is_not_confirmed_when_too_few_replicas_have_it(request: pytest.FixtureRequest, server: str) -> None:
    with open_store(request.getfixturevalue(server), wait_replicas=1, wait_timeout=0.05) as store:
        writing: list[Callable[[], object]] = [
            lambda: made(store, "p", Put("a", b"1")),
            lambda: store.add_member("p", "g", "m", b"1"),
            lambda: store.take([Take("l", 1.0)]),
            lambda: store.hold([Hold("l", "me", LONG)]),
        ]
        for each in writing:
            with pytest.raises(StoreUnavailable, match=r"0 of 1 replicas had it within 0\.05 s"):
                each()
        assert len(store.scan("p")) == 3


# A slot of a cluster that moves.


class MovingSlot:
    """Moves the slot of the first shard from the node that has it to another one, key by key."""

    def __init__(self, cluster: RedisCluster) -> None:
        self.ports = cluster.ports
        self.slot = ask(self.ports[0], "CLUSTER KEYSLOT", "{00}")
        (self.source,) = (port for port in self.ports if ask(port, "CLUSTER COUNTKEYSINSLOT", self.slot))
        self.target = next(port for port in self.ports if port != self.source)

    def begin(self) -> None:
        for port, verb, other in (
            (self.target, "IMPORTING", self.source),
            (self.source, "MIGRATING", self.target),
        ):
            ask(port, "CLUSTER SETSLOT", self.slot, verb, ask(other, "CLUSTER MYID"))

    def move(self, *keys: str | bytes) -> None:
        for key in keys:
            ask(self.source, "MIGRATE", "127.0.0.1", self.target, key, 0, 5000)

    def end(self) -> None:
        count = ask(self.source, "CLUSTER COUNTKEYSINSLOT", self.slot)
        self.move(*ask(self.source, "CLUSTER GETKEYSINSLOT", self.slot, count))
        for port in (self.target, self.source, *self.ports):
            ask(port, "CLUSTER SETSLOT", self.slot, "NODE", ask(self.target, "CLUSTER MYID"))


def test_while_a_slot_moves_nothing_is_taken_for_absent_and_nothing_is_half_made(redis_cluster: RedisCluster) -> None:
    with open_store(redis_cluster, shards=1) as store:
        entries = [Due(1.0, "moved", "k"), Due(2.0, "not yet", "k")]
        for entry in entries:
            made(store, entry.part, Put("a", b"1"), Index("i", entry.key, entry.at))
        moving = MovingSlot(redis_cluster)
        moving.begin()
        try:
            moving.move(key_of(store, "moved"))
            for part in ("moved", "not yet"):
                assert store.commit([Change(part, (Absent("a"),), (Put("a", b"2"),), ("a",))]) == [
                    Changed(False, {"a": b"1"})
                ]
            assert made(store, "new", Put("a", b"1")).applied
            made(store, "not yet", Put("b", b"1"), Index("i", "k", 2.0))
            # The index is here and the partition there.
            between: list[Callable[[], object]] = [
                lambda: made(store, "moved", Put("b", b"1"), Index("i", "k", 3.0)),
                lambda: store.commit([Change(part, writes=(Put("b", b"1"),)) for part in ("not yet", "moved")]),
                lambda: store.due("i", inf, 10),
            ]
            for each in between:
                with pytest.raises(StoreUnavailable):
                    each()
        finally:
            moving.end()
        wait_until(lambda: store.due("i", inf, 10) == entries)
        assert (store.scan("moved"), store.get("new", "a")) == ([("a", b"1")], {"a": b"1"})
        made(store, "moved", Put("b", b"1"), Index("i", "k", 3.0))
        assert store.due("i", inf, 10) == [Due(2.0, "not yet", "k"), Due(3.0, "moved", "k")]


# Advice.


def test_advice_names_what_deletes_or_loses_records(durable_redis: RedisServer) -> None:
    with open_store(durable_redis) as store:
        assert list(store.advice()) == []
        ask(durable_redis.port, "CONFIG SET", "appendfsync", "everysec")
        assert "about a second" in " ".join(store.advice())
        ask(durable_redis.port, "CONFIG SET", "appendonly", "no")
        ask(durable_redis.port, "CONFIG SET", "maxmemory-policy", "volatile-ttl")
        eviction, persistence = store.advice()
        assert "maxmemory-policy is volatile-ttl" in eviction
        assert "set appendonly yes" in persistence


def test_advice_says_what_it_may_not_look_at(request: pytest.FixtureRequest) -> None:
    with open_store(request.getfixturevalue("redis_tls_server")) as store:
        assert all("CONFIG is not allowed" in each for each in store.advice())
