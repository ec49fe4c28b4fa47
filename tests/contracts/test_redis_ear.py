"""How a worker waits on Redis: what an idle one asks for, which ring is whose, and who hears a stop."""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest
from redis import Redis

from dray import BrokerUnavailable, Consumer
from dray.testing import wait_until
from dray.testing.background import HANGS, Background
from dray_brokers import redis_consumer
from dray_brokers.redis import RedisBroker
from tests.contracts.redis_places import LONG, envelope, ids, open_broker
from tests.servers.redis import RedisServer, ask


@pytest.fixture(params=["redis_server", "redis_tls_server", "redis_cluster"])
def broker(request: pytest.FixtureRequest) -> Iterator[RedisBroker]:
    with open_broker(request.getfixturevalue(request.param)) as broker:
        yield broker


@pytest.fixture
def only_bells_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    """No look without a bell, within the time of a test."""
    monkeypatch.setattr(redis_consumer, "LOOK", LONG)


class Waiter:
    """A consumer that has found nothing, and waits in the server also while nobody calls it."""

    def __init__(self, broker: RedisBroker, *queues: str) -> None:
        self.consumer: Consumer = broker.consumer(queues or ["q"], LONG)
        assert list(self.consumer.receive(1, 0.05)) == []


pytestmark = pytest.mark.usefixtures("only_bells_wake")


def requests(server: RedisServer) -> Counter[str]:
    """Return how often the server has been asked for what receiving is made of."""
    told = ask(server.port, "INFO", "commandstats")
    return Counter({name: told.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "blpop")})


