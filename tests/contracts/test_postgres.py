"""The PostgreSQL adapters against the contracts, each test in a schema of its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dray import Broker, ResultBackend, Url
from dray.testing import BrokerContract, ResultBackendContract
from dray_backends.postgres import PostgresBackend
from dray_brokers.postgres import PostgresBroker
from tests.servers.postgres import PostgresServer


@pytest.fixture
def own_url(postgres_server: PostgresServer) -> Iterator[Url]:
    """The URL of a schema that nobody else uses, and that is dropped afterwards."""
    schema = f"test_{secrets.token_hex(6)}"
    yield Url.parse(f"{postgres_server.url}?schema={schema}&application_name={schema}")
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')


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
        with self.caller_connection(broker) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = %s",
                [broker.url.options["application_name"]],
            )

    def caller_connection(self, broker: Broker) -> psycopg.Connection[Any]:
        assert isinstance(broker, PostgresBroker)
        url = broker.url
        return psycopg.connect(
            host=url.host, port=url.port, user=url.username, password=url.password, dbname=url.path.strip("/")
        )


class TestPostgresBroker(PostgresBrokerContract):
    pass


class TestPostgresBackend(ResultBackendContract):
    @pytest.fixture
    def backend(self, own_url: Url, tmp_path: Path) -> Iterator[ResultBackend]:
        backend = PostgresBackend(own_url)
        backend.open()
        yield backend
        backend.close()
