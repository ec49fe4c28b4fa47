"""The servers that tests run on: killed, they are gone; started again, they know what they knew."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from redis import ConnectionError as NotConnected
from redis import Redis

from dray.testing.faults import wait_until

from ..servers.memcached import MemcachedServer
from ..servers.ports import free_port
from ..servers.postgres import PostgresServer
from ..servers.process import replies
from ..servers.rabbitmq import RabbitMqServer
from ..servers.redis import RedisCluster, RedisSentinel, RedisServer, RedisTlsServer, ValkeyServer, ask
from ..servers.sqs import MiniStackServer, MotoServer

RUN_AND_DIE = """
import os, signal, sys
from tests.servers.choosing import choose
from tests.servers.{module} import {kind}
server = {kind}(choose({kind}.service, own=True))
print(server.port, server.folder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def answers(port: int) -> bool:
    try:
        return replies(port, b"PING\r\n", b"+PONG\r\n")
    except OSError:
        return False


@pytest.mark.parametrize("name", ["durable_redis", "durable_valkey"])
def test_a_durable_redis_has_what_it_confirmed_after_a_kill(name: str, request: pytest.FixtureRequest) -> None:
    server: RedisServer = request.getfixturevalue(name)
    with Redis.from_url(server.url) as client:
        client.set("kept", "yes")
        server.kill()
        with pytest.raises(NotConnected):
            client.get("kept")
        server.start()
        assert client.get("kept") == b"yes"


def test_a_durable_postgres_has_what_it_confirmed_after_a_kill(durable_postgres: PostgresServer) -> None:
    with psycopg.connect(durable_postgres.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
        durable_postgres.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    durable_postgres.start()
    with psycopg.connect(durable_postgres.url) as connection:
        assert connection.execute("SELECT n FROM kept").fetchall() == [(1,)]


def test_a_killed_rabbitmq_comes_back_on_its_port(durable_rabbitmq: RabbitMqServer) -> None:
    durable_rabbitmq.kill()
    with pytest.raises(ConnectionRefusedError):
        replies(durable_rabbitmq.port, b"AMQP\x00\x00\x09\x01", b"\x01\x00\x00")
    durable_rabbitmq.start()
    assert replies(durable_rabbitmq.port, b"AMQP\x00\x00\x09\x01", b"\x01\x00\x00")


def test_redis_with_tls_lets_its_user_do_little(redis_tls_server: RedisTlsServer) -> None:
    url = redis_tls_server.url
    with Redis.from_url(url) as client:
        assert client.set(f"{redis_tls_server.prefix}:a", "1", ex=60)
        for forbidden in (["SET", "a", "1"], ["KEYS", "*"], ["CONFIG", "GET", "*"], ["INFO"], ["FLUSHDB"]):
            with pytest.raises(Exception, match="(?i)no permissions"):
                client.execute_command(*forbidden)


def test_sentinel_replaces_a_killed_master_and_takes_it_back(durable_sentinel: RedisSentinel) -> None:
    dead = durable_sentinel.kill_master()
    new = durable_sentinel.wait_for_new_master(dead)
    assert new in {*durable_sentinel.ports} - {dead}
    durable_sentinel.start()
    assert ask(dead, "ROLE")[0] == b"slave"


def test_the_cluster_covers_all_slots(redis_cluster: RedisCluster) -> None:
    assert ask(redis_cluster.ports[2], "CLUSTER INFO")["cluster_slots_ok"] == "16384"


def test_the_others_answer_where_their_url_says(
    valkey_server: ValkeyServer,
    memcached_server: MemcachedServer,
    moto_server: MotoServer,
    ministack_server: MiniStackServer,
) -> None:
    assert "valkey" in ask(valkey_server.port, "INFO", "server")["server_name"]
    assert replies(memcached_server.port, b"version\r\n", b"VERSION")
    assert moto_server.url.endswith(f"endpoint=http://127.0.0.1:{moto_server.port}")
    assert ministack_server.url.endswith(f"endpoint=http://127.0.0.1:{ministack_server.port}")


@pytest.mark.parametrize(("module", "kind"), [("redis", "RedisServer"), ("postgres", "PostgresServer")])
def test_servers_do_not_outlive_a_killed_test_run(module: str, kind: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(f"{module}_server")
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_DIE.format(module=module, kind=kind)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    port, folder = done.stdout.split()
    wait_until(lambda: not os.path.exists(folder))
    assert not answers(int(port))


def test_ports_are_not_those_of_outgoing_connections() -> None:
    ports = {free_port() for _ in range(50)}
    assert len(ports) == 50
    assert max(ports) < 32_000
