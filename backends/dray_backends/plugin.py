"""Contribute the built-in result backends and stores, by URL scheme, through the same hooks a third party uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dray import hookimpl

dray_api = (1, 0)
#: One adapter: alone, with TLS, by a socket, behind Sentinel, and in a cluster.
REDIS = (
    *("redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster", "unix"),
    *("valkey", "valkeys", "valkey+sentinel", "valkeys+sentinel", "valkey+cluster", "valkeys+cluster"),
)
#: Which extra of dray brings the driver, by scheme.
extras = {
    "cache+memcached": "memcached",
    "db+": "sqlalchemy",
    "dynamodb": "dynamodb",
    "mongodb": "mongodb",
    "mongodb+srv": "mongodb",
    "postgres": "postgres",
    "postgresql": "postgres",
    "s3": "s3",
}
extras |= dict.fromkeys(REDIS, "redis")
extras |= dict.fromkeys(("rpc", "amqp", "amqps"), "rabbitmq")


@hookimpl
def register_backends(register: Callable[[str, Any], None]) -> None:
    register("cache+memcached", "dray_backends.memcached:MemcachedBackend")
    register("db+", "dray_backends.sql:SqlBackend")
    register("file", "dray_backends.filesystem:FileBackend")
    register("memory", "dray_backends.memory:MemoryBackend")
    register("mongodb", "dray_backends.mongodb:MongoBackend")
    register("mongodb+srv", "dray_backends.mongodb:MongoBackend")
    register("null", "dray_backends.null:NullBackend")
    register("postgres", "dray_backends.postgres:PostgresBackend")
    register("postgresql", "dray_backends.postgres:PostgresBackend")
    register("s3", "dray_backends.s3:S3Backend")
    for scheme in ("rpc", "amqp", "amqps"):
        register(scheme, "dray_backends.rpc:RpcBackend")
    register("sqlite", "dray_backends.sqlite:SqliteBackend")
    for scheme in REDIS:
        register(scheme, "dray_backends.redis:RedisBackend")


@hookimpl
def register_stores(register: Callable[[str, Any], None]) -> None:
    register("dynamodb", "dray_backends.dynamodb_store:DynamoStore")
    register("memory", "dray_backends.memory_store:MemoryStore")
    register("postgres", "dray_backends.postgres_store:PostgresStore")
    register("postgresql", "dray_backends.postgres_store:PostgresStore")
    for scheme in REDIS:
        register(scheme, "dray_backends.redis_store:RedisStore")
    register("sqlite", "dray_backends.sqlite_store:SqliteStore")
