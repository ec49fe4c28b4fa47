"""What the kit cannot know of the PostgreSQL store: locks, plans, names, leftovers, rights, poolers and deaths."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from math import inf
from typing import Any

import psycopg
import pytest

from dray import (
    Absent,
    Add,
    Change,
    Delete,
    Due,
    Equals,
    Hold,
    Index,
    Present,
    Put,
    StoreError,
    StoreUnavailable,
    Take,
    Unindex,
)
from dray.testing.background import Background
from dray_backends import postgres_store
from dray_backends.postgres_store import PostgresStore
from dray_brokers import postgres_advice, postgres_connection
from tests.contracts.postgres_places import PgBouncer, own_schema, url_of
from tests.servers.postgres import PostgresServer

MakeStore = Callable[..., PostgresStore]
#: A time that no test outlives (seconds).
LONG = 300.0
#: Names of characters that take the most room and are hard to compress: one as long as there can be, and a longer one.
LONGER = "".join(map(chr, random.Random(1).sample(range(0x20000, 0x2A000), 1000)))
WIDE = LONGER[:250]


@pytest.fixture
def schema(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a schema that nobody else uses, dropped afterwards."""
    with own_schema(postgres_server) as name:
        yield name


@pytest.fixture
def sql(postgres_server: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    """Somebody else's connection to the same database."""
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def make(postgres_server: PostgresServer, schema: str) -> Iterator[MakeStore]:
    """Return an open store on the test's schema, with more options."""
    with ExitStack() as stack:

        def make(options: str = "", url: str = "") -> PostgresStore:
            store = PostgresStore(url_of(url or postgres_server.url, schema, options))
            store.open()
            stack.callback(store.close)
            return store

        yield make


def rows(sql: psycopg.Connection[Any], schema: str, *tables: str) -> int:
    """Return how many rows these tables of a store have together."""
    counts = (sql.execute(f"SELECT count(*) FROM {schema}.store_{table}").fetchone() for table in tables)
    return sum(count[0] for count in counts if count)


# Locks


def test_batches_that_touch_the_same_partitions_in_different_orders_do_not_wait_in_a_circle(
    make: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With one try, a deadlock would be an error.
    monkeypatch.setattr(postgres_connection, "TRIES", 1)
    parts, batches, size = 30, 20, 20

    def write(store: PostgresStore, seed: int) -> None:
        order = random.Random(seed)
        for _ in range(batches):
            chosen = order.sample(range(parts), size)
            store.commit([Change(f"p{n}", writes=(Add("n"), Index("i", "k", float(n)))) for n in chosen])
            store.take([Take(f"p{n}", every=1.0, ahead=inf) for n in reversed(chosen)])
            store.hold([Hold(f"p{n}", f"h{seed}", LONG, most=9) for n in chosen])
            store.let_go([Hold(f"p{n}", f"h{seed}", LONG) for n in reversed(chosen)])

    writing = [Background(partial(write, make(), seed)) for seed in range(4)]
    for each in writing:
        each.result()
    counts = [int(make().get(f"p{n}", "n")["n"]) for n in range(parts)]
    assert sum(counts) == 4 * batches * size


def test_a_server_that_hides_what_others_did_meanwhile_loses_no_change(
    make: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", r"-c default_transaction_isolation=repeatable\ read")
    monkeypatch.setattr(postgres_connection, "TRIES", 1000)
    stores, members = [make() for _ in range(4)], 25
    assert any("read committed" in sentence for sentence in stores[0].advice())

    def add(store: PostgresStore, who: int) -> list[int]:
        return [store.add_member("p", "g", f"{who}/{n}", b"")[1] for n in range(members)]

    adding = [Background(partial(add, store, who)) for who, store in enumerate(stores)]
    assert sorted(n for each in adding for n in each.result()) == list(range(1, 4 * members + 1))


def test_reading_waits_for_nobody(make: MakeStore, schema: str, postgres_server: PostgresServer) -> None:
    store = make()
    store.commit([Change("p", writes=(Put("a", b"1"), Index("i", "k", 1.0)))])
    with psycopg.connect(postgres_server.url) as other:
        one_put = "'{p}', '{NULL}', '{1}', '{put}', '{NULL}', '{a}', '{2}'"
        other.execute(f"SELECT {schema}.store_commit({one_put})")
        assert Background(lambda: store.get("p", "a")).result() == {"a": b"1"}
        assert Background(lambda: store.scan("p")).result() == [("a", b"1")]
        assert Background(lambda: store.due("i", inf, 10)).result() == [Due(1.0, "p", "k")]
    assert store.get("p", "a") == {"a": b"2"}


def test_a_deadlock_with_somebody_else_is_tried_again(make: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make()
    mishaps: list[psycopg.Error] = [psycopg.errors.DeadlockDetected(), psycopg.errors.SerializationFailure()]
    run = store._server._rows

    def unlucky(*arguments: Any) -> Any:
        if mishaps:
            raise mishaps.pop()
        return run(*arguments)

    monkeypatch.setattr(store._server, "_rows", unlucky)
    assert store.add_member("p", "g", "a", b"") == (True, 1)


# Plans


def test_keys_and_entries_are_found_by_index_whatever_the_statistics_say(
    make: MakeStore, schema: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make()
    filling = make()
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        for table in ("part", "record", "entry", "place"):
            connection.execute(f"ALTER TABLE {schema}.store_{table} SET (autovacuum_enabled = off)")
            connection.execute(f"ANALYZE {schema}.store_{table}")
        monkeypatch.setattr(
            store._server,
            "_rows",
            lambda text, parameters, by_index: connection.execute(text, parameters, binary=True).fetchall(),
        )
        # Plans are made while there is nothing yet that an index could be better for.
        call_everything(store)
        for start in range(0, 3000, 1000):
            numbers = range(start, start + 1000)
            filling.commit([Change(f"p{n}", writes=(Put("a", b""), Index("i", "k", 3.0))) for n in numbers])
        with connection.transaction():
            call_everything(store)
            scanned = connection.execute(
                "SELECT relname, seq_scan FROM pg_stat_xact_all_tables "
                "WHERE schemaname = %s AND relname LIKE 'store%%' AND seq_scan + idx_scan > 0",
                [schema],
            ).fetchall()
    assert sorted(scanned) == [("store_entry", 0), ("store_part", 0), ("store_place", 0), ("store_record", 0)]


def call_everything(store: PostgresStore) -> None:
    """Have a store run every statement it has."""
    writes = (Put("a", b""), Add("n"), Delete("b"), Index("i", "k", 1.0), Index("i", "k", 2.0), Unindex("j", "k"))
    (done,) = store.commit([Change("p", (Absent("b"),), writes, ("a",), LONG)])
    assert done.applied
    assert store.commit([Change("p", (Present("a"), Equals("a", b"")), (Put("a", b""),), ("a",))])[0].applied
    assert store.get("p", "a") == {"a": b""}
    assert store.scan("p", "a") == [("a", b"")]
    assert store.due("i", 2.0, 10) == [Due(2.0, "p", "k")]
    store.take([Take("l", 1.0)])
    store.hold([Hold("h", "me", LONG), Hold("h", "you", LONG)])
    store.let_go([Hold("h", "me", LONG)])
    store.purge()


# Names and values


def test_names_may_be_of_the_widest_characters(make: MakeStore) -> None:
    store = make()
    store.commit([Change(WIDE, writes=(Put(WIDE, b"1"), Index(WIDE, WIDE, 1.0), Index(WIDE[:-1] + "x", WIDE, 2.0)))])
    store.commit([Change(WIDE, (Present(WIDE),), (Index(WIDE, WIDE, 3.0),))])
    assert store.scan(WIDE, WIDE) == [(WIDE, b"1")]
    assert store.due(WIDE, inf, 10) == [Due(3.0, WIDE, WIDE)]
    assert store.due(WIDE[:-1] + "x", inf, 10) == [Due(2.0, WIDE, WIDE)]
    assert store.hold([Hold(WIDE, WIDE, LONG)]) == store.hold([Hold(WIDE, WIDE, LONG)]) == [1]


@pytest.mark.parametrize(
    ("name", "why"),
    [("a\0b", "NUL"), ("half a \ud83d character", "UTF-8"), (LONGER, "limit")],
    ids=["0", "half", "long"],
)
def test_what_no_name_can_be_is_refused_in_words(make: MakeStore, name: str, why: str) -> None:
    store = make()
    attempts: list[Callable[[], object]] = [
        lambda: store.commit([Change("p", writes=(Put("a", b"1"),)), Change("p", writes=(Put(name, b"1"),))]),
        lambda: store.commit([Change(name, writes=(Put("a", b"1"),))]),
        lambda: store.hold([Hold("p", name, LONG)]),
        lambda: store.take([Take(name, 1.0)]),
    ]
    for attempt in attempts:
        with pytest.raises(StoreError, match=why) as refusal:
            attempt()
        assert not isinstance(refusal.value, StoreUnavailable)
    assert store.scan("p") == []


def test_what_is_no_count_is_named_and_counts_have_64_bits(make: MakeStore) -> None:
    store = make()
    store.commit([Change("p", writes=(Put("odd", b"\xfftext"), Put("empty", b""), Put("most", b"%d" % (2**63 - 1))))])
    for key, why in (("odd", "adding to odd, which is no count"), ("empty", "no count"), ("most", "out of range")):
        with pytest.raises(StoreError, match=why) as refusal:
            store.commit([Change("p", writes=(Put("b", b"1"), Add(key)))])
        assert not isinstance(refusal.value, StoreUnavailable)
    with pytest.raises(StoreError, match="out of range"):
        store.commit([Change("p", writes=(Add("new", 2**63),))])
    assert store.get("p", "b", "new", "most") == {"most": b"%d" % (2**63 - 1)}


def test_a_batch_of_large_values_is_made_in_several_transactions(
    make: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_store, "COMMIT_BYTES", 1000)
    store = make()
    changes = [Change("p", writes=(Put(f"{n}", bytes(700)), Add("n")), reads=("n",)) for n in range(5)]
    assert [done.values["n"] for done in store.commit(changes)] == [b"1", b"2", b"3", b"4", b"5"]


# What is left behind


def test_what_is_empty_or_was_refused_leaves_nothing(
    make: MakeStore, schema: str, sql: psycopg.Connection[Any]
) -> None:
    store = make()
    store.commit([Change("a", writes=(Put("a", b"1"), Index("i", "k", 1.0)))])
    store.commit([Change("a", writes=(Delete("a"), Unindex("i", "k")))])
    store.commit([Change("b", (Present("a"),), (Put("b", b"1"),)), Change("c", writes=(Delete("a"),))])
    assert store.take([Take("d", every=1.0, burst=1, cost=2)]) == [1.0]
    assert store.hold([Hold("e", "me", LONG, most=0)]) == [0]
    store.let_go([Hold("f", "me", LONG)])
    store.commit([Change("g", writes=(Put("a", b"1"), Index("i", "k", 1.0)))])
    store.commit([Change("g", writes=(Delete("b"),), ttl=0.0), Change("g", reads=("a",))])
    assert rows(sql, schema, "part", "record", "entry", "place") == 0


def test_a_wish_that_was_refused_does_not_undo_the_next_one(make: MakeStore) -> None:
    store = make()
    waits = store.take([Take("l", every=60.0, cost=2), Take("l", every=60.0), Take("l", every=60.0)])
    assert waits == [60.0, 0.0, 60.0]
    assert store.take([Take("l", every=60.0)])[0] > 0


def test_forgotten_partitions_are_dropped_and_counted_those_in_use_are_passed_over(
    make: MakeStore, schema: str, sql: psycopg.Connection[Any], postgres_server: PostgresServer
) -> None:
    store = make()
    keys = postgres_store.SWEEP_RECORDS * 2 + 1
    store.commit([Change("large", writes=tuple(Put(f"{n}", b"") for n in range(keys)))])
    names = [*(f"p{n}" for n in range(postgres_store.SWEEP)), "large", "used", "kept"]
    store.commit([Change(name, writes=(Put("a", b""), Index("i", "k", 1.0)), ttl=LONG) for name in names])
    sql.execute(f"UPDATE {schema}.store_part SET expires = 1 WHERE part <> 'kept'")
    with psycopg.connect(postgres_server.url) as other:
        other.execute(f"SELECT FROM {schema}.store_part WHERE part = 'used' FOR UPDATE")
        assert store.purge() == postgres_store.SWEEP + 1
    assert store.due("i", inf, 10) == [Due(1.0, "kept", "k"), Due(1.0, "used", "k")]
    assert store.purge() == 1
    assert store.purge() == 0
    assert rows(sql, schema, "part", "record", "entry") == 3


def test_now_and_then_a_change_drops_what_is_forgotten(
    make: MakeStore, schema: str, sql: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_store, "SWEEP_EVERY", inf)
    store = make()
    store.commit([Change("old", writes=(Put("a", b""),))])
    sql.execute(f"UPDATE {schema}.store_part SET expires = 1")
    store.commit([Change("new", writes=(Put("a", b""),))])
    assert rows(sql, schema, "part") == 2
    make().commit([Change("new", writes=(Put("a", b""),))])
    assert rows(sql, schema, "part") == 1


def test_a_place_held_for_long_outlives_one_held_for_short(
    make: MakeStore, schema: str, sql: psycopg.Connection[Any]
) -> None:
    store = make()
    month = 30 * 86400.0
    store.hold([Hold("l", "long", month, most=2)])
    store.hold([Hold("l", "short", 1.0, most=2)])
    forgotten = sql.execute(f"SELECT expires FROM {schema}.store_part").fetchone()
    assert forgotten is not None
    assert store.now() + month < forgotten[0] < inf


# The schema


def test_setup_says_what_it_has_made(postgres_server: PostgresServer, schema: str) -> None:
    store = PostgresStore(url_of(postgres_server.url, schema, "&create=no"))
    with pytest.raises(StoreError, match=r"create=no.*dray setup"):
        store.open()
    assert list(store.setup()) == [f'created the schema "{schema}"', "created the tables of the store, version 1"]
    assert list(store.setup()) == []
    store.open()
    store.close()


def test_a_role_that_may_create_nothing_does_with_the_rights_of_the_tables(
    make: MakeStore, schema: str, sql: psycopg.Connection[Any], postgres_server: PostgresServer
) -> None:
    role = f"{schema}_worker"
    url = postgres_server.url.replace("dray:s3cret", f"{role}:w0rker")
    make()
    sql.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'w0rker'")
    try:
        sql.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
        sql.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}")
        store = make("&create=no", url)
        assert store.add_member("p", "g", "a", b"") == (True, 1)
        assert store.commit([Change("p", writes=(Delete("g/a"), Index("i", "k", 1.0)))])[0].applied
        assert (store.take([Take("l", 1.0)]), store.hold([Hold("h", "me", LONG)])) == ([0.0], [1])
        store.let_go([Hold("h", "me", LONG)])
        assert (store.scan("p"), store.due("i", inf, 10), store.purge()) == ([("g#", b"1")], [Due(1.0, "p", "k")], 0)
        sql.execute(f"REVOKE INSERT ON {schema}.store_record FROM {role}")
        with pytest.raises(StoreError, match="permission denied") as refusal:
            store.commit([Change("p", writes=(Put("a", b""),))])
        assert not isinstance(refusal.value, StoreUnavailable)
    finally:
        sql.execute(f"DROP OWNED BY {role}")
        sql.execute(f"DROP ROLE {role}")


def test_the_doctor_hears_of_settings_that_lose_changes(make: MakeStore, sql: psycopg.Connection[Any]) -> None:
    settings = dict(sql.execute(postgres_advice.SETTINGS).fetchall())
    said = " ".join(make().advice())
    assert ("fsync is off" in said) == (settings["fsync"] == "off")
    assert ("synchronous_commit is off" in said) == (settings["synchronous_commit"] == "off")


# Poolers and deaths


@pytest.fixture
def pgbouncer(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    pooler = PgBouncer(postgres_server)
    yield pooler
    pooler.close()


def test_behind_a_pooler_it_works_as_ever(make: MakeStore, pgbouncer: PgBouncer) -> None:
    members, stores = 8, [make("&prepare=no&listen=no", pgbouncer.url) for _ in range(2)]
    start = threading.Barrier(members)

    def add(store: PostgresStore, member: int) -> list[int]:
        start.wait(20)
        return [store.add_member(f"p{n}", "g", f"{member}", b"")[1] for n in range(10)]

    adding = [Background(partial(add, stores[n % 2], n)) for n in range(members)]
    told = [each.result() for each in adding]
    assert [max(counts) for counts in zip(*told, strict=True)] == [members] * 10


def test_a_killed_server_is_unavailable_and_keeps_what_it_had_confirmed(durable_postgres: PostgresServer) -> None:
    store = PostgresStore(url_of(durable_postgres.url, "killed"))
    store.open()
    store.commit([Change("p", writes=(Put("a", b"kept"), Index("i", "k", 1.0)))])
    (token,) = store.hold([Hold("l", "me", LONG)])
    durable_postgres.kill()
    for call in (lambda: store.get("p", "a"), lambda: store.take([Take("l", 1.0)]), lambda: store.now()):
        with pytest.raises(StoreUnavailable):
            call()
    durable_postgres.start()
    store.open()
    assert store.get("p", "a") == {"a": b"kept"}
    assert store.due("i", inf, 10) == [Due(1.0, "p", "k")]
    assert store.hold([Hold("l", "me", LONG), Hold("l", "you", LONG)]) == [token, 0]
    store.close()
