"""The SQLAlchemy backend against the contract: SQLite, PostgreSQL, MariaDB, and a database without an upsert."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from dray import BackendError, BackendUnavailable, Record, Url, UrlError
from dray.testing import ResultBackendContract
from dray_backends import sql
from dray_backends.sql import SqlBackend
from tests.servers.mariadb import MariaDbServer
from tests.servers.ports import free_port
from tests.servers.postgres import PostgresServer
from tests.servers.server import given_or_started


@pytest.fixture(scope="module")
def mariadb_server() -> Iterator[MariaDbServer]:
    with closing(given_or_started(MariaDbServer)) as server:
        yield server


class OnServer(ResultBackendContract):
    """Each test has a table of its own, which is dropped afterwards."""

    #: The fixture of the server.
    server: str

    @pytest.fixture
    def backend(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlBackend]:
        url = request.getfixturevalue(self.server).url.removeprefix("db+")
        backend = SqlBackend(Url.parse(f"db+{url}?table=test_{secrets.token_hex(6)}"))
        backend.open()
        yield backend
        backend.open()
        assert backend._engine is not None
        backend._table.drop(backend._engine)
        backend.close()


class TestSqlBackendOnSqlite(ResultBackendContract):
    def make_backend(self, tmp_path: Path) -> SqlBackend:
        return SqlBackend(Url.parse(f"db+sqlite:///{tmp_path}/results.db"))


class TestSqlBackendOnPostgres(OnServer):
    server = "postgres_server"


class TestSqlBackendOnMariaDb(OnServer):
    server = "mariadb_server"


class TestSqlBackendWithoutUpsert(OnServer):
    """What Oracle, SQL Server and others get: a row is locked, and then compared."""

    server = "postgres_server"

    @pytest.fixture(autouse=True)
    def _no_upsert(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sql, "_UPSERTS", {})


def result(id: str = "a") -> Record:
    return Record(id=id, state="SUCCESS", final=True, body=b"value")


def test_the_database_is_named_as_sqlalchemy_names_it() -> None:
    names = {
        "db+postgresql://u:p%40ss@h:1/d": "postgresql+psycopg://u:p%40ss@h:1/d",
        "db+postgres://h/d": "postgresql+psycopg://h/d",
        "db+mysql://h/d?charset=utf8mb4": "mysql+pymysql://h/d?charset=utf8mb4",
        "db+mariadb+pymysql://h/d?table=t&pool=2": "mariadb+pymysql://h/d",
        "db+sqlite:///below.db": "sqlite:///below.db",
        "db+sqlite:////var/lib/at.db": "sqlite:////var/lib/at.db",
    }
    for given, expected in names.items():
        target = SqlBackend(Url.parse(given))._target
        assert target.render_as_string(hide_password=False) == expected


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("db+nonsense://h/d", "no dialect 'nonsense'"),
        ("db+mysql+nonsense://h/d", "not its driver"),
        ("db+sqlite:///x.db?pool=none", "pool"),
        ("db+sqlite:///x.db?create=maybe", "create"),
    ],
)
def test_a_url_that_cannot_be_read_is_refused_in_words(url: str, what: str) -> None:
    with pytest.raises(UrlError, match=what):
        SqlBackend(Url.parse(url))


def test_an_option_that_the_driver_does_not_know_is_refused_in_words(
    tmp_path: Path, postgres_server: PostgresServer, mariadb_server: MariaDbServer
) -> None:
    urls = [f"db+sqlite:///{tmp_path}/r.db", f"db+{postgres_server.url}", mariadb_server.url]
    for url in urls:
        with pytest.raises((UrlError, BackendError), match="speed"):
            SqlBackend(Url.parse(f"{url}?speed=fast")).open()


def test_a_wrong_password_is_refused_in_words_and_not_shown(
    postgres_server: PostgresServer, mariadb_server: MariaDbServer
) -> None:
    for server in (postgres_server, mariadb_server):
        text = f"db+{server.url.removeprefix('db+')}".replace("s3cret", "wr0ng")
        with pytest.raises(BackendError) as refusal:
            SqlBackend(Url.parse(text)).open()
        assert not isinstance(refusal.value, BackendUnavailable)
        assert "wr0ng" not in str(refusal.value)


@pytest.mark.parametrize("scheme", ["db+postgresql", "db+mysql"])
def test_a_server_that_is_away_is_unavailable(scheme: str) -> None:
    with pytest.raises(BackendUnavailable, match=r"cannot be used now"):
        SqlBackend(Url.parse(f"{scheme}://u:p@127.0.0.1:{free_port()}/d")).open()


def test_without_the_right_to_create_the_table_has_to_be_there(tmp_path: Path) -> None:
    url = f"db+sqlite:///{tmp_path}/r.db"
    with pytest.raises(BackendError, match="dray setup"):
        SqlBackend(Url.parse(f"{url}?create=no")).open()
    assert SqlBackend(Url.parse(f"{url}?create=no")).setup() == ("created the table dray_result",)
    assert SqlBackend(Url.parse(f"{url}?create=no")).setup() == ()
    SqlBackend(Url.parse(f"{url}?create=no")).open()


def test_before_open_and_after_close_it_is_unavailable(tmp_path: Path) -> None:
    backend = SqlBackend(Url.parse(f"db+sqlite:///{tmp_path}/r.db"))
    with pytest.raises(BackendUnavailable, match="open"):
        backend.fetch(["a"])


def test_a_connection_that_the_server_has_ended_is_replaced_unseen(postgres_server: PostgresServer) -> None:
    table = f"test_{secrets.token_hex(6)}"
    backend = SqlBackend(Url.parse(f"db+{postgres_server.url}?table={table}&application_name={table}"))
    backend.open()
    try:
        backend.store([result()], None)
        with psycopg.connect(postgres_server.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = %s", [table]
            )
        assert set(backend.fetch(["a"])) == {"a"}
    finally:
        assert backend._engine is not None
        backend._table.drop(backend._engine)
        backend.close()


def test_on_mariadb_ids_are_told_apart_that_a_comparison_of_text_would_not(mariadb_server: MariaDbServer) -> None:
    backend = SqlBackend(Url.parse(f"{mariadb_server.url}?table=test_{secrets.token_hex(6)}"))
    backend.open()
    alike = ["a", "A", "ä", "a ", "á"]
    try:
        backend.store([Record(id=id, state="SUCCESS", final=True, body=id.encode()) for id in alike], None)
        assert {id: each.body for id, each in backend.fetch(alike).items()} == {id: id.encode() for id in alike}
    finally:
        assert backend._engine is not None
        backend._table.drop(backend._engine)
        backend.close()


def test_who_is_second_to_create_the_table_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = Url.parse(f"db+sqlite:///{tmp_path}/r.db")
    first, second = SqlBackend(url), SqlBackend(url)
    looks = iter([False, True])
    first.open()
    # What the second one sees is from before the first one was there.
    monkeypatch.setattr(sql, "_has_table", lambda connection, table: next(looks))
    monkeypatch.setattr(
        sqlalchemy.Table, "create", lambda table, bind, checkfirst: bind.execute(sqlalchemy.schema.CreateTable(table))
    )
    second.open()
    second.store([result()], None)
    assert set(first.fetch(["a"])) == {"a"}
    first.close()
    second.close()
