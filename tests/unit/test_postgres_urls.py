"""A postgresql:// URL says where the server is, which schema, and how to connect; what it cannot mean is refused."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from dray import BackendError, BrokerUnavailable, Url, UrlError
from dray_backends.postgres import PostgresBackend
from dray_brokers import postgres_connection, postgres_errors
from dray_brokers.postgres import PostgresBroker
from dray_brokers.postgres_schema import filled, quoted


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What psycopg was asked to connect with."""
    found: dict[str, Any] = {}

    def connect(**options: Any) -> None:
        found.clear()
        found.update(options)
        raise psycopg.OperationalError("there is no server in this test")

    monkeypatch.setattr(postgres_connection.psycopg, "connect", connect)
    return found


def asked_for(url: str, asked: dict[str, Any]) -> dict[str, Any]:
    with pytest.raises(BrokerUnavailable):
        PostgresBroker(Url.parse(url)).open()
    return asked


def test_a_url_in_full(asked: dict[str, Any]) -> None:
    found = asked_for("postgresql://user:p%40ss@db.example:6543/shop?sslmode=verify-full&connect_timeout=9", asked)
    wanted = {
        "host": "db.example",
        "port": "6543",
        "user": "user",
        "password": "p@ss",
        "dbname": "shop",
        "sslmode": "verify-full",
        "connect_timeout": 9,
        "application_name": "dray",
        "autocommit": True,
    }
    assert {name: found.get(name) for name in wanted} == wanted


def test_what_is_not_said_is_left_to_libpq(asked: dict[str, Any]) -> None:
    found = asked_for("postgres://", asked)
    assert not {"host", "port", "user", "password", "dbname", "sslmode"} & found.keys()


def test_several_hosts_are_tried_in_turn(asked: dict[str, Any]) -> None:
    found = asked_for("postgresql://one,two:6543,[::1]/shop?target_session_attrs=read-write", asked)
    assert (found["host"], found["port"]) == ("one,two,::1", "5432,6543,5432")
    assert found["target_session_attrs"] == "read-write"


@pytest.mark.parametrize("url", ["postgresql:///shop?host=/run/postgresql", "postgresql://%2Frun%2Fpostgresql/shop"])
def test_a_socket_is_named_by_its_folder(asked: dict[str, Any], url: str) -> None:
    assert asked_for(url, asked)["host"] == "/run/postgresql"


def test_statements_are_not_prepared_where_a_pooler_does_not_know_of_them(asked: dict[str, Any]) -> None:
    assert asked_for("postgresql://h/d", asked)["prepare_threshold"] == 5
    assert asked_for("postgresql://h/d?prepare=no", asked)["prepare_threshold"] is None


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("shcema=x", "did you mean 'schema'"),
        ("create=perhaps", "create"),
        ("pool=0", "pool"),
        ("connect_timeout=soon", "connect_timeout"),
        ("schema=", "schema is a name"),
        (f"schema={'x' * 49}", "schema is a name"),
        ("schema=it's", "without quotes"),
        ("schema=a%22b", "without quotes"),
        ("schema=a%5Cb", "without quotes"),
        ("schema=a%00b", "without quotes"),
        ("host=/run/postgresql", "names its host twice"),
    ],
)
def test_what_a_url_cannot_mean_is_refused_for_broker_and_backend(options: str, what: str) -> None:
    for kind in (PostgresBroker, PostgresBackend):
        with pytest.raises(UrlError, match=what):
            kind(Url.parse(f"postgresql://h/d?{options}"))


def test_a_schema_is_quoted_wherever_it_stands() -> None:
    assert quoted('od"d') == '"od""d"'
    assert filled("SELECT %(x)s FROM {schema}.t", quoted("50%")) == 'SELECT %(x)s FROM "50%%".t'


def test_before_open_and_after_close_it_is_unavailable() -> None:
    with pytest.raises(BrokerUnavailable, match=r"is not open; call open\(\) first"):
        PostgresBroker(Url.parse("postgresql://u:s3cret@h/d")).find(["a"])
    with pytest.raises(BackendError, match=r"u:\*\*\*@h") as refusal:
        PostgresBackend(Url.parse("postgresql://u:s3cret@h/d")).fetch(["a"])
    assert "s3cret" not in str(refusal.value)


def error(code: str) -> psycopg.Error:
    return psycopg.errors.lookup(code)("in the server's own words")


@pytest.mark.parametrize(
    "code", ["08006", "40001", "40P01", "53100", "53300", "55P03", "57014", "57P01", "57P02", "57P03", "58030", "25006"]
)
def test_what_passes_by_itself_is_tried_again(code: str) -> None:
    passing, text = postgres_errors.in_words(error(code))
    assert passing
    assert "in the server's own words" in text


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("28P01", "does not let this user in"),
        ("3D000", "no such database"),
        ("42501", "dray setup"),
        ("22021", "UTF8"),
        ("54000", "limit"),
        ("26000", "prepare=no"),
        ("42601", "refused"),
        ("XX000", "refused"),
    ],
)
def test_what_stays_is_said_and_not_tried_again(code: str, what: str) -> None:
    passing, text = postgres_errors.in_words(error(code))
    assert not passing
    assert what in text


def test_an_error_of_the_driver_itself_is_not_tried_again() -> None:
    assert postgres_errors.in_words(psycopg.ProgrammingError("wrong number of arguments"))[0] is False


def test_what_nobody_can_read_is_taken_for_a_server_that_is_away() -> None:
    passing, text = postgres_errors.in_words(psycopg.OperationalError("FATAL: das Datenbanksystem startet"))
    assert passing
    assert "das Datenbanksystem startet" in text


def test_setup_says_so_too_when_the_server_is_away(asked: dict[str, Any]) -> None:
    with pytest.raises(BrokerUnavailable, match="cannot be reached, or has gone away"):
        PostgresBroker(Url.parse("postgresql://h/d")).setup([])
    assert asked["host"] == "h"
