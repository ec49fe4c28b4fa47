"""Sending in the caller's own transaction: beside its rows, through drivers and SQLAlchemy, and what is refused."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from dray import Broker, BrokerError, BrokerUnavailable, Dray, Envelope, Url
from dray.transactions import driver_connection
from dray_brokers.postgres import PostgresBroker
from dray_brokers.sqlite import SqliteBroker
from tests.servers.postgres import PostgresServer


class Base(DeclarativeBase):
    pass


class Order(Base):
    """A row of the application's."""

    __tablename__ = "order"
    id: Mapped[int] = mapped_column(primary_key=True)


class Place:
    """A database that holds both the application's rows and the broker's messages."""

    def __init__(self, broker: Broker, engine: sqlalchemy.Engine, connect: Callable[[], Any]) -> None:
        self.broker, self.engine, self.connect = broker, engine, connect

    def orders(self) -> list[int]:
        with Session(self.engine) as session:
            return list(session.scalars(sqlalchemy.select(Order.id)))

    def sent(self, *ids: str) -> set[str]:
        return set(self.broker.find(ids))


def envelopes(*ids: str) -> list[Envelope]:
    return [Envelope(id=id, queue="q", body=b"body") for id in ids]


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[Place]:
    path = tmp_path / "shop.db"
    broker = SqliteBroker(Url.parse(f"sqlite:///{path}"))
    broker.open()
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    yield Place(broker, engine, lambda: sqlite3.connect(path))
    engine.dispose()
    broker.close()


@pytest.fixture
def on_postgres(postgres_server: PostgresServer) -> Iterator[Place]:
    schema = f"test_{secrets.token_hex(6)}"
    broker = PostgresBroker(Url.parse(f"{postgres_server.url}?schema={schema}"))
    broker.open()
    url = postgres_server.url.replace("postgresql://", "postgresql+psycopg://")
    engine = sqlalchemy.create_engine(url).execution_options(schema_translate_map={None: schema})
    Base.metadata.create_all(engine)
    yield Place(broker, engine, lambda: psycopg.connect(postgres_server.url))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(f"DROP SCHEMA {schema} CASCADE"))
    engine.dispose()
    broker.close()


@pytest.fixture(params=["on_sqlite", "on_postgres"])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(request.param)
    return found


def test_an_order_and_its_message_are_committed_together(place: Place) -> None:
    with Session(place.engine) as session:
        session.add(Order(id=1))
        place.broker.publish_within(driver_connection(session), envelopes("a"))
        session.commit()
    assert (place.orders(), place.sent("a")) == ([1], {"a"})


def test_an_order_and_its_message_are_rolled_back_together(place: Place) -> None:
    with pytest.raises(ZeroDivisionError), Session(place.engine) as session, session.begin():
        session.add(Order(id=1))
        session.flush()
        place.broker.publish_within(driver_connection(session), envelopes("a"))
        raise ZeroDivisionError
    assert (place.orders(), place.sent("a")) == ([], set())


def test_a_task_is_sent_with_the_session_that_stores_its_order(place: Place) -> None:
    app = Dray("shop", broker=place.broker.url.reveal(), backend="disabled", set_as_current=False, plugins=[])
    ran: list[int] = []

    @app.task
    def ship(order: int) -> None:
        ran.append(order)

    for end, order in (("rollback", 1), ("commit", 2)):
        with Session(place.engine) as session:
            session.add(Order(id=order))
            ship.apply_async((order,), connection=session)
            ship.delay_many([(order * 10,)], connection=session, countdown=0)
            getattr(session, end)()
    app.worker().run_until_idle()
    app.close()
    assert (place.orders(), sorted(ran)) == ([2], [2, 20])


def test_an_order_that_cannot_be_stored_sends_nothing(place: Place) -> None:
    with Session(place.engine) as session:
        session.add(Order(id=1))
        session.commit()
    with pytest.raises(sqlalchemy.exc.IntegrityError), Session(place.engine) as session:
        place.broker.publish_within(driver_connection(session), envelopes("a"))
        session.execute(sqlalchemy.insert(Order).values(id=1))
    assert place.sent("a") == set()


def test_a_connection_that_has_done_nothing_yet_commits_what_is_sent(place: Place) -> None:
    with place.engine.connect() as connection:
        place.broker.publish_within(driver_connection(connection), envelopes("a"))
        connection.commit()
    assert place.sent("a") == {"a"}


def test_a_savepoint_that_is_undone_takes_its_message_with_it(place: Place) -> None:
    with place.engine.begin() as connection:
        place.broker.publish_within(driver_connection(connection), envelopes("kept"))
        with pytest.raises(ZeroDivisionError), connection.begin_nested():
            place.broker.publish_within(driver_connection(connection), envelopes("undone"))
            raise ZeroDivisionError
    assert place.sent("kept", "undone") == {"kept"}


