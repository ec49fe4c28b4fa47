"""What holds for every test: nothing that is global to the process leaks from one test into the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dray import shared

from .servers.fixtures import (
    durable_postgres,
    durable_rabbitmq,
    durable_redis,
    durable_sentinel,
    durable_valkey,
    live_sqs,
    memcached_server,
    ministack_server,
    moto_server,
    postgres_server,
    rabbitmq_server,
    redis_cluster,
    redis_sentinel,
    redis_server,
    redis_tls_server,
    servers_end_with_the_session,
    valkey_server,
)

__all__ = [
    "durable_postgres",
    "durable_rabbitmq",
    "durable_redis",
    "durable_sentinel",
    "durable_valkey",
    "live_sqs",
    "memcached_server",
    "ministack_server",
    "moto_server",
    "postgres_server",
    "rabbitmq_server",
    "redis_cluster",
    "redis_sentinel",
    "redis_server",
    "redis_tls_server",
    "servers_end_with_the_session",
    "shared_tasks_stay_in_their_test",
    "valkey_server",
]


@pytest.fixture(autouse=True)
def shared_tasks_stay_in_their_test() -> Iterator[None]:
    """Forget the shared tasks that a test declared: every app of the process would have them."""
    before = list(shared.declared)
    yield
    shared.declared[:] = before
