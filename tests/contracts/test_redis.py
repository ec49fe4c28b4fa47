"""The Redis adapters against the contracts: alone, with TLS and narrow rights, by Sentinel, in a cluster; Valkey."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from dray import Broker, ResultBackend, Url
from dray.testing import BrokerContract, ResultBackendContract
from dray_backends.redis import RedisBackend
from dray_brokers.redis import RedisBroker
from tests.servers.redis import RedisTlsServer
from tests.servers.server import Server


def on_its_own(server: Server) -> Url:
    """Return the URL of a server with a prefix that nobody else uses, below the one that narrow rights allow."""
    mark = "&" if "?" in server.url else "?"
    return Url.parse(f"{server.url}{mark}prefix={RedisTlsServer.prefix}:{secrets.token_hex(6)}")


class RedisBrokerContract(BrokerContract):
    #: The fixture of the server.
    server: str
    lease = 0.25

    @pytest.fixture
    def broker(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
        broker = RedisBroker(on_its_own(request.getfixturevalue(self.server)))
        broker.open()
        yield broker
        broker.close()

    def cut(self, broker: Broker) -> None:
        assert isinstance(broker, RedisBroker)
        broker._link.main.close()


class RedisBackendContract(ResultBackendContract):
    server: str
    ttl = 0.25

    @pytest.fixture
    def backend(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ResultBackend]:
        backend = RedisBackend(on_its_own(request.getfixturevalue(self.server)))
        backend.open()
        yield backend
        backend.close()


class TestRedis(RedisBrokerContract):
    server = "redis_server"


class TestRedisWithTlsAndNarrowRights(RedisBrokerContract):
    server = "redis_tls_server"


class TestRedisSentinel(RedisBrokerContract):
    server = "redis_sentinel"


class TestRedisCluster(RedisBrokerContract):
    server = "redis_cluster"


class TestValkey(RedisBrokerContract):
    server = "valkey_server"


class TestRedisBackend(RedisBackendContract):
    server = "redis_server"


class TestRedisWithTlsAndNarrowRightsBackend(RedisBackendContract):
    server = "redis_tls_server"


class TestRedisSentinelBackend(RedisBackendContract):
    server = "redis_sentinel"


class TestRedisClusterBackend(RedisBackendContract):
    server = "redis_cluster"


class TestValkeyBackend(RedisBackendContract):
    server = "valkey_server"