def test_the_connection_is_left_as_it_was(place: Place) -> None:
    with closing(place.connect()) as connection:
        connection.row_factory = refuse_rows
        place.broker.publish_within(connection, envelopes("a"))
        assert connection.row_factory is refuse_rows
        connection.commit()
    assert place.sent("a") == {"a"}


def refuse_rows(cursor: Any, row: Sequence[Any] = ()) -> Any:
    raise AssertionError("the rows of the caller's cursors are not ours to make")


def test_a_connection_without_a_transaction_to_take_part_in_is_refused(
    on_sqlite: Place, on_postgres: Place, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "shop.db", isolation_level=None)) as connection:
        with pytest.raises(BrokerError, match="autocommit mode and in no transaction"):
            on_sqlite.broker.publish_within(connection, envelopes("a"))
        connection.execute("BEGIN")
        on_sqlite.broker.publish_within(connection, envelopes("a"))
        connection.execute("COMMIT")
    with closing(on_postgres.connect()) as connection:
        connection.autocommit = True
        with pytest.raises(BrokerError, match="autocommit mode and in no transaction"):
            on_postgres.broker.publish_within(connection, envelopes("a"))
        with connection.transaction():
            on_postgres.broker.publish_within(connection, envelopes("a"))
    assert on_sqlite.sent("a") == on_postgres.sent("a") == {"a"}


def test_a_connection_to_another_database_is_refused(
    on_sqlite: Place, on_postgres: Place, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    for elsewhere, what in ((tmp_path / "other.db", "other.db"), (":memory:", "in memory")):
        with closing(sqlite3.connect(elsewhere)) as connection, pytest.raises(BrokerError, match=what):
            on_sqlite.broker.publish_within(connection, envelopes("a"))
    other = postgres_server.url.replace("/postgres", "/template1")
    with closing(psycopg.connect(other)) as connection, pytest.raises(BrokerError, match="'template1'"):
        on_postgres.broker.publish_within(connection, envelopes("a"))


def test_a_connection_of_another_driver_is_refused(on_sqlite: Place, on_postgres: Place) -> None:
    with closing(on_sqlite.connect()) as lite, closing(on_postgres.connect()) as post:
        with pytest.raises(BrokerError, match=r"sqlite3\.Connection.*psycopg"):
            on_sqlite.broker.publish_within(post, envelopes("a"))
        with pytest.raises(BrokerError, match=r"psycopg\.Connection.*got sqlite3\.Connection"):
            on_postgres.broker.publish_within(lite, envelopes("a"))


def test_a_connection_of_asyncio_is_refused(on_postgres: Place, postgres_server: PostgresServer) -> None:
    async def send() -> None:
        async with await psycopg.AsyncConnection.connect(postgres_server.url) as connection:
            on_postgres.broker.publish_within(connection, envelopes("a"))

    with pytest.raises(BrokerError, match=r"not asyncio.*AsyncConnection"):
        asyncio.run(send())


def test_a_connection_that_is_closed_is_refused(on_postgres: Place, on_sqlite: Place) -> None:
    for place in (on_postgres, on_sqlite):
        connection = place.connect()
        connection.close()
        with pytest.raises(BrokerError, match="closed"):
            place.broker.publish_within(connection, envelopes("a"))


def test_on_sqlite_a_batch_that_fails_leaves_nothing_and_the_callers_own_writes_stay(on_sqlite: Place) -> None:
    with closing(on_sqlite.connect()) as connection:
        connection.execute('INSERT INTO "order" VALUES (1)')
        broken = Envelope(id="b", queue=None, body=b"")  # type: ignore[arg-type]
        with pytest.raises(BrokerError):
            on_sqlite.broker.publish_within(connection, [*envelopes("a"), broken])
        connection.commit()
    assert (on_sqlite.orders(), on_sqlite.sent("a", "b")) == ([1], set())


def test_on_sqlite_somebody_elses_write_is_waited_for_and_then_it_is_said(on_sqlite: Place, tmp_path: Path) -> None:
    with closing(on_sqlite.connect()) as writer, closing(sqlite3.connect(tmp_path / "shop.db", timeout=0.01)) as mine:
        writer.execute('INSERT INTO "order" VALUES (1)')
        with pytest.raises(BrokerUnavailable, match="locked by another connection"):
            on_sqlite.broker.publish_within(mine, envelopes("a"))
        writer.commit()
        mine.rollback()
        on_sqlite.broker.publish_within(mine, envelopes("a"))
        mine.commit()
    assert on_sqlite.sent("a") == {"a"}
