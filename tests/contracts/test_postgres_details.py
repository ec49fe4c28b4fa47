"""What the kit cannot know of PostgreSQL: locks, plans, notifications, rights, deaths and poolers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest

from dray import BackendError, BrokerError, BrokerUnavailable, Envelope, PublishError, Record, Url
from dray.testing.background import HANGS, Background
from dray.testing.faults import wait_until
from dray_backends import postgres as backend_module
from dray_backends.postgres import PostgresBackend
from dray_brokers import postgres, postgres_advice, postgres_statements
from dray_brokers.postgres import PostgresBroker, PostgresConsumer
from dray_brokers.postgres_connection import BY_INDEX, _Pool
from tests.contracts.postgres_places import PgBouncer, own_schema, url_of
from tests.servers.ports import free_port
from tests.servers.postgres import PostgresServer

MakeBroker = Callable[..., PostgresBroker]


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
def make(postgres_server: PostgresServer, schema: str) -> Iterator[MakeBroker]:
    """Return an open broker on the test's schema, with more options."""
    with ExitStack() as stack:

        def make(options: str = "", url: str = "") -> PostgresBroker:
            broker = PostgresBroker(url_of(url or postgres_server.url, schema, options))
            broker.open()
            stack.callback(broker.close)
            return broker

        yield make


def envelope(id: str, **fields: Any) -> Envelope:
    return Envelope(id=id, queue=fields.pop("queue", "q"), body=fields.pop("body", b"body"), **fields)


def ids(found: Sequence[Any]) -> list[str]:
    return [each.id for each in found]


