"""The servers as fixtures: one of each for the whole session, and durable ones for the test that kills them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TypeVar

import pytest

from .memcached import MemcachedServer
from .postgres import PostgresServer
from .process import end_everything
from .rabbitmq import RabbitMqServer
from .redis import RedisCluster, RedisSentinel, RedisServer, RedisTlsServer, ValkeyServer
from .server import Server, given_or_started
from .sqs import LiveSqs, MiniStackServer, MotoServer

S = TypeVar("S", bound=Server)


@pytest.fixture(scope="session", autouse=True)
def servers_end_with_the_session() -> Iterator[None]:
    yield
    end_everything()


def _for_the_session(kind: type[S]) -> Iterator[S]:
    with closing(given_or_started(kind)) as server:
        yield server


def _for_one_test(kind: type[S]) -> Iterator[S]:
    with closing(given_or_started(kind, durable=True)) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    yield from _for_the_session(RedisServer)


@pytest.fixture(scope="session")
def redis_tls_server() -> Iterator[RedisTlsServer]:
    yield from _for_the_session(RedisTlsServer)


@pytest.fixture(scope="session")
def redis_sentinel() -> Iterator[RedisSentinel]:
    yield from _for_the_session(RedisSentinel)


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    yield from _for_the_session(RedisCluster)


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    yield from _for_the_session(ValkeyServer)


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitMqServer]:
    yield from _for_the_session(RabbitMqServer)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    yield from _for_the_session(PostgresServer)


@pytest.fixture(scope="session")
def memcached_server() -> Iterator[MemcachedServer]:
    yield from _for_the_session(MemcachedServer)


@pytest.fixture(scope="session")
def moto_server() -> Iterator[MotoServer]:
    yield from _for_the_session(MotoServer)


@pytest.fixture(scope="session")
def ministack_server() -> Iterator[MiniStackServer]:
    yield from _for_the_session(MiniStackServer)


@pytest.fixture(scope="session")
def live_sqs() -> LiveSqs:
    return LiveSqs.given_or_skipped()


@pytest.fixture
def durable_redis() -> Iterator[RedisServer]:
    yield from _for_one_test(RedisServer)


@pytest.fixture
def durable_valkey() -> Iterator[ValkeyServer]:
    yield from _for_one_test(ValkeyServer)


@pytest.fixture
def durable_sentinel() -> Iterator[RedisSentinel]:
    yield from _for_one_test(RedisSentinel)


@pytest.fixture
def durable_rabbitmq() -> Iterator[RabbitMqServer]:
    yield from _for_one_test(RabbitMqServer)


@pytest.fixture
def durable_postgres() -> Iterator[PostgresServer]:
    yield from _for_one_test(PostgresServer)