def test_an_idle_worker_asks_twice_for_each_look_however_often_it_is_called(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_broker(redis_server) as broker:
        # The connections are there, and so is the script.
        consumer = Waiter(broker, "q", "other").consumer
        before = requests(redis_server)
        for queues in (["q", "other"], ["other", "q"]) * 20:
            assert list(consumer.receive(10, 0.005, queues)) == []
        assert requests(redis_server) == before
        monkeypatch.setattr(redis_consumer, "LOOK", 0.1)
        looks, take = list[object](), consumer._take
        monkeypatch.setattr(consumer, "_take", lambda *rest: (looks.append(rest), take(*rest))[1])
        broker.publish([envelope("a")])
        consumer.ack(consumer.receive(1, HANGS))
        before = requests(redis_server)
        seen = len(looks)
        while len(looks) < seen + 5:
            assert list(consumer.receive(10, 0.005)) == []
        assert requests(redis_server) - before <= Counter(evalsha=5, blpop=6)


def test_a_worker_that_has_taken_all_does_not_look_whether_there_is_more(redis_server: RedisServer) -> None:
    with open_broker(redis_server) as broker:
        consumer = Waiter(broker).consumer
        broker.publish([envelope("a")])
        before = requests(redis_server)
        assert ids(consumer.receive(10, HANGS)) == ["a"]
        assert list(consumer.receive(10, 0.05)) == []
        assert requests(redis_server) - before == {"evalsha": 1, "blpop": 1}


def test_a_ring_that_one_receive_waited_for_is_heard_in_the_next(broker: RedisBroker) -> None:
    consumer = Waiter(broker).consumer
    broker.publish([envelope("a")])
    # Heard by what waits in the server: no ring is left for a question that is asked only now.
    wait_until(lambda: not broker._link.main.command("EXISTS", broker._queues.bell("q")))
    assert ids(consumer.receive(1, HANGS / 2)) == ["a"]


def test_a_ring_for_a_queue_that_is_not_asked_for_now_is_remembered(broker: RedisBroker) -> None:
    consumer = Waiter(broker, "q", "other").consumer
    broker.publish([envelope("a", "other")])
    wait_until(lambda: not broker._link.main.command("EXISTS", broker._queues.bell("other")))
    assert list(consumer.receive(1, 0.05, ["q"])) == []
    assert ids(consumer.receive(1, HANGS / 2, ["q", "other"])) == ["a"]


def test_who_takes_from_some_queues_only_leaves_no_question_behind(broker: RedisBroker) -> None:
    busy = broker.consumer(["q", "other"], LONG)
    assert list(busy.receive(1, 0.05, ["q"])) == []
    other = broker.consumer(["q"], LONG)
    waiting = Background(lambda: other.receive(1, HANGS / 2))
    broker.publish([envelope("a")])
    assert ids(waiting.result()) == ["a"]


def test_a_stop_wakes_a_worker_that_waits(broker: RedisBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = broker.consumer(["q"], LONG)
    listening, heard = threading.Event(), consumer._ear.heard
    monkeypatch.setattr(consumer._ear, "heard", lambda seconds: (listening.set(), heard(seconds))[1])
    waiting = Background(lambda: consumer.receive(1, LONG))
    assert listening.wait(HANGS)
    consumer.wake()
    assert list(waiting.result()) == []


def test_a_stop_between_two_receives_ends_the_next_one(broker: RedisBroker) -> None:
    consumer = Waiter(broker).consumer
    consumer.wake()
    assert list(Background(lambda: consumer.receive(1, LONG)).result()) == []


def test_a_worker_that_was_woken_takes_no_ring_from_another_and_can_go_on(broker: RedisBroker) -> None:
    woken, other = Waiter(broker).consumer, Waiter(broker).consumer
    woken.wake()
    assert list(woken.receive(1, LONG)) == []
    broker.publish([envelope("a")])
    # The first in line was the one that is gone.
    assert ids(other.receive(1, HANGS / 2)) == ["a"]
    waiting = Background(lambda: woken.receive(1, HANGS / 2))
    broker.publish([envelope("b")])
    assert ids(waiting.result()) == ["b"]


def test_a_worker_that_is_closed_takes_no_ring_from_another(broker: RedisBroker) -> None:
    closed, other = Waiter(broker).consumer, Waiter(broker).consumer
    closed.close()
    broker.publish([envelope("a")])
    assert ids(other.receive(1, HANGS / 2)) == ["a"]


def cut_ear(server: RedisServer, name: str) -> None:
    """Have the server hang up on the client of this name that has listened last."""
    with closing(Redis(port=server.port)) as admin:
        (ear,) = [each for each in admin.client_list() if each["name"] == name and each["cmd"] == "blpop"]
        admin.client_kill_filter(_id=ear["id"])


def test_a_connection_that_is_cut_while_it_waits_is_an_outage(redis_server: RedisServer) -> None:
    name = f"shop-{secrets.token_hex(4)}"
    with open_broker(redis_server, client_name=name) as broker:
        consumer = Waiter(broker).consumer
        cut_ear(redis_server, name)
        with pytest.raises(BrokerUnavailable):
            consumer.receive(1, HANGS)
        broker.publish([envelope("a")])
        assert ids(consumer.receive(1, 0)) == ["a"]


def test_a_connection_that_is_cut_while_it_is_not_needed_is_no_outage(redis_server: RedisServer) -> None:
    name = f"shop-{secrets.token_hex(4)}"
    with open_broker(redis_server, client_name=name) as broker:
        consumer = Waiter(broker).consumer
        broker.publish([envelope("a")])
        assert ids(consumer.receive(10, HANGS)) == ["a"]
        cut_ear(redis_server, name)
        waiting = Background(lambda: consumer.receive(1, HANGS / 2))
        broker.publish([envelope("b")])
        assert ids(waiting.result()) == ["b"]


def test_a_server_that_never_answers_who_waits_is_an_outage(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_consumer, "LOOK", 0.05)
    with open_broker(redis_server, socket_timeout=0.2) as broker:
        consumer = Waiter(broker).consumer
        # The answers do not get through, the connection seems to be there.
        monkeypatch.setattr(consumer._ear, "heard", lambda seconds: threading.Event().wait(seconds))
        with pytest.raises(BrokerUnavailable, match="no answer"):
            consumer.receive(1, HANGS)
