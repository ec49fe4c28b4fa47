"""The PostgreSQL adapters against the contracts, each test in a schema of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dray import Broker, ResultBackend, Store, Url
from dray.testing import BrokerContract, ResultBackendContract, StoreContract
from dray_backends.postgres import PostgresBackend
from dray_backends.postgres_store import PostgresStore
from dray_brokers.postgres import PostgresBroker
from tests.contracts.postgres_places import own_schema, url_of
from tests.servers.postgres import PostgresServer


@pytest.fixture
def own_url(postgres_server: PostgresServer) -> Iterator[Url]:
    """The URL of a schema that nobody else uses, and that is dropped afterwards."""
    with own_schema(postgres_server) as schema:
        yield url_of(postgres_server.url, schema)


def connect(url: Url) -> psycopg.Connection[Any]:
    """Return a connection of somebody else's."""
    return psycopg.connect(
        host=url.host, port=url.port, user=url.username, password=url.password, dbname=url.path.strip("/")
    )


def end_connections(url: Url) -> None:
    """End the connections of an adapter from the server's side."""
    with connect(url) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = %s",
            [url.options["application_name"]],
        )


class PostgresBrokerContract(BrokerContract):
    lease = 0.3
    options = ""

    @pytest.fixture
    def broker(self, own_url: Url, tmp_path: Path) -> Iterator[Broker]:
        broker = PostgresBroker(Url.parse(own_url.reveal() + self.options))
        broker.open()
        yield broker
        broker.close()

    def cut(self, broker: Broker) -> None:
        end_connections(broker.url)

    def caller_connection(self, broker: Broker) -> psycopg.Connection[Any]:
        assert isinstance(broker, PostgresBroker)
        return connect(broker.url)


class TestPostgresBroker(PostgresBrokerContract):
    pass


class TestPostgresBackend(ResultBackendContract):
    @pytest.fixture
    def backend(self, own_url: Url, tmp_path: Path) -> Iterator[ResultBackend]:
        backend = PostgresBackend(own_url)
        backend.open()
        yield backend
        backend.close()


class TestPostgresStore(StoreContract):
    # Long enough for a call to a server on a busy machine.
    ttl = 1.0

    @pytest.fixture
    def store(self, own_url: Url, tmp_path: Path) -> Iterator[Store]:
        store = PostgresStore(own_url)
        store.open()
        yield store
        store.close()

    def second(self, store: Store) -> Store:
        # By another name, so that one of the two can be cut.
        other = PostgresStore(Url.parse(store.url.reveal().replace("application_name=", "application_name=other_")))
        other.open()
        return other

    def cut(self, store: Store) -> None:
        end_connections(store.url)
