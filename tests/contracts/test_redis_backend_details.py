"""The Redis result backend beyond the contract: how waits are told, what happens when they cannot be, and trouble."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest

from dray import BackendUnavailable, Dray, Record, ResultBackend
from dray.testing import wait_until
from dray.testing.background import HANGS, Background
from dray_backends import redis as redis_backend
from dray_backends.redis import RedisBackend
from tests.contracts.redis_places import LONG, open_backend, url_of
from tests.servers.redis import RedisServer, ask

#: The commands that `store` sends or its script runs.
STORING = ("evalsha", "eval", "set", "getrange", "publish")


@pytest.fixture
def backend(redis_server: RedisServer) -> Iterator[RedisBackend]:
    with open_backend(redis_server) as backend:
        yield backend


@pytest.fixture(params=["redis_server", "redis_tls_server", "redis_cluster"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[RedisBackend]:
    with open_backend(request.getfixturevalue(request.param)) as backend:
        yield backend


@pytest.fixture
def nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No look without news, within the time of a test."""

    def wait(self: ResultBackend, ids: object, timeout: float) -> dict[str, Record]:
        raise AssertionError("it looked again and again")

    monkeypatch.setattr(redis_backend, "LOOK", LONG)
    monkeypatch.setattr(ResultBackend, "wait", wait)


def record(id: str, *, final: bool = True, rank: int = 0) -> Record:
    return Record(id=id, state="SUCCESS" if final else "STARTED", final=final, body=b"value", rank=rank)


def prefix_of(backend: RedisBackend) -> str:
    return backend.url.options["prefix"]


def commands(server: RedisServer) -> Counter[str]:
    """Return how often each command has been run that storing is made of."""
    told = ask(server.port, "INFO", "commandstats")
    return Counter({name: told.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in STORING})


def channels_of(backend: RedisBackend, server: RedisServer) -> list[str]:
    """Return the channels of a backend that somebody listens to, without its prefix."""
    start = f"{prefix_of(backend)}:"
    found = ask(server.port, "PUBSUB", "CHANNELS", f"{start}*")
    return sorted(name.decode().removeprefix(start) for name in found)


@pytest.mark.usefixtures("nobody_looks")
def test_who_waits_is_told(anywhere: RedisBackend) -> None:
    waiting = Background(lambda: anywhere.wait(["a", "b"], HANGS))
    anywhere.store([record("b")], LONG)
    assert set(waiting.result()) == {"b"}


@pytest.mark.usefixtures("nobody_looks")
def test_who_waits_again_and_again_is_told_each_time(backend: RedisBackend) -> None:
    left = {f"r{n}" for n in range(20)}
    while left:
        waiting = Background(partial(backend.wait, sorted(left), HANGS))
        backend.store([record(min(left))], LONG)
        left -= {found.id for found in waiting.result().values() if found.final}


@pytest.mark.usefixtures("nobody_looks")
def test_one_may_wait_for_thousands(anywhere: RedisBackend) -> None:
    many = [f"r{n}" for n in range(5000)]
    waiting = [Background(lambda: anywhere.wait(many, HANGS)) for _ in range(2)]
    anywhere.store([record(many[-1])], LONG)
    assert [set(each.result()) for each in waiting] == [{many[-1]}] * 2


@pytest.mark.usefixtures("nobody_looks")
def test_a_record_that_was_refused_is_no_news(backend: RedisBackend) -> None:
    backend.store([record("a", rank=2)], LONG)
    with backend._news.of([backend._key("a")]) as news:
        backend.store([record("a", final=False), record("a", rank=1)], LONG)
        assert news.wait(0.05) == {}
        backend.store([record("a", rank=3)], LONG)
        assert list(news.wait(HANGS)) == [backend._key("a")]


def test_a_batch_is_one_call_and_nothing_is_read_of_what_is_new(
    backend: RedisBackend, redis_server: RedisServer
) -> None:
    before = commands(redis_server)
    backend.store([record(f"r{n}") for n in range(500)], LONG)
    assert commands(redis_server) - before == {"evalsha": 1, "set": 500, "publish": 500}
    before = commands(redis_server)
    backend.store([record("r1"), record("r2", final=False), record("new", final=False)], None)
    assert commands(redis_server) - before == {"evalsha": 1, "set": 4, "publish": 1, "getrange": 2}


def test_a_batch_is_cut_where_it_would_keep_the_server_too_long(
    backend: RedisBackend, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_backend, "STEP", 30)
    monkeypatch.setattr(redis_backend, "STEP_BYTES", 100)  # twenty bodies of five bytes
    many = {f"r{n}": record(f"r{n}") for n in range(50)}
    before = commands(redis_server)
    backend.store(list(many.values()), LONG)
    assert (commands(redis_server) - before)["evalsha"] == 3  # 20 and 10, and the last 20
    assert backend.fetch(list(many)) == many


def test_threads_that_wait_share_one_connection(redis_server: RedisServer) -> None:
    name = f"shop-{secrets.token_hex(4)}"
    with open_backend(redis_server, client_name=name) as backend:
        waiting = [Background(partial(backend.wait, [f"r{n}"], HANGS)) for n in range(8)]
        wait_until(lambda: len(channels_of(backend, redis_server)) == 8)
        listening = ask(redis_server.port, "CLIENT LIST", "TYPE", "pubsub")
        assert [each["name"] for each in listening if each["name"] == name] == [name]
        backend.store([record(f"r{n}") for n in range(8)], LONG)
        assert all(each.result() for each in waiting)


