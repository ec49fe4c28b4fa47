"""The Redis adapters against the contracts: alone, with TLS and narrow rights, by Sentinel, in a cluster; Valkey."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from dray import Broker, ResultBackend, Store, StoreUnavailable
from dray.testing import BrokerContract, ResultBackendContract, StoreContract
from dray_backends.redis_store import RedisStore
from dray_brokers.redis import RedisBroker
from tests.contracts.redis_places import open_backend, open_broker, open_store


class RedisBrokerContract(BrokerContract):
    #: The fixture of the server.
    server: str
    lease = 0.25

    @pytest.fixture
    def broker(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
        with open_broker(request.getfixturevalue(self.server)) as broker:
            yield broker

    def cut(self, broker: Broker) -> None:
        assert isinstance(broker, RedisBroker)
        broker._link.main.close()


class RedisBackendContract(ResultBackendContract):
    server: str
    ttl = 0.25

    @pytest.fixture
    def backend(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ResultBackend]:
        with open_backend(request.getfixturevalue(self.server)) as backend:
            yield backend


class RedisStoreContract(StoreContract):
    server: str
    options: Mapping[str, object] = {}
    ttl = 0.25

    @pytest.fixture
    def store(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
        with open_store(request.getfixturevalue(self.server), **self.options) as store:
            yield store

    def cut(self, store: Store) -> None:
        assert isinstance(store, RedisStore)
        with suppress(StoreUnavailable):  # while it is opened again
            store._link.main.close()


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


class TestRedisStore(RedisStoreContract):
    server = "redis_server"


class TestRedisInThreeShardsStore(RedisStoreContract):
    server = "redis_server"
    options = {"shards": 3}


class TestRedisWithTlsAndNarrowRightsStore(RedisStoreContract):
    server = "redis_tls_server"


class TestRedisSentinelStore(RedisStoreContract):
    server = "redis_sentinel"


class TestRedisClusterStore(RedisStoreContract):
    server = "redis_cluster"


class TestValkeyStore(RedisStoreContract):
    server = "valkey_server"
