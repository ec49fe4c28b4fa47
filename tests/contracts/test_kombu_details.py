"""What the kombu bridge does beside the contract: killed workers, servers that go, what Celery sends, and bad input."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import kombu as their
import pytest

from dray import Broker, BrokerError, BrokerUnavailable, Delivery, Envelope, PublishError, Url, UrlError
from dray.codec import DecodeError, unpack
from dray.testing.background import Background
from dray.testing.faults import wait_until
from dray_brokers.kombu import KombuBroker

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

#: A worker that holds what it gets until it is killed.
HOLDER = """
import sys, threading
from dray import Url
from dray_brokers.kombu import KombuBroker
broker = KombuBroker(Url.parse(sys.argv[1]))
broker.open()
consumer = broker.consumer(["q"], 30.0)
held = [*consumer.receive(1, 10.0), *consumer.receive(1, 10.0)]
print(len(held), flush=True)
threading.Event().wait()
"""


def open_at(text: str) -> KombuBroker:
    broker = KombuBroker(Url.parse(text))
    broker.open()
    return broker


def send(broker: Broker, *ids: str) -> None:
    broker.publish([Envelope(id=id, queue="q", body=id.encode()) for id in ids])


def take(broker: Broker, n: int, patience: float = 10.0) -> list[Delivery]:
    """Receive and ack `n` messages, or as many as come in time."""
    consumer = broker.consumer(["q"], 30.0)
    taken: list[Delivery] = []
    end = time.monotonic() + patience
    while len(taken) < n and time.monotonic() < end:
        taken += (came := consumer.receive(10, 0.2))
        consumer.ack(came)
    consumer.close()
    return taken


@pytest.fixture
def redis_url(redis_server: Any) -> str:
    return f"kombu+{redis_server.url}?transport.global_keyprefix={uuid4().hex}:"


@pytest.fixture
def amqp_url(rabbitmq_server: Any) -> str:
    return f"kombu+{rabbitmq_server.url}?prefix={uuid4().hex}."


@pytest.fixture
def memory() -> Iterator[KombuBroker]:
    broker = open_at(f"kombu+memory://?prefix={uuid4().hex}.")
    yield broker
    broker.close()


# Killed workers


def kill_a_holder(url: str) -> None:
    """Have a process receive two messages and kill it with -9."""
    broker = open_at(url)
    send(broker, "a", "b")
    broker.close()
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", HOLDER, url], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"2\n"
        holder.kill()


def test_amqp_redelivers_what_a_killed_worker_held(amqp_url: str) -> None:
    kill_a_holder(amqp_url)
    broker = open_at(amqp_url)
    assert broker.capabilities.redelivers
    assert sorted(each.id for each in take(broker, 2)) == ["a", "b"]
    broker.close()


def test_redis_redelivers_what_a_killed_worker_held_when_the_visibility_timeout_is_over(redis_url: str) -> None:
    url = f"{redis_url}&visibility_timeout=1"
    kill_a_holder(url)
    broker = open_at(url)
    assert (broker.capabilities.redelivers, broker.capabilities.lease_max) == (True, 1.0)
    assert sorted(each.id for each in take(broker, 2)) == ["a", "b"]
    broker.close()


@pytest.mark.parametrize("place", ["filesystem://{}/queues", "sqla+sqlite:///{}/queues.db"])
def test_transports_that_take_messages_away_lose_what_a_killed_worker_held_and_say_so(
    place: str, tmp_path: Path
) -> None:
    url = f"kombu+{place.format(tmp_path)}"
    kill_a_holder(url)
    broker = open_at(url)
    assert not broker.capabilities.redelivers
    assert any("is killed is lost" in advice for advice in broker.advice([]))
    assert take(broker, 1, patience=0.5) == []
    broker.close()


@pytest.mark.parametrize("place", ["filesystem://{}/queues", "sqla+sqlite:///{}/queues.db"])
def test_what_nobody_holds_outlives_every_process(place: str, tmp_path: Path) -> None:
    url = f"kombu+{place.format(tmp_path)}"
    code = HOLDER.split("consumer =", 1)[0] + "from dray import Envelope\nimport os, signal\n"
    code += "broker.publish([Envelope(id='a', queue='q', body=b'kept')])\nos.kill(os.getpid(), signal.SIGKILL)\n"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, url], timeout=60, check=False)
    broker = open_at(url)
    assert [each.body for each in take(broker, 1)] == [b"kept"]
    broker.close()


def test_no_reader_takes_a_file_that_is_not_written_yet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = f"kombu+filesystem://{tmp_path}/queues"
    sender, receiver = open_at(url), open_at(url)
    body = b"x" * 200_000

    def publish() -> None:
        for n in range(150):
            sender.publish([Envelope(id=str(n), queue="q", body=body)])

    publishing = Background(publish)
    taken = take(receiver, 150, patience=60)
    publishing.result()
    assert {each.id for each in taken} == {str(n) for n in range(150)}
    assert caplog.records == []
    sender.close()
    receiver.close()


# Servers that go and come


def outage(url: str, server: Any) -> None:
    """Kill the server under a consumer that holds a message, start it again, and lose nothing."""
    broker = open_at(url)
    send(broker, "held", "waiting")
    consumer = broker.consumer(["q"], 30.0)
    held = consumer.receive(1, 10.0)
    server.kill()
    with pytest.raises(BrokerUnavailable):
        send(broker, "lost")
    with pytest.raises(BrokerUnavailable):
        consumer.receive(1, 1.0)
    with pytest.raises(BrokerUnavailable):
        broker.open()
    server.start()
    broker.open()
    again = broker.consumer(["q"], 30.0)
    assert list(again.ack(held)) == held, "another connection's loan is over"
    again.close()
    assert sorted(each.id for each in take(broker, 2)) == ["held", "waiting"]
    broker.close()


def test_redis_may_die_and_come_back(durable_redis: Any) -> None:
    outage(f"kombu+{durable_redis.url}", durable_redis)


def test_rabbitmq_may_die_and_come_back(durable_rabbitmq: Any) -> None:
    outage(f"kombu+{durable_rabbitmq.url}", durable_rabbitmq)


@pytest.mark.parametrize("there", [False, True], ids=["missing", "made this moment"])
def test_what_is_put_into_a_new_queue_outlives_rabbitmq_because_the_queue_does(
    durable_rabbitmq: Any, there: bool
) -> None:
    """What is in its database's log is what `kill -9` leaves: that a queue was declared, and that this stands."""
    log = durable_rabbitmq.folder / "mnesia" / "dray@localhost" / "LATEST.LOG"
    broker, other = (open_at(f"kombu+{durable_rabbitmq.url}?prefix=ours.") for _ in range(2))
    found = 0
    for n in range(150):
        queue = f"q{n}"
        if there:
            # Not by `declare`, which would make sure of it.
            with other._link.using("declare") as channel:
                channel.queue_declare(queue=f"ours.{queue}", durable=True, auto_delete=False)
        broker.publish([Envelope(id=f"m{n}", queue=queue, body=b"b")])
        # From time to time the log is written into the tables, and begins anew.
        _, seen, later = log.read_bytes().rpartition(f"ours.{queue}".encode())
        found += bool(seen)
        assert not seen or b"committed" in later, f"that {queue} is there is not in the log yet"
    assert found > 100
    broker.close()
    other.close()