@contextmanager
def counted(broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Give a list of the statements the broker runs meanwhile."""
    ran: list[str] = []
    rows = broker._server.rows

    def count(statement: str, parameters: Any, **how: Any) -> Any:
        ran.append(statement)
        return rows(statement, parameters, **how)

    with monkeypatch.context() as patch:
        patch.setattr(broker._server, "rows", count)
        yield ran


# Locks


def test_a_message_that_somebody_has_locked_is_passed_over(
    make: MakeBroker, schema: str, postgres_server: PostgresServer
) -> None:
    broker = make()
    broker.publish([envelope("first"), envelope("second")])
    consumer = broker.consumer(["q"], 30.0)
    with psycopg.connect(postgres_server.url) as other:
        other.execute(f"SELECT 1 FROM {schema}.message WHERE id = 'first' FOR UPDATE")
        assert ids(Background(lambda: consumer.receive(10, 5.0)).result()) == ["second"]
    assert ids(consumer.receive(10, 5.0)) == ["first"]
    consumer.close()


@pytest.mark.parametrize("delay", [0.0, 0.001], ids=["ready", "overdue"])
def test_waiting_for_a_locked_message_does_not_keep_the_server_busy(
    make: MakeBroker, schema: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch, delay: float
) -> None:
    broker = make()
    broker.publish([envelope("a", delay=delay)])
    wait_until(lambda: broker.sizes(["q"])["q"]["ready"] == 1)
    consumer = broker.consumer(["q"], 30.0)
    with psycopg.connect(postgres_server.url) as other, counted(broker, monkeypatch) as ran:
        other.execute(f"SELECT 1 FROM {schema}.message FOR UPDATE")
        assert list(consumer.receive(1, 0.3)) == []
        assert 2 <= len(ran) < 60
    consumer.close()


def test_a_statement_that_met_another_one_is_tried_again(make: MakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = make()
    mishaps: list[psycopg.Error] = [psycopg.errors.DeadlockDetected(), psycopg.errors.SerializationFailure()]
    run = broker._server._rows

    def unlucky(*arguments: Any) -> Any:
        if mishaps:
            raise mishaps.pop()
        return run(*arguments)

    monkeypatch.setattr(broker._server, "_rows", unlucky)
    broker.publish([envelope("a")])
    assert broker.find(["a"]) == {"a": "ready"}


# Plans


@pytest.mark.parametrize("statistics", ["none", "of an empty table", "of a table of leases"])
def test_the_head_of_a_long_line_is_read_from_the_index(
    make: MakeBroker, schema: str, sql: psycopg.Connection[Any], statistics: str
) -> None:
    broker = make()
    sql.execute(f"ALTER TABLE {schema}.message SET (autovacuum_enabled = off)")
    if statistics == "of an empty table":
        sql.execute(f"ANALYZE {schema}.message")
    elif statistics == "of a table of leases":
        broker.publish([envelope(f"lent{n}") for n in range(1000)])
        consumer = broker.consumer(["q"], 300.0)
        consumer.receive(1000, 5.0)
        sql.execute(f"ANALYZE {schema}.message")
    for start in range(0, 20_000, 1000):
        broker.publish([envelope(f"m{start + n}") for n in range(1000)])
        broker.publish([envelope(f"later{start + n}", delay=300.0) for n in range(1000)])

    fetch = {"queue": "q", "limit": 256, "token": 1, "lease": 30.0, "room": 1 << 20}
    for statement, parameters in ((postgres_statements.FETCH, fetch), (postgres_statements.LOOK, {"queues": ["q"]})):
        with sql.transaction(force_rollback=True):
            sql.execute(BY_INDEX)
            plan = sql.execute(f"EXPLAIN (ANALYZE, TIMING OFF) {broker._server.text(statement)}", parameters).fetchall()
        lines = [line for (line,) in plan]
        touched = [line for line in lines if " on message" in line and " Scan " in line and "(actual " in line]
        assert any("using message_ready" in line for line in touched)
        assert any("using message_due" in line for line in touched)
        # 256 were wanted; of the 40 000 that are there, no step has looked at many more.
        assert all(rows_of(line) <= 256 for line in touched), "\n".join(lines)


def test_an_ack_reads_no_more_of_a_long_line_than_it_settles(
    make: MakeBroker, schema: str, sql: psycopg.Connection[Any]
) -> None:
    broker = make()
    sql.execute(f"ALTER TABLE {schema}.message SET (autovacuum_enabled = off)")
    for start in range(0, 5_000, 1000):
        broker.publish([envelope(f"m{start + n}") for n in range(1000)])
    spots = "{" + ",".join(f'"(0,{n})"' for n in range(1, 500)) + "}"
    wanted = {"spots": spots, "count": 500, "token": 1, "due": 0, "file": 1}
    statement = broker._server.text(postgres_statements.ACK_UNMOVED)
    plan = "\n".join(line for (line,) in sql.execute(f"EXPLAIN {statement}", wanted))
    assert "Tid Scan on message" in plan, plan
    assert "Seq Scan" not in plan
    assert "message_due" not in plan


def test_one_fetch_brings_no_more_bytes_than_fit_into_memory_and_never_nothing(
    make: MakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = make()
    # One that is overdue, and an urgent one; all long enough to lie outside of their rows.
    broker.publish([envelope("late", body=b"x" * 100_000, delay=0.01)])
    broker.publish([envelope(id, body=b"x" * 100_000) for id in "abcd"])
    broker.publish([envelope("first", body=b"x" * 100_000, priority=9), envelope("p", queue="p")])
    wait_until(lambda: broker.sizes(["q"])["q"]["ready"] == 6)
    consumer = broker.consumer(["q", "p"], lease=5)
    monkeypatch.setattr(postgres, "FETCH_BYTES", 150_000)
    assert [ids(consumer.receive(10, 0)) for _ in range(3)] == [["first", "a"], ["b", "c"], ["d", "late"]]
    monkeypatch.setattr(postgres, "FETCH_BYTES", 1)
    broker.publish([envelope("e", body=b"x" * 100_000)])
    assert [ids(consumer.receive(10, 0)) for _ in range(3)] == [["e"], ["p"], []]


def rows_of(line: str) -> int:
    return int(line.partition("(actual rows=")[2].split()[0])


# Acks that go to where the fetch has put the row


def vacuum(sql: psycopg.Connection[Any], schema: str, how: str = "INDEX_CLEANUP ON") -> None:
    sql.execute(f"VACUUM ({how}) {schema}.message")


def spots(sql: psycopg.Connection[Any], schema: str) -> dict[str, str]:
    return dict(sql.execute(f"SELECT id, ctid::text FROM {schema}.message").fetchall())


def test_an_ack_hits_no_other_row_though_the_table_was_written_anew(
    make: MakeBroker, schema: str, sql: psycopg.Connection[Any]
) -> None:
    broker = make()
    sql.execute(f"ALTER TABLE {schema}.message SET (autovacuum_enabled = off)")
    broker.publish([envelope("a"), envelope("b")])
    consumer = broker.consumer(["q"], 300.0)
    a, b = consumer.receive(2, 5.0)
    put = spots(sql, schema)
    vacuum(sql, schema)
    broker.publish([envelope("c", queue="other")])
    vacuum(sql, schema, "FULL")
    assert spots(sql, schema)["b"] == put["a"]
    assert list(consumer.ack([a])) == []
    assert broker.find(["a", "b"]) == {"b": "leased"}
    assert list(consumer.ack([b, a])) == [a]
    consumer.close()


def test_an_ack_hits_no_other_row_though_renewals_have_moved_them(
    make: MakeBroker, schema: str, sql: psycopg.Connection[Any]
) -> None:
    broker = make()
    sql.execute(f"ALTER TABLE {schema}.message SET (autovacuum_enabled = off)")
    broker.publish([envelope("a"), envelope("b")])
    consumer = broker.consumer(["q"], 300.0)
    a, b = consumer.receive(2, 5.0)
    put = spots(sql, schema)
    vacuum(sql, schema)
    consumer.extend([a], 300.0)
    broker.publish([envelope("c", queue="other")])
    vacuum(sql, schema)
    consumer.extend([b], 300.0)
    assert spots(sql, schema)["b"] == put["a"]
    assert list(consumer.ack([a])) == []
    assert broker.find(["a", "b"]) == {"b": "leased"}
    assert list(consumer.ack([b])) == []
    consumer.close()


def test_of_many_acks_those_are_named_that_came_too_late(make: MakeBroker) -> None:
    broker = make()
    broker.publish([envelope(f"m{n}") for n in range(20)])
    consumer, other = broker.consumer(["q"], 0.05), broker.consumer(["q"], 300.0)
    lent = consumer.receive(20, 5.0)
    consumer.extend(lent[10:], 300.0)
    wait_until(lambda: broker.sizes(["q"])["q"]["ready"] == 10)
    assert len(other.receive(5, 5.0)) == 5
    assert sorted(ids(consumer.ack(lent))) == [f"m{n}" for n in range(10)]
    assert broker.sizes(["q"])["q"] == {"ready": 5, "delayed": 0, "leased": 5, "dead": 0}
    consumer.close()
    other.close()


# Notifications


def test_a_notification_ends_the_wait(make: MakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "LISTENING_PAUSE", HANGS * 2)
    broker, other = make(), make()
    consumer = listening(broker)
    waiting = Background(lambda: consumer.receive(1, HANGS / 2))
    other.publish([envelope("a")])
    assert ids(waiting.result()) == ["a"]
    consumer.close()


def test_an_idle_worker_asks_nothing_while_nobody_rings(make: MakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "LISTENING_PAUSE", HANGS * 2)
    broker = make()
    consumer = listening(broker)
    assert list(consumer.receive(1, 0.01)) == []
    with counted(broker, monkeypatch) as ran:
        for _ in range(20):
            assert list(consumer.receive(1, 0.001)) == []
    assert ran == []
    consumer.close()


def test_a_worker_that_hears_nothing_looks_by_itself(make: MakeBroker) -> None:
    broker, other = make("&listen=no"), make("&notify=no")
    consumer = broker.consumer(["q"], 30.0)
    waiting = Background(lambda: consumer.receive(1, HANGS / 2))
    other.publish([envelope("a")])
    assert ids(waiting.result()) == ["a"]
    consumer.close()


def test_the_connection_that_listens_is_made_anew_when_it_is_lost(
    make: MakeBroker, schema: str, sql: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "LISTENING_PAUSE", HANGS * 2)
    broker = make()
    consumer = listening(broker)
    ended = sql.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s AND query LIKE 'LISTEN%%'",
        [schema],
    ).fetchall()
    assert ended == [(True,)]
    waiting = Background(lambda: consumer.receive(1, HANGS / 2))
    wait_until(lambda: not consumer._watch.live)
    wait_until(lambda: consumer._watch.live)
    broker.publish([envelope("a")])
    assert ids(waiting.result()) == ["a"]
    consumer.close()


def test_a_result_ends_the_wait_for_it_by_notification(
    postgres_server: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "LISTENING_PAUSE", HANGS * 2)
    waiter, worker = (PostgresBackend(url_of(postgres_server.url, schema)) for _ in range(2))
    waiter.open()
    worker.open()
    waited = [f"awkward \n\t\"'\\ ключ 🛒 {n}" for n in range(100)]
    waiting = [Background(lambda id=id: waiter.wait([id], HANGS / 2)) for id in waited[::10]]
    wait_until(lambda: len(waiter._server.listener("result", list)._watches) == len(waiting))
    wait_until(lambda: waiter._server.listener("result", list).live)
    worker.store([Record(id=id, state="SUCCESS", final=True, body=b"") for id in waited], None)
    assert [set(each.result()) for each in waiting] == [{id} for id in waited[::10]]
    waiter.close()
    worker.close()


def listening(broker: PostgresBroker) -> PostgresConsumer:
    consumer = broker.consumer(["q"], 30.0)
    assert isinstance(consumer, PostgresConsumer)
    wait_until(lambda: consumer._watch.live)
    return consumer


# The schema

OPEN_AND_PUBLISH = """
import sys
from dray import Envelope, Url
from dray_backends.postgres import PostgresBackend
from dray_brokers.postgres import PostgresBroker
url = Url.parse(sys.argv[1])
broker, backend = PostgresBroker(url), PostgresBackend(url)
sys.stdin.readline()
backend.open()
broker.open()
broker.publish([Envelope(id=sys.argv[2], queue="q", body=b"")])
backend.close()
broker.close()
"""


def test_processes_that_start_together_make_the_schema_once(
    make: MakeBroker, postgres_server: PostgresServer, schema: str
) -> None:
    url = url_of(postgres_server.url, schema).reveal()
    starters = [
        subprocess.Popen([sys.executable, "-c", OPEN_AND_PUBLISH, url, f"m{n}"], stdin=subprocess.PIPE)
        for n in range(4)
    ]
    for starter in starters:
        assert starter.stdin is not None
        starter.stdin.write(b"\n")
        starter.stdin.close()
    assert [starter.wait(HANGS) for starter in starters] == [0, 0, 0, 0]
    assert make().find([f"m{n}" for n in range(5)]) == {f"m{n}": "ready" for n in range(4)}


def test_tables_of_a_newer_dray_are_refused_in_words(
    make: MakeBroker, schema: str, sql: psycopg.Connection[Any], postgres_server: PostgresServer
) -> None:
    make().close()
    backend = PostgresBackend(url_of(postgres_server.url, schema))
    backend.open()
    backend.close()
    sql.execute(f"UPDATE {schema}.version SET version = 99")
    with pytest.raises(BrokerError, match=r"newer dray: its broker tables have version 99.*upgrade dray") as refusal:
        make()
    assert not isinstance(refusal.value, BrokerUnavailable)
    with pytest.raises(BackendError, match="its backend tables have version 99"):
        backend.open()
    with pytest.raises(BrokerError, match="newer dray"):
        PostgresBroker(url_of(postgres_server.url, schema)).setup([])


def test_setup_says_what_it_has_made(postgres_server: PostgresServer, schema: str) -> None:
    url = url_of(postgres_server.url, schema, "&create=no")
    assert list(PostgresBroker(url).setup([])) == [
        f'created the schema "{schema}"',
        "created the tables of the broker, version 1",
    ]
    assert list(PostgresBroker(url).setup([])) == []
    assert list(PostgresBackend(url).setup()) == ["created the tables of the backend, version 1"]


def test_connections_to_one_schema_know_that_it_is_the_same(make: MakeBroker, postgres_server: PostgresServer) -> None:
    broker, other = make(), make(url=postgres_server.url.replace("127.0.0.1", "localhost"))
    assert broker.place == other.place != ""


def test_without_the_right_to_create_the_tables_have_to_be_there(
    make: MakeBroker, schema: str, sql: psycopg.Connection[Any], postgres_server: PostgresServer
) -> None:
    role, password = f"{schema}_worker", "w0rker"
    url = postgres_server.url.replace("dray:s3cret", f"{role}:{password}")
    sql.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
    try:
        with pytest.raises(BrokerError, match=r"create=no.*dray setup"):
            make("&create=no", url)
        with pytest.raises(BrokerError, match=r"right.*dray setup"):
            make(url=url)
        PostgresBroker(url_of(postgres_server.url, schema)).setup([])
        sql.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
        sql.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}")
        sql.execute(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role}")
        broker = make("&create=no", url)
        broker.publish([envelope("a"), envelope("b")])
        consumer = broker.consumer(["q"], 30.0)
        first, second = consumer.receive(2, 5.0)
        assert list(consumer.ack([first])) == []
        assert list(consumer.bury([second], "for the test")) == []
        assert broker.replay("q") == 1
        consumer.close()
        sql.execute(f"REVOKE INSERT ON {schema}.message FROM {role}")
        with pytest.raises(BrokerError, match="permission denied") as refusal:
            broker.publish([envelope("c")])
        assert not isinstance(refusal.value, BrokerUnavailable)
    finally:
        sql.execute(f"DROP OWNED BY {role}")
        sql.execute(f"DROP ROLE {role}")


def test_what_was_dropped_while_it_was_open_is_made_again(
    make: MakeBroker, schema: str, sql: psycopg.Connection[Any]
) -> None:
    broker = make()
    sql.execute(f"DROP SCHEMA {schema} CASCADE")
    with pytest.raises(BrokerUnavailable, match="has lost dray's"):
        broker.publish([envelope("a")])
    broker.open()
    broker.publish([envelope("a")])
    assert broker.find(["a"]) == {"a": "ready"}


def test_an_odd_name_of_a_schema_is_a_name_like_any_other(
    postgres_server: PostgresServer, sql: psycopg.Connection[Any]
) -> None:
    broker = PostgresBroker(Url.parse(f"{postgres_server.url}?schema=Odd%20%25s%20{{x}};%20DROP%20%D1%8B"))
    broker.open()
    try:
        broker.publish([envelope("a"), envelope("b")])
        consumer = broker.consumer(["q"], 30.0)
        first, second = consumer.receive(2, 5.0)
        consumer.requeue([first])
        consumer.bury([second], "for the test")
        assert broker.replay("q") == 1
        assert broker.queues() == ["q"]
        consumer.close()
    finally:
        broker.close()
        sql.execute('DROP SCHEMA "Odd %s {x}; DROP ы" CASCADE')


# Errors and deaths


def test_what_one_queue_has_lent_is_handed_over_though_the_next_cannot_be_reached(
    make: MakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = make()
    broker.publish([envelope("a", queue="first"), envelope("b", queue="second")])
    consumer = broker.consumer(["first", "second"], 30.0)
    rows = broker._server.rows

    def cut_off(statement: str, parameters: Any, **how: Any) -> Any:
        if parameters.get("queue") == "second":
            raise BrokerUnavailable("on purpose")
        return rows(statement, parameters, **how)

    with monkeypatch.context() as patch:
        patch.setattr(broker._server, "rows", cut_off)
        assert ids(consumer.receive(10, 5.0)) == ["a"]
        with pytest.raises(BrokerUnavailable):
            consumer.receive(10, 5.0)
    assert ids(consumer.receive(10, 5.0)) == ["b"]
    consumer.close()


def test_who_is_not_let_in_is_told_why(postgres_server: PostgresServer) -> None:
    wrong = {
        postgres_server.url.replace("s3cret", "wr0ng"): "user and password",
        postgres_server.url.replace("/postgres", "/nowhere"): "no such user or database",
        f"{postgres_server.url}?sslmode=require": "TLS",
    }
    for url, why in wrong.items():
        with pytest.raises(BrokerError, match=why) as refusal:
            PostgresBroker(Url.parse(url)).open()
        assert not isinstance(refusal.value, BrokerUnavailable)
        assert "wr0ng" not in str(refusal.value)


def test_a_server_that_is_away_is_unavailable() -> None:
    with pytest.raises(BrokerUnavailable, match="cannot be reached"):
        PostgresBroker(Url.parse(f"postgresql://dray@127.0.0.1:{free_port()}/dray")).open()


def test_one_of_several_hosts_is_enough(make: MakeBroker, postgres_server: PostgresServer) -> None:
    broker = make(url=postgres_server.url.replace("@", f"@127.0.0.1:{free_port()},"))
    broker.publish([envelope("a")])
    assert broker.find(["a"]) == {"a": "ready"}


def test_a_killed_server_is_unavailable_and_open_finds_what_it_had_confirmed(
    durable_postgres: PostgresServer,
) -> None:
    broker = PostgresBroker(Url.parse(durable_postgres.url))
    broker.open()
    broker.publish([envelope("lent"), envelope("waiting")])
    consumer = listening(broker)
    (lent,) = consumer.receive(1, 5.0)
    durable_postgres.kill()
    for call in (lambda: broker.publish([envelope("b")]), lambda: consumer.ack([lent]), lambda: broker.find(["a"])):
        with pytest.raises(BrokerUnavailable):
            call()
    with pytest.raises(BrokerUnavailable):
        broker.open()
    durable_postgres.start()
    broker.open()
    # The loan has outlived the server.
    assert broker.find(["lent", "waiting"]) == {"lent": "leased", "waiting": "ready"}
    consumer = listening(broker)
    assert ids(consumer.receive(2, 5.0)) == ["waiting"]
    assert list(consumer.ack([lent])) == []
    consumer.close()
    broker.close()


def test_when_all_connections_are_busy_one_is_waited_for_and_then_it_is_said(make: MakeBroker) -> None:
    broker = make("&pool=1&connect_timeout=1")
    with broker._server._lent(), pytest.raises(BrokerUnavailable, match=r"all 1 connections.*\?pool="):
        broker.find(["a"])
    assert broker.find(["a"]) == {}


def test_what_an_interrupt_leaves_half_made_goes_without_a_word() -> None:
    _Pool.__new__(_Pool).__del__()


def test_a_child_process_makes_its_own_connections(make: MakeBroker) -> None:
    broker = make()
    consumer = listening(broker)
    broker.publish([envelope("before")])
    child = os.fork()
    if child == 0:
        try:
            broker.publish([envelope("by the child")])
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    broker.publish([envelope("after")])
    assert sorted(ids(consumer.receive(10, 5.0))) == ["after", "before", "by the child"]
    consumer.close()


# Limits


def test_what_no_text_can_hold_is_refused_by_its_id(make: MakeBroker) -> None:
    broker = make()
    with pytest.raises(PublishError) as refusal:
        broker.publish(
            [
                envelope("good"),
                envelope("a\0b"),
                envelope("long", queue="q" * 2000),
                envelope("half a \ud83d character"),
            ]
        )
    reasons = refusal.value.rejected
    assert "NUL" in reasons["a\0b"]
    assert "longer than" in reasons["long"]
    assert "UTF-8" in reasons["half a \ud83d character"]
    assert broker.find(["good"]) == {"good": "ready"}
    with pytest.raises(BrokerError, match="UTF-8"):
        broker.find(["\ud83d"])


def test_a_reason_is_kept_as_far_as_text_can_hold_it(make: MakeBroker) -> None:
    broker = make()
    broker.publish([envelope("a")])
    consumer = broker.consumer(["q"], 30.0)
    consumer.bury(consumer.receive(1, 5.0), "a\0b \ud83d")
    assert [letter.reason for letter in broker.dead("q", 10)] == ["a\N{REPLACEMENT CHARACTER}b ?"]
    consumer.close()


def test_a_thousand_and_one_letters_are_replayed_purged_and_discarded(make: MakeBroker) -> None:
    broker = make()
    consumer = broker.consumer(["q"], 30.0)
    many = postgres_statements.SLICE + 1
    broker.publish([envelope(f"m{n}") for n in range(many)])
    for _ in range(2):
        consumer.bury([*consumer.receive(1000, 5.0)], "for the test")
    assert broker.replay("q") == many
    assert broker.purge("q") == many
    broker.publish([envelope(f"m{n}") for n in range(many)])
    for _ in range(2):
        consumer.bury([*consumer.receive(1000, 5.0)], "for the test")
    assert broker.discard("q") == many
    consumer.close()


def test_of_two_letters_of_one_name_one_goes_back(make: MakeBroker) -> None:
    broker = make()
    consumer = broker.consumer(["q"], 30.0)
    for reason in ("first", "second"):
        broker.publish([envelope("a", body=reason.encode())])
        consumer.bury(consumer.receive(1, 5.0), reason)
    assert broker.replay("q") == 1
    assert [letter.reason for letter in broker.dead("q", 10)] == ["second"]
    assert [each.body for each in consumer.receive(10, 5.0)] == [b"first"]
    consumer.close()


# For people


def test_the_doctor_hears_of_settings_that_lose_messages(make: MakeBroker, sql: psycopg.Connection[Any]) -> None:
    settings = dict(sql.execute(postgres_advice.SETTINGS).fetchall())
    said = " ".join(make().advice(["q"]))
    assert ("fsync is off" in said) == (settings["fsync"] == "off")
    assert ("synchronous_commit is off" in said) == (settings["synchronous_commit"] == "off")
    assert "notifications" not in said


def test_the_doctor_hears_of_notifications_that_do_not_arrive(
    make: MakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = make()
    monkeypatch.setattr(postgres, "LISTENING_PAUSE", 0.01)
    monkeypatch.setattr(broker, "ring", lambda queues: None)
    assert any("notifications do not arrive" in sentence for sentence in broker.advice(["q"]))


# Poolers


@pytest.fixture
def pgbouncer(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    pooler = PgBouncer(postgres_server)
    yield pooler
    pooler.close()


def test_behind_a_pooler_everything_but_listening_works(
    make: MakeBroker, pgbouncer: PgBouncer, postgres_server: PostgresServer
) -> None:
    broker = make("&prepare=no&listen=no", pgbouncer.url)
    consumers = [broker.consumer(["q"], 30.0) for _ in range(4)]

    def work(consumer: PostgresConsumer) -> list[str]:
        done: list[str] = []
        while batch := consumer.receive(10, 1.0):
            done += ids(batch)
            consumer.extend(batch, 60.0)
            consumer.ack(batch)
        return done

    workers = [Background(lambda consumer=consumer: work(consumer)) for consumer in consumers]
    for start in range(0, 200, 10):
        broker.publish([envelope(f"m{start + n}") for n in range(10)])
    done = [id for worker in workers for id in worker.result()]
    assert sorted(done) == sorted(f"m{n}" for n in range(200))
    broker.cancel(["a"], 60.0)
    assert broker.cancelled(["a", "b"]) == {"a"}
    for consumer in consumers:
        consumer.close()
    # A worker that goes past the pooler is rung by senders who use it.
    direct = listening(make())
    waiting = Background(lambda: direct.receive(1, HANGS / 2))
    broker.publish([envelope("a")])
    assert ids(waiting.result()) == ["a"]
    direct.close()