def test_channels_that_nobody_needs_any_more_are_left(backend: RedisBackend, redis_server: RedisServer) -> None:
    backend.wait([f"r{n}" for n in range(100)], 0.05)
    wait_until(lambda: channels_of(backend, redis_server) == [])


@pytest.mark.usefixtures("nobody_looks")
@pytest.mark.parametrize(("body", "fetches"), [(b"small", 2), (b"large" * 1000, 3)], ids=["small", "large"])
def test_news_bring_a_record_with_them_if_it_is_small(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch, body: bytes, fetches: int
) -> None:
    stored, fetch, fetched = Record(id="a", state="SUCCESS", final=True, body=body), backend.fetch, list[object]()
    monkeypatch.setattr(backend, "fetch", lambda ids: (found := fetch(ids), fetched.append(found))[0])
    waiting = Background(partial(backend.wait, ["a", "never"], HANGS))
    wait_until(lambda: len(fetched) == 2)
    backend.store([stored], LONG)
    assert waiting.result() == {"a": stored}
    assert len(fetched) == fetches


def test_a_server_that_says_nothing_any_more_is_asked_whether_it_is_there(redis_server: RedisServer) -> None:
    with open_backend(redis_server, health_check_interval=1) as backend:
        waiting = Background(lambda: backend.wait(["a"], HANGS))
        wait_until(lambda: channels_of(backend, redis_server))
        listener = backend._news._listener
        assert listener is not None
        before = listener._heard
        wait_until(lambda: listener._heard > before)
        backend.store([record("a")], LONG)
        assert set(waiting.result()) == {"a"}
        assert backend._news._listener is listener


def test_a_wait_goes_on_when_the_connection_that_brings_news_is_lost(backend: RedisBackend) -> None:
    waiting = Background(lambda: backend.wait(["a"], HANGS))
    wait_until(lambda: backend._news._listener is not None and backend._news._listener._bells)
    assert backend._news._listener is not None
    backend._news._listener._line.close()
    backend.store([record("a")], LONG)
    assert set(waiting.result()) == {"a"}


def test_who_may_not_listen_looks_again_and_again(redis_server: RedisServer) -> None:
    prefix = f"shop{secrets.token_hex(4)}"
    rights = ["on", ">pw", f"~{prefix}:*", "resetchannels", "+@all", "-@admin", "-@dangerous"]
    ask(redis_server.port, "ACL", "SETUSER", prefix, *rights)
    try:
        with open_backend(f"redis://{prefix}:pw@127.0.0.1:{redis_server.port}/0", prefix=prefix) as backend:
            waiting = Background(lambda: backend.wait(["a"], HANGS))
            backend.store([record("a")], LONG)
            assert set(waiting.result()) == {"a"}
            assert set(backend.wait(["a", "b"], 0.05)) == {"a"}
            assert backend.wait(["b"], 0.05) == {}
            assert backend._news.refused
    finally:
        ask(redis_server.port, "ACL", "DELUSER", prefix)


def test_a_wait_ends_with_the_server(durable_redis: RedisServer) -> None:
    with open_backend(durable_redis) as backend:
        backend.store([record("kept")], LONG)
        waiting = Background(lambda: backend.wait(["a"], HANGS))
        wait_until(lambda: channels_of(backend, durable_redis))
        durable_redis.kill()
        with pytest.raises(BackendUnavailable, match="cannot be reached"):
            waiting.result()
        with pytest.raises(BackendUnavailable):
            backend.open()
        durable_redis.start()
        backend.open()
        waiting = Background(lambda: backend.wait(["b"], HANGS))
        backend.store([record("b")], LONG)
        assert set(waiting.result()) == {"b"}
        assert set(backend.fetch(["kept"])) == {"kept"}


def test_a_wait_ends_when_the_backend_is_closed(backend: RedisBackend, redis_server: RedisServer) -> None:
    waiting = Background(lambda: backend.wait(["a"], HANGS))
    wait_until(lambda: channels_of(backend, redis_server))
    backend.close()
    with pytest.raises(BackendUnavailable):
        waiting.result()


def test_a_full_server_is_an_outage_for_results(durable_redis: RedisServer) -> None:
    with open_backend(durable_redis) as backend:
        ask(durable_redis.port, "CONFIG SET", "maxmemory", "1000")
        with pytest.raises(BackendUnavailable, match="is full"):
            backend.store([record("a")], LONG)
        ask(durable_redis.port, "CONFIG SET", "maxmemory", "0")
        backend.store([record("a")], LONG)
        assert set(backend.fetch(["a"])) == {"a"}


def test_advice_names_what_deletes_results(durable_redis: RedisServer) -> None:
    with open_backend(durable_redis) as backend:
        assert list(backend.advice()) == []
        ask(durable_redis.port, "CONFIG SET", "maxmemory-policy", "allkeys-lru")
        (advice,) = backend.advice()
        assert "allkeys-lru" in advice


@pytest.mark.parametrize("server", ["redis_server", "redis_tls_server", "redis_cluster"])
def test_an_app_on_nothing_but_redis_runs_its_tasks(request: pytest.FixtureRequest, server: str) -> None:
    app = Dray("shop", broker=url_of(request.getfixturevalue(server)).reveal())

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    with app.worker():
        results = [add.delay(n, n) for n in range(50)]
        assert [result.get(timeout=HANGS) for result in results] == [2 * n for n in range(50)]
        assert add.apply_async((1, 2), countdown=0.2, priority=9).get(timeout=HANGS) == 3
    app.close()