def test_who_may_make_queues_of_certain_names_only_on_rabbitmq_can_use_those(durable_rabbitmq: Any) -> None:
    server = urlsplit(durable_rabbitmq.management_url)
    connection = http.client.HTTPConnection(server.hostname or "", server.port, timeout=10)
    given = b64encode(f"{server.username}:{server.password}".encode()).decode()
    ours = r"^ours\.q"
    for path, body in (
        ("/api/users/narrow", {"password": "narrow", "tags": ""}),
        ("/api/permissions/%2F/narrow", {"configure": ours, "write": ours + "|^amq.default$", "read": ours}),
    ):
        connection.request("PUT", path, json.dumps(body), {"Authorization": f"Basic {given}"})
        answer = connection.getresponse()
        assert answer.status in (201, 204), answer.read()
        answer.read()
    connection.close()
    broker = open_at(f"kombu+amqp://narrow:narrow@127.0.0.1:{durable_rabbitmq.port}/?prefix=ours.")
    send(broker, "a")
    assert [each.id for each in take(broker, 1)] == ["a"]
    broker.close()


def test_heartbeats_keep_a_connection_alive_that_nobody_uses(amqp_url: str) -> None:
    others = set(threading.enumerate())
    broker = open_at(f"{amqp_url}&heartbeat=1")
    connection = broker._link._connection.connection
    consumer = broker.consumer(["q"], 30.0)
    send(broker, "a")
    held = consumer.receive(1, 10.0)
    sent = connection.bytes_sent
    # RabbitMQ hangs up after two heartbeats that did not come.
    wait_until(lambda: connection.bytes_sent >= sent + 5, timeout=30)
    assert list(consumer.ack(held)) == []
    send(broker, "b")
    assert broker._link._connection.connection is connection
    assert [each.id for each in take(broker, 1)] == ["b"]
    consumer.close()
    broker.close()
    wait_until(
        lambda: "dray-kombu-heart" not in {thread.name for thread in set(threading.enumerate()) - others}, timeout=10
    )


