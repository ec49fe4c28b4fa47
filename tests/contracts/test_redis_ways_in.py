"""Ways into Redis: by socket, by either protocol; and whoever is not let in is told why, in one sentence, in time."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from dray import BrokerError, BrokerUnavailable, Url
from dray.testing.background import HANGS, Background
from dray_brokers.redis import RedisBroker
from tests.contracts.redis_places import LONG, envelope, ids, open_broker, url_of
from tests.servers.redis import RedisCluster, RedisSentinel, RedisServer, RedisTlsServer


def test_a_socket_in_the_file_system_is_a_way_in(redis_server: RedisServer) -> None:
    if not hasattr(redis_server, "unix_url"):
        pytest.skip("the socket of a server that was given is not known")
    with open_broker(redis_server.unix_url) as broker:
        broker.publish([envelope("a")])
        assert ids(broker.consumer(["q"], LONG).receive(1, HANGS)) == ["a"]


def test_the_third_version_of_the_protocol_works_too(redis_server: RedisServer) -> None:
    with open_broker(redis_server, protocol=3) as broker:
        broker.publish([envelope("a", delay=0.05), envelope("b")])
        broker.cancel(["b"], LONG)
        consumer = broker.consumer(["q"], LONG)
        assert [(each.id, each.cancelled) for each in consumer.receive(1, HANGS)] == [("b", True)]
        assert ids(consumer.receive(1, HANGS)) == ["a"]
        assert list(consumer.receive(1, 0.05)) == []


def refusal(url: str | Url, kind: type[BrokerError] = BrokerError) -> str:
    """Return in which words opening is refused; a refusal that does not pass must not say that it might."""
    broker = RedisBroker(url if isinstance(url, Url) else Url.parse(url))
    with pytest.raises(BrokerError) as error:
        broker.open()
    broker.close()
    assert type(error.value) is kind
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_wrong_password_is_refused_in_words(redis_tls_server: RedisTlsServer) -> None:
    wrong = redis_tls_server.url.replace("s3cret", "secret")
    assert "refuses the user name or password" in refusal(wrong)


def test_a_password_that_is_missing_is_asked_for(redis_tls_server: RedisTlsServer) -> None:
    assert "wants a password" in refusal(redis_tls_server.url.replace("tasks:s3cret@", ""))


def test_a_password_too_many_is_named(redis_server: RedisServer) -> None:
    assert "has no password, and the URL has one" in refusal(f"redis://:secret@127.0.0.1:{redis_server.port}")


def test_a_missing_permission_is_named_and_what_would_do(redis_tls_server: RedisTlsServer) -> None:
    said = refusal(url_of(redis_tls_server, prefix="elsewhere"))
    assert "the user 'tasks' lacks a permission" in said
    assert "~elsewhere:* &elsewhere:* +@all -@admin -@dangerous" in said


def test_tls_where_there_is_none_is_named(redis_server: RedisServer) -> None:
    assert "speaks no TLS; write redis://" in refusal(f"rediss://127.0.0.1:{redis_server.port}?socket_timeout=1")


def test_no_tls_where_there_is_one_is_named(redis_tls_server: RedisTlsServer) -> None:
    assert "speaks TLS; write rediss://" in refusal(f"redis://localhost:{redis_tls_server.port}")


def test_a_certificate_that_is_not_trusted_is_named(redis_tls_server: RedisTlsServer) -> None:
    assert "ssl_ca_certs" in refusal(redis_tls_server.url.partition("?")[0])


def test_a_database_that_is_not_there_is_named(redis_server: RedisServer) -> None:
    assert "has no database of that number" in refusal(f"redis://127.0.0.1:{redis_server.port}/999")


def test_a_cluster_is_told_from_one_server(redis_server: RedisServer, redis_cluster: RedisCluster) -> None:
    assert "is not a cluster; write redis://" in refusal(f"redis+cluster://127.0.0.1:{redis_server.port}")
    said = {refusal_or_none(url_of(f"redis://127.0.0.1:{port}")) for port in redis_cluster.ports}
    assert any("is part of a cluster; write redis+cluster://" in (each or "") for each in said)


def refusal_or_none(url: Url) -> str | None:
    broker = RedisBroker(url)
    try:
        broker.open()
    except BrokerError as error:
        return str(error)
    finally:
        broker.close()
    return None


def test_a_service_that_no_sentinel_knows_may_come_yet(redis_sentinel: RedisSentinel) -> None:
    url = redis_sentinel.url.replace(f"/{redis_sentinel.master_name}/", "/unknown/")
    assert "No master found for 'unknown'" in refusal(url, BrokerUnavailable)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster", "redis+sentinel"])
def test_nobody_at_the_door_is_an_outage(scheme: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    path = "/service/0" if "sentinel" in scheme else ""
    assert f"127.0.0.1:{port}" in refusal(f"{scheme}://127.0.0.1:{port}{path}?connect_timeout=1", BrokerUnavailable)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster", "redis+sentinel"])
def test_a_server_that_never_answers_is_an_outage_within_bounds(scheme: str) -> None:
    # It takes connections, in the way of a machine that hangs, and says nothing.
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        path = "/service/0" if "sentinel" in scheme else ""
        url = f"{scheme}://{address}{path}?connect_timeout=0.3&socket_timeout=0.3"
        assert "imeout" in Background(lambda: refusal(url, BrokerUnavailable)).result()
