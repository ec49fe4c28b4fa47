"""How commands get to Redis: over connections that are kept, a batch in portions; and what accidents leave behind."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from dray import BrokerUnavailable, Envelope, PublishError
from dray.testing import wait_until
from dray.testing.background import HANGS, Background
from dray_brokers import redis as redis_broker
from dray_brokers import redis_wires
from dray_brokers.redis import RedisBroker
from dray_brokers.redis_wires import Wire, Wires
from tests.contracts.redis_places import LONG, envelope, ids, open_broker
from tests.contracts.test_redis_details import Proxy, proxy
from tests.servers.redis import RedisServer, ask

__all__ = ["proxy"]

PORTION = 3
TEN = [envelope(f"{n}") for n in range(10)]


@pytest.fixture
def broker(redis_server: RedisServer) -> Iterator[RedisBroker]:
    with open_broker(redis_server) as broker:
        yield broker


@pytest.fixture
def wires(redis_server: RedisServer) -> Iterator[Wires]:
    with Redis(port=redis_server.port) as client:
        yield Wires(client)


@pytest.fixture
def before_portion(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """Make portions small; return what has something done when portion n is worked out."""
    monkeypatch.setattr(redis_broker, "PUBLISH", PORTION)
    to_publish = redis_broker.to_publish

    def have_done(n: int, what: Callable[[], object]) -> None:
        seen: list[Sequence[Envelope]] = []

        def watched(envelopes: Sequence[Envelope], now: float) -> list[bytes]:
            seen.append(envelopes)
            if len(seen) == n + 1:
                what()
            return to_publish(envelopes, now)

        monkeypatch.setattr(redis_broker, "to_publish", watched)

    return have_done


class Interrupt(BaseException):
    """As it comes from Ctrl-C, or from a time limit."""


def interrupt() -> None:
    raise Interrupt


def everything_in(broker: RedisBroker) -> list[str]:
    return ids(broker.consumer(["q"], LONG).receive(100, HANGS))


# Connections.


def test_one_thread_needs_one_connection(wires: Wires) -> None:
    assert len({wires.ask("CLIENT", "ID") for _ in range(5)}) == 1


def test_each_of_two_who_ask_at_once_has_a_connection_of_its_own(wires: Wires) -> None:
    with wires.take() as first, wires.take() as second:
        assert first is not second
    assert {wires.take(), wires.take()} == {first, second}


def test_a_refusal_leaves_the_connection_as_it_is(wires: Wires) -> None:
    before = wires.ask("CLIENT", "ID")
    with pytest.raises(ResponseError):
        wires.ask("EVALSHA", "nothing")
    assert wires.ask("CLIENT", "ID") == before


def test_a_connection_closed_by_the_server_is_replaced_unnoticed(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = secrets.token_hex(6)
    monkeypatch.setattr(redis_wires, "RESTED", 0.0)
    with open_broker(redis_server, client_name=name) as broker:
        broker.publish([envelope("a")])
        with Redis(port=redis_server.port) as admin:
            ours = [each["id"] for each in admin.client_list() if each["name"] == name]
            for id in ours:
                admin.client_kill_filter(_id=id)
        broker.publish([envelope("b")])
        assert ours
        assert everything_in(broker) == ["a", "b"]


def test_what_an_interrupted_call_has_asked_for_is_nobodys_answer(
    broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.publish([envelope("a")])
    with monkeypatch.context() as patch, pytest.raises(Interrupt):
        patch.setattr(Wire, "answer", lambda wire: interrupt())
        broker.sizes(["q"])
    assert broker.find(["a"]) == {"a": "ready"}


def test_a_process_that_was_forked_talks_on_connections_of_its_own(
    wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    parents, pid = wires.ask("CLIENT", "ID"), os.getpid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: pid + 1)
        assert wires.ask("CLIENT", "ID") != parents


def test_whoever_is_in_a_call_when_the_broker_is_closed_is_told(redis_server: RedisServer) -> None:
    name = secrets.token_hex(6)
    with open_broker(redis_server, client_name=name) as broker, Redis(port=redis_server.port) as admin:
        waiting = Background(lambda: broker._link.main.command("BLPOP", broker._queues.bell("nobody"), LONG))
        wait_until(lambda: any(each["name"] == name and each["cmd"] == "blpop" for each in admin.client_list()))
        broker.close()
        with pytest.raises(BrokerUnavailable):
            waiting.result()


# A batch in portions.


def test_portions_of_a_batch_come_out_in_its_order(
    broker: RedisBroker, before_portion: Callable[[int, Callable[[], object]], None]
) -> None:
    before_portion(0, lambda: None)
    broker.publish(TEN)
    assert everything_in(broker) == ids(TEN)


def test_a_script_that_is_forgotten_in_the_middle_keeps_the_order(
    broker: RedisBroker, redis_server: RedisServer, before_portion: Callable[[int, Callable[[], object]], None]
) -> None:
    broker.publish([envelope("first")])
    for n in range(4):
        before_portion(n, lambda: ask(redis_server.port, "SCRIPT FLUSH"))
        broker.publish([envelope(f"{n}-{each.id}") for each in TEN])
    expected = ["first", *(f"{n}-{each.id}" for n in range(4) for each in TEN)]
    assert everything_in(broker) == expected


def test_a_portion_that_is_refused_is_named_and_the_others_are_sent(
    broker: RedisBroker, redis_server: RedisServer, before_portion: Callable[[int, Callable[[], object]], None]
) -> None:
    before_portion(0, lambda: None)
    ask(redis_server.port, "SET", f"{broker._queues.base('q')}:ready:5", "not ours")
    with pytest.raises(PublishError, match="keys of that name that are not ours") as refusal:
        broker.publish([*TEN[:3], *(envelope(f"urgent {n}", priority=5) for n in range(3)), *TEN[3:]])
    assert sorted(refusal.value.rejected) == [f"urgent {n}" for n in range(3)]
    ask(redis_server.port, "DEL", f"{broker._queues.base('q')}:ready:5")
    assert everything_in(broker) == ids(TEN)


def test_after_an_outage_in_the_middle_the_batch_can_be_sent_again(
    proxy: Proxy, before_portion: Callable[[int, Callable[[], object]], None]
) -> None:
    with open_broker(f"redis://127.0.0.1:{proxy.port}/0") as broker:
        before_portion(2, proxy.swallow_next_reply)
        with pytest.raises(BrokerUnavailable):
            broker.publish(TEN)
        # The answer to the second portion was swallowed, or that to the third: nothing behind it was sent.
        assert broker.sizes(["q"])["q"]["ready"] in (2 * PORTION, 3 * PORTION)
        broker.publish(TEN)
        assert everything_in(broker) == ids(TEN)


def test_an_interrupt_in_the_middle_leaves_no_answer_to_somebody_else(
    broker: RedisBroker, before_portion: Callable[[int, Callable[[], object]], None]
) -> None:
    before_portion(1, interrupt)
    with pytest.raises(Interrupt):
        broker.publish(TEN)
    asked: list[Any] = [broker.find(["none"]) for _ in range(3)]
    assert asked == [{}] * 3
    broker.publish(TEN)
    assert everything_in(broker) == ids(TEN)