def test_a_worker_that_stops_gives_back_what_it_holds_though_it_was_the_last(redis_url: str) -> None:
    broker = open_at(redis_url)
    send(broker, "a")
    assert len(broker.consumer(["q"], 30.0).receive(1, 10.0)) == 1
    broker.close()
    broker.open()
    assert [each.id for each in take(broker, 1)] == ["a"]
    broker.close()


# Refusals


def test_a_full_queue_refuses_messages_by_their_ids(amqp_url: str) -> None:
    broker = open_at(amqp_url)
    name = broker.where.name_there("q")
    with their.Connection(Url.parse(amqp_url.removeprefix("kombu+").partition("?")[0]).reveal()) as connection:
        connection.default_channel.queue_declare(
            queue=name, durable=True, auto_delete=False, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
        )
    with pytest.raises(PublishError) as refusal:
        for wave in range(50):  # RabbitMQ checks the length a little late
            send(broker, f"a{wave}", f"b{wave}")
    assert all("the queue is full" in reason for reason in refusal.value.rejected.values())
    assert [each.id for each in take(broker, 1)] == ["a0"]
    broker.close()


def test_a_queue_with_other_arguments_is_used_as_it_is(amqp_url: str) -> None:
    broker = open_at(amqp_url)
    with their.Connection(Url.parse(amqp_url.removeprefix("kombu+").partition("?")[0]).reveal()) as connection:
        connection.default_channel.queue_declare(
            queue=broker.where.name_there("q"), durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"}
        )
    send(broker, "a")
    assert [each.id for each in take(broker, 1)] == ["a"]
    broker.close()


def test_looking_at_a_queue_does_not_create_it(amqp_url: str) -> None:
    broker = open_at(amqp_url)
    for _ in range(2):
        assert broker.sizes(["never"])["never"]["ready"] == 0
        assert broker.purge("never") == 0
    assert broker._link.count("never") is None
    broker.close()


# Celery


def call(producer: Any, queue: str) -> None:
    """Publish what Celery publishes for add.delay(2, 3)."""
    producer.publish(
        [[2, 3], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}],
        serializer="json",
        routing_key=queue,
        exchange="",
        headers={"lang": "py", "task": "t.add", "id": "c-1", "retries": 0},
        correlation_id="c-1",
        reply_to="replies",
    )


def test_a_message_of_celerys_is_told_from_ours_and_given_back_whole(memory: KombuBroker) -> None:
    with their.Connection("memory://") as connection:
        consumer = memory.consumer(["q"], 30.0)
        call(connection.Producer(), memory.where.name_there("q"))
        for _ in range(2):
            (delivery,) = consumer.receive(1, 10.0)
            assert delivery.id == "c-1"
            with pytest.raises(DecodeError, match="this is a Celery message"):
                unpack(delivery.body)
            assert b'"task": "t.add"' in delivery.body
            consumer.requeue([delivery])
        message = connection.default_channel.basic_get(memory.where.name_there("q"))
        assert message.decode()[0] == [2, 3]
        assert (message.headers["task"], message.properties["correlation_id"]) == ("t.add", "c-1")
        consumer.close()


@pytest.mark.parametrize(
    ("body", "kind", "told"),
    [
        ({"task": "t.add", "id": "c-1", "args": [2, 3], "kwargs": {}}, "json", "this is a Celery message"),
        ({"hello": 1}, "json", "not a dray message"),
    ],
    ids=["protocol 1", "anything"],
)
def test_other_messages_come_out_as_what_they_are(memory: KombuBroker, body: Any, kind: str, told: str) -> None:
    consumer = memory.consumer(["q"], 30.0)
    with their.Connection("memory://") as connection:
        connection.Producer().publish(body, serializer=kind, routing_key=memory.where.name_there("q"), exchange="")
        (delivery,) = consumer.receive(1, 10.0)
    with pytest.raises(DecodeError, match=told):
        unpack(delivery.body)
    consumer.close()


