"""A transaction is joined through whatever holds it: a driver's connection, a cursor, a session, a wrapper."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from dray import NotSupported
from dray.transactions import driver_connection


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/app.db")
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE note (text TEXT)"))
    yield engine
    engine.dispose()


def notes(engine: sqlalchemy.Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(sqlalchemy.text("SELECT text FROM note")).scalars())


def write(found: Any) -> None:
    """Write through what was found, as a broker does."""
    assert isinstance(found, sqlite3.Connection)
    found.execute("INSERT INTO note VALUES ('sent')")


def test_a_drivers_connection_is_taken_as_it_is() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        assert driver_connection(connection) is connection


def test_a_cursor_stands_for_its_connection() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        assert driver_connection(connection.cursor()) is connection


def test_what_nobody_knows_is_left_to_the_broker() -> None:
    stranger = object()
    assert driver_connection(stranger) is stranger


def test_what_is_written_through_a_connection_is_committed_with_it(engine: sqlalchemy.Engine) -> None:
    with engine.connect() as connection:
        write(driver_connection(connection))
        connection.commit()
    assert notes(engine) == ["sent"]


def test_what_is_written_through_a_connection_is_rolled_back_with_it(engine: sqlalchemy.Engine) -> None:
    with engine.connect() as connection:
        write(driver_connection(connection))
        connection.rollback()
    assert notes(engine) == []


def test_a_transaction_that_is_open_is_joined(engine: sqlalchemy.Engine) -> None:
    with pytest.raises(ZeroDivisionError), engine.begin() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO note VALUES ('by the caller')"))
        write(driver_connection(connection))
        raise ZeroDivisionError
    assert notes(engine) == []


def test_what_is_written_through_a_session_is_committed_with_it(engine: sqlalchemy.Engine) -> None:
    with Session(engine) as session:
        write(driver_connection(session))
        session.commit()
    assert notes(engine) == ["sent"]


def test_what_is_written_through_a_session_is_rolled_back_with_it(engine: sqlalchemy.Engine) -> None:
    with Session(engine) as session:
        write(driver_connection(session))
        session.rollback()
    assert notes(engine) == []


def test_a_session_of_the_thread_is_a_session(engine: sqlalchemy.Engine) -> None:
    session = scoped_session(sessionmaker(engine))
    write(driver_connection(session))
    session.commit()
    session.remove()
    assert notes(engine) == ["sent"]


def test_the_session_and_what_is_sent_share_one_transaction(engine: sqlalchemy.Engine) -> None:
    with Session(engine) as session:
        session.execute(sqlalchemy.text("INSERT INTO note VALUES ('by the caller')"))
        found = driver_connection(session)
        assert found.execute("SELECT text FROM note").fetchall() == [("by the caller",)]


def test_a_savepoint_that_is_undone_takes_what_was_sent_with_it(engine: sqlalchemy.Engine) -> None:
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO note VALUES ('by the caller')"))
        savepoint = connection.begin_nested()
        write(driver_connection(connection))
        savepoint.rollback()
        connection.commit()
    assert notes(engine) == ["by the caller"]


class DjangoWrapper:
    """As much of django.db's connection as is used: it connects when somebody needs it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.connection: sqlite3.Connection | None = None

    def ensure_connection(self) -> None:
        if self.connection is None:
            self.connection = sqlite3.connect(self._path)


def test_djangos_connection_connects_and_is_seen_through(tmp_path: Path) -> None:
    wrapper = DjangoWrapper(tmp_path / "app.db")
    found = driver_connection(wrapper)
    assert found is wrapper.connection
    found.close()


class AsyncDriverConnection:
    async def execute(self, statement: str) -> None: ...


class AsyncSession:
    """As much of SQLAlchemy's as is used: a synchronous session that stands on a driver which is not."""

    class sync_session:
        @staticmethod
        def connection() -> Any:
            return AsyncDriverConnection()


@pytest.mark.parametrize("held", [AsyncDriverConnection, AsyncSession])
def test_asyncio_connections_are_refused_in_words(held: type) -> None:
    with pytest.raises(NotSupported, match=r"asyncio driver .*AsyncDriverConnection.* synchronous connection"):
        driver_connection(held())
