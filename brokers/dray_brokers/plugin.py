"""Contribute the built-in brokers, by URL scheme, through the same hook a third party uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dray import hookimpl

dray_api = (1, 0)
#: Which extra of dray brings the driver, by scheme.
extras = {"kombu+": "kombu", "postgres": "postgres", "postgresql": "postgres"}
#: One adapter: alone, with TLS, by a socket, behind Sentinel, and in a cluster.
REDIS = (
    *("redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster", "unix"),
    *("valkey", "valkeys", "valkey+sentinel", "valkeys+sentinel", "valkey+cluster", "valkeys+cluster"),
)
extras |= dict.fromkeys(REDIS, "redis")
extras |= {"amqp": "rabbitmq", "amqps": "rabbitmq", "sqs": "sqs"}


@hookimpl
def register_brokers(register: Callable[[str, Any], None]) -> None:
    register("kombu+", "dray_brokers.kombu:KombuBroker")
    register("memory", "dray_brokers.memory:MemoryBroker")
    register("postgres", "dray_brokers.postgres:PostgresBroker")
    register("postgresql", "dray_brokers.postgres:PostgresBroker")
    register("sqlite", "dray_brokers.sqlite:SqliteBroker")
    register("sqs", "dray_brokers.sqs:SqsBroker")
    for scheme in ("amqp", "amqps"):
        register(scheme, "dray_brokers.rabbitmq:RabbitBroker")
    for scheme in REDIS:
        register(scheme, "dray_brokers.redis:RedisBroker")