def test_what_kombu_cannot_read_is_logged_and_costs_nothing_else(
    redis_server: Any, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    import redis

    broker = open_at(redis_url)
    send(broker, "before")
    with redis.Redis.from_url(redis_server.url) as client:
        prefix = Url.parse(redis_url).options["transport.global_keyprefix"]
        client.lpush(f"{prefix}q", b"garbage", b"{}")
    send(broker, "after")
    with caplog.at_level(logging.ERROR):
        assert [each.id for each in take(broker, 2)] == ["before", "after"]
    assert [record.getMessage().startswith("kombu cannot read a message in q of") for record in caplog.records] == [
        True,
        True,
    ]
    broker.close()


# Bad input


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kombu+redos://localhost", "kombu has no transport 'redos'; it has SLMQ, "),
        ("kombu+redis://localhost?visibility_timeuot=3", "did you mean 'visibility_timeout'"),
        ("kombu+redis://localhost?visibility_timeuot=3", "written transport.NAME=..., those of its URL url.NAME=..."),
        ("kombu+memory://?visibility_timeout=3", "memory has no visibility_timeout"),
        ("kombu+filesystem://", "write kombu+filesystem:///path/to/folder"),
        ("kombu+filesystem://folder", "write kombu+filesystem:///path/to/folder"),
    ],
)
def test_a_url_that_cannot_be_read_is_an_error_in_words(text: str, said: str) -> None:
    with pytest.raises(UrlError) as caught:
        KombuBroker(Url.parse(text))
    assert said in str(caught.value)


def test_a_transport_without_its_driver_says_what_to_install() -> None:
    with pytest.raises(BrokerError, match=r"pip install 'kombu\[confluentkafka\]'"):
        open_at("kombu+kafka://localhost")


def test_a_wrong_password_is_no_outage_and_is_not_shown(rabbitmq_server: Any) -> None:
    url = Url.parse(rabbitmq_server.url)
    with pytest.raises(BrokerError) as caught:
        open_at(f"kombu+amqp://guest:hunter2@{url.host}:{url.port}//")
    assert not isinstance(caught.value, BrokerUnavailable)
    assert "hunter2" not in str(caught.value)


def test_a_vhost_that_is_missing_is_no_outage(rabbitmq_server: Any) -> None:
    url = Url.parse(rabbitmq_server.url)
    password = f"{url.username}:{url.password}@" if url.username else ""
    with pytest.raises(BrokerError, match="NOT_ALLOWED") as caught:
        open_at(f"kombu+amqp://{password}{url.host}:{url.port}/nowhere")
    assert not isinstance(caught.value, BrokerUnavailable)


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_server_that_does_not_answer_is_given_up_in_time(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        url = f"kombu+{scheme}://guest@{host}:{port}/0?connect_timeout=0.2&timeout=0.2"
        with pytest.raises(BrokerUnavailable, match=f"cannot connect to kombu[+]{scheme}://guest@"):
            Background(lambda: open_at(url)).result()


@pytest.mark.parametrize(("options", "seconds"), [("", 20.0), ("?timeout=7.5", 7.5)])
def test_sqlite_waits_for_others_that_write_for_as_long_as_a_request_may_take(
    tmp_path: Path, options: str, seconds: float
) -> None:
    broker = open_at(f"kombu+sqla+sqlite:///{tmp_path}/queues.db{options}")
    send(broker, "a")
    session = broker._link._channel.session
    assert session.connection().exec_driver_sql("PRAGMA busy_timeout").scalar() == seconds * 1000
    session.rollback()
    broker.close()


def test_of_several_hosts_the_first_that_answers_is_taken(redis_server: Any) -> None:
    url = Url.parse(redis_server.url)
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    broker = open_at(
        f"kombu+redis://127.0.0.1:{port},{url.host}:{url.port}{url.path}?transport.global_keyprefix={uuid4().hex}:"
    )
    send(broker, "a")
    assert [each.id for each in take(broker, 1)] == ["a"]
    broker.close()
