"""What RabbitMQ does beyond the contract, and what the amqp:// adapter makes of it: on a real server."""

from __future__ import annotations

import json
import random
import select
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import pytest
from pika import BasicProperties
from pika.exceptions import ChannelClosedByBroker

from dray import (
    Broker,
    BrokerError,
    BrokerUnavailable,
    Consumer,
    Delivery,
    Envelope,
    ManualClock,
    PublishError,
    Queue,
    Url,
)
from dray.testing.background import Background
from dray.testing.faults import wait_until
from dray_brokers.rabbitmq import RabbitBroker, RabbitConsumer
from dray_brokers.rabbitmq_publisher import UNSURE, Fates, Post

from ..servers.rabbitmq import RabbitMqServer
from ..servers.server import given_or_started
from .test_rabbitmq import cut_connections, rabbit

PATIENCE = 10.0


@pytest.fixture(params=["classic", "quorum"])
def broker(rabbitmq_server: Any, request: pytest.FixtureRequest) -> Iterator[RabbitBroker]:
    broker = rabbit(rabbitmq_server, queue_type=request.param)
    broker.open()
    yield broker
    broker.close()


@pytest.fixture
def classic(rabbitmq_server: Any) -> Iterator[RabbitBroker]:
    broker = rabbit(rabbitmq_server, queue_type="classic")
    broker.open()
    yield broker
    broker.close()


def envelope(id: str, queue: str = "q", **fields: Any) -> Envelope:
    return Envelope(id=id, queue=queue, body=f"body of {id}".encode(), **fields)


def take(consumer: Consumer, n: int = 1) -> list[Delivery]:
    taken: list[Delivery] = []
    wait_until(lambda: len(taken) >= n or taken.extend(consumer.receive(n - len(taken), 1.0)), PATIENCE)
    return taken


def ids(deliveries: Any) -> list[str]:
    return [each.id for each in deliveries]


def beside(broker: RabbitBroker, **options: str) -> RabbitBroker:
    """Return another open connection to the same queues."""
    other = RabbitBroker(
        Url.parse(
            broker.url.reveal().partition("?")[0]
            + "?"
            + "&".join(f"{key}={value}" for key, value in {**broker.url.options, **options}.items())
        )
    )
    other.open()
    return other


def manage(server: Any, path: str, method: str = "GET", **body: Any) -> Any:
    """Ask the server's management API."""
    parts = urlsplit(server.management_url)
    credentials, _, host = parts.netloc.rpartition("@")
    manager = urllib.request.HTTPPasswordMgrWithPriorAuth()
    manager.add_password(None, f"http://{host}", *credentials.split(":"), is_authenticated=True)
    opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager))
    request = urllib.request.Request(
        f"http://{host}{path}", json.dumps(body).encode() if body else None, {"content-type": "application/json"}
    )
    request.method = method
    with opener.open(request, timeout=10) as answer:
        text = answer.read()
    return json.loads(text) if text else None


@pytest.fixture
def user(rabbitmq_server: Any) -> Iterator[str]:
    """A user who may do what a test grants: password "pw"."""
    name = f"user-{uuid4().hex}"
    manage(rabbitmq_server, f"/api/users/{name}", "PUT", password="pw", tags="")
    yield name
    manage(rabbitmq_server, f"/api/users/{name}", "DELETE")


def as_user(server: Any, user: str, password: str = "pw", **options: str) -> RabbitBroker:
    host = urlsplit(server.url).netloc.rpartition("@")[2]
    given = "&".join(f"{key}={value}" for key, value in options.items())
    return RabbitBroker(Url.parse(f"amqp://{user}:{password}@{host}/?{given}"))


# Poison, and what is lost with its worker


def test_what_was_lost_with_its_worker_is_counted_and_goes_to_the_back(broker: RabbitBroker) -> None:
    broker.publish([envelope("poison"), envelope("a"), envelope("b")])
    other = beside(broker)
    assert ids(take(other.consumer(["q"], 30))) == ["poison"]
    cut_connections(other)
    consumer = broker.consumer(["q"], 30)
    taken = [take(consumer)[0] for _ in range(3)]
    assert [(each.id, each.delivery_count) for each in taken] == [("a", 1), ("b", 1), ("poison", 2)]
    other.close()


def test_the_count_goes_on_from_worker_to_worker(broker: RabbitBroker) -> None:
    broker.publish([envelope("poison")])
    counts = []
    for _ in range(3):
        other = beside(broker)
        (delivery,) = take(other.consumer(["q"], 30))
        counts.append(delivery.delivery_count)
        cut_connections(other)
        other.close()
    assert counts == [1, 2, 3]


def test_killed_between_the_copy_and_the_ack_there_are_two_and_never_none(
    broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.publish([envelope("a")])
    other = beside(broker)
    consumer = other.consumer(["q"], 30)
    lent = take(consumer)
    monkeypatch.setattr(consumer._intake, "ack", lambda tags: None)
    consumer.requeue(lent)
    cut_connections(other)
    both = take(broker.consumer(["q"], 30), 2)
    assert [(each.id, each.delivery_count) for each in both] == [("a", 2), ("a", 2)]
    other.close()


def test_copies_are_put_back_a_few_at_a_time_and_those_that_could_not_be_stay_ours(
    broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"m{n:03}" for n in range(250)]
    broker.publish([envelope(name) for name in names])
    consumer = broker.consumer(["q"], 30)
    held = take(consumer, 250)
    put, sizes = broker.put, list[int]()

    def fail_the_second_time(posts: Any, *others: Any) -> Any:
        sizes.append(len(posts))
        if len(sizes) == 2:
            raise BrokerUnavailable("no answer")
        return put(posts, *others)

    monkeypatch.setattr(broker, "put", fail_the_second_time)
    with pytest.raises(BrokerUnavailable, match="no answer"):
        consumer.release(held)
    # The engine asks again for all of it; what was done is over, and nothing of the rest was.
    over = consumer.release(held)
    assert len(over) == sizes[0] == 100
    assert sizes == [100, 100, 100, 50]
    again = take(broker.consumer(["q"], 30), 250)
    assert sorted(ids(again)) == names
    assert {each.delivery_count for each in again} == {1}


def test_what_was_never_handed_over_is_not_counted(broker: RabbitBroker) -> None:
    idle = beside(broker)
    holder = idle.consumer(["q"], 30)
    # Its bells ring on for a moment, and what they bring is asked for by nobody.
    assert list(holder.receive(10, 0.05)) == []
    broker.publish([envelope("a")])
    (delivery,) = take(broker.consumer(["q"], 30))
    assert (delivery.id, delivery.delivery_count) == ("a", 1)
    idle.close()


def test_nothing_is_held_that_was_not_asked_for(broker: RabbitBroker) -> None:
    broker.publish([envelope(f"m{n}") for n in range(50)])
    first, second = broker.consumer(["q"], 30), broker.consumer(["q"], 30)
    assert ids(take(first, 5)) == [f"m{n}" for n in range(5)]
    assert len(take(second, 45)) == 45


# Connections and channels that are lost


def test_a_connection_that_is_closed_by_force_is_noticed_and_opened_again(
    rabbitmq_server: Any, broker: RabbitBroker
) -> None:
    broker.publish([envelope("a")])
    consumer = broker.consumer(["q"], 30)
    take(consumer)
    ours = {link._connection._transport._sock.getsockname()[1] for link in (broker._sending, broker._receiving)}
    named: list[str] = []
    wait_until(
        lambda: (
            len(named) == 2
            or named.extend(
                each["name"]
                for each in manage(rabbitmq_server, "/api/connections")
                if each.get("peer_port") in ours and each["name"] not in named
            )
        ),
        30,
    )
    for name in named:
        manage(rabbitmq_server, f"/api/connections/{quote(name)}", "DELETE")
    with pytest.raises(BrokerUnavailable, match="CONNECTION_FORCED"):
        Background(lambda: [consumer.receive(1, 1.0) for _ in range(20)]).result()
    broker.open()
    (delivery,) = take(broker.consumer(["q"], 30))
    assert (delivery.id, delivery.delivery_count) == ("a", 2)


def test_a_channel_that_is_closed_is_noticed_by_who_waits(broker: RabbitBroker) -> None:
    consumer = broker.consumer(["q"], 30)
    waiting = Background(lambda: consumer.receive(1, 30.0))
    # An ack for nothing: the server closes the channel, and says so on no other.
    consumer._intake._link.post(lambda: consumer._intake._channel.basic_ack(12345))
    with pytest.raises(BrokerError, match="unknown delivery tag"):
        waiting.result()
    broker.publish([envelope("a")])
    assert ids(take(broker.consumer(["q"], 30))) == ["a"]


@pytest.mark.parametrize("doing", ["fetch", "listen", "ring", "stop", "ack", "give back", "close"])
def test_a_channel_that_is_closed_takes_no_other_along(broker: RabbitBroker, doing: str) -> None:
    """A frame on a channel that is closed ends the connection; between a look and a frame, any channel may end."""
    broker.publish([envelope("a"), envelope("b")])
    consumer, other = broker.consumer(["q", "empty"], 30), broker.consumer(["q", "elsewhere"], 30)
    intake, lent, kept = consumer._intake, take(consumer), take(other)
    intake.listen(["empty"], 0.0)
    intake._link.post(lambda: intake._channel.basic_ack(12345))
    wait_until(lambda: intake._channel.is_closed)
    try:
        match doing:
            case "fetch":
                intake.fetch("q", 10)
            case "listen":
                intake.listen(["q"], 0.0)
            case "ring":
                intake.ring(["q"])
            case "stop":
                intake.stop(["empty"])
            case "ack":
                intake.ack([lent[0].receipt[1]])
            case "give back":
                intake.give_back([lent[0].receipt[1]])
            case "close":
                intake.close()
        told = ""
    except BrokerError as error:
        told = str(error)
    assert ("unknown delivery tag" in told) is (doing in ("fetch", "listen"))
    # By the time the server has answered this, it has read what went before.
    broker.consumer(["q"], 30).close()
    assert intake._link.is_open
    assert list(other.ack(kept)) == []


def test_what_comes_while_a_channel_is_being_closed_goes_back(broker: RabbitBroker) -> None:
    consumer, other = broker.consumer(["q"], 30), broker.consumer(["elsewhere"], 30)
    intake = consumer._intake
    intake.listen(["q"], 0.0)
    sock, came = intake._link._connection._transport._sock, threading.Event()

    def close_when_it_has_come() -> None:
        if select.select([sock], [], [], 10)[0]:
            came.set()
        intake._channel.close()

    intake._link.post(close_when_it_has_come)
    broker.publish([envelope("a"), envelope("b", "elsewhere")])
    assert came.wait(PATIENCE)
    assert ids(take(other)) == ["b"]
    assert intake._link.is_open
    assert ids(take(broker.consumer(["q"], 30))) == ["a"]


def test_a_queue_that_is_deleted_is_noticed_and_made_again(broker: RabbitBroker) -> None:
    consumer = broker.consumer(["q"], 30)
    waiting = Background(lambda: consumer.receive(1, 30.0))
    wait_until(lambda: consumer._intake.is_quiet("q"))
    with broker._link("sending").session() as session:
        session.ask("queue_delete", "deleting", queue=broker.topology.name("q"))
    with pytest.raises(BrokerUnavailable, match="was deleted"):
        waiting.result()
    broker.publish([envelope("a")])
    assert ids(take(broker.consumer(["q"], 30))) == ["a"]


def test_who_hears_from_a_channel_that_the_connection_is_lost_connects_again(broker: RabbitBroker) -> None:
    consumer = broker.consumer(["q"], 30)
    lost, heard = broker._receiving, Background(lambda: consumer.receive(1, 30.0))
    wait_until(lambda: consumer._intake.is_quiet("q"))
    open_to_who_heard: list[bool] = []
    # Called when all of the channel's own are; the connection has not called its own yet.
    consumer._intake._channel.add_on_close_callback(lambda *about: open_to_who_heard.append(lost.is_open))
    cut_connections(broker)
    with pytest.raises(BrokerUnavailable):
        heard.result()
    wait_until(lambda: open_to_who_heard)
    assert open_to_who_heard == [False]


def test_settling_what_was_lost_says_so(broker: RabbitBroker) -> None:
    broker.publish([envelope("a")])
    consumer = broker.consumer(["q"], 30)
    lent = take(consumer)
    cut_connections(broker)
    wait_until(lambda: consumer._intake.lost is not None)
    assert ids(consumer.ack(lent)) == ["a"]
    broker.open()
    again = broker.consumer(["q"], 30)
    assert ids(again.ack(lent)) == ["a"]
    assert take(again)[0].delivery_count == 2


def test_publishing_connects_again_by_itself(broker: RabbitBroker) -> None:
    cut_connections(broker)
    wait_until(lambda: not broker._sending.is_open)
    broker.publish([envelope("a")])
    assert ids(take(broker.consumer(["q"], 30))) == ["a"]


def test_two_brokers_in_one_process_do_not_disturb_each_other(rabbitmq_server: Any) -> None:
    brokers = [rabbit(rabbitmq_server) for _ in range(2)]
    for one in brokers:
        one.open()
        one.publish([envelope("a")])
    cut_connections(brokers[0])
    assert ids(take(brokers[1].consumer(["q"], 30))) == ["a"]
    for one in brokers:
        one.close()


def test_of_several_hosts_the_first_that_answers_is_taken(rabbitmq_server: Any) -> None:
    host = urlsplit(rabbitmq_server.url).netloc.rpartition("@")[2]
    broker = RabbitBroker(Url.parse(f"amqp://guest:guest@127.0.0.1:1,{host}/?prefix={uuid4().hex}."))
    broker.open()
    broker.publish([envelope("a")])
    assert ids(take(broker.consumer(["q"], 30))) == ["a"]
    broker.close()


class ImpatientRabbitMq(RabbitMqServer):
    """A server that takes a message back when it is not acked within a second."""

    def environment(self) -> dict[str, str]:
        given = super().environment()
        arguments = "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"
        # How often it looks is not for everybody to set, so there is no word for it in rabbitmq.conf.
        slow = "-rabbit consumer_timeout 1000 -rabbit channel_tick_interval 200"
        return {**given, arguments: f"{given[arguments]} {slow}"}


def test_a_consumer_that_was_too_slow_is_told_what_helps() -> None:
    server = given_or_started(ImpatientRabbitMq, durable=True)
    try:
        broker = rabbit(server, queue_type="classic")
        broker.open()
        broker.publish([envelope("a")])
        consumer = broker.consumer(["q"], 30)
        take(consumer)
        with pytest.raises(BrokerUnavailable, match="ran longer than the server's consumer_timeout"):
            Background(lambda: [consumer.receive(1, 1.0) for _ in range(25)]).result()
        assert take(broker.consumer(["q"], 30))[0].delivery_count == 2
        broker.close()
    finally:
        server.close()


def test_a_server_that_is_short_of_memory_is_waited_for_and_then_named(durable_rabbitmq: Any) -> None:
    broker = rabbit(durable_rabbitmq, queue_type="classic", blocked_timeout="0.5")
    broker.open()
    broker.publish([envelope("a")])
    broker.close()
    conf = durable_rabbitmq.folder / "rabbitmq.conf"
    roomy = conf.read_text()
    durable_rabbitmq.kill()
    conf.write_text(roomy.replace("high_watermark.absolute = 1GB", "high_watermark.absolute = 1MB"))
    durable_rabbitmq.start()
    broker.open()
    with pytest.raises(BrokerUnavailable, match="takes no messages at the moment: low on memory"):
        broker.publish([envelope("b")])
    # What is there can be worked off all the same.
    consumer = broker.consumer(["q"], 30)
    (delivery,) = take(consumer)
    assert list(consumer.ack([delivery])) == []
    consumer.close()
    assert delivery.id == "a"
    broker.close()
    durable_rabbitmq.kill()
    conf.write_text(roomy)
    durable_rabbitmq.start()
    broker.open()
    broker.publish([envelope("c")])
    consumer, came = broker.consumer(["q"], 30), set[str]()
    wait_until(lambda: "c" in came or came.update(ids(consumer.receive(9, 0.5))))
    assert "a" not in came
    broker.close()


# Sending


def test_a_queue_that_was_deleted_is_made_again_by_the_next_message(broker: RabbitBroker) -> None:
    broker.publish([envelope("lost")])
    with broker._link("sending").session() as session:
        session.ask("queue_delete", "deleting", queue=broker.topology.name("q"))
    broker.publish([envelope("a"), envelope("b")])
    assert ids(take(broker.consumer(["q"], 30), 2)) == ["a", "b"]


def test_what_is_put_into_a_new_queue_outlives_the_server_because_the_queue_does(durable_rabbitmq: Any) -> None:
    """Its database writes that a queue was declared, and later that this stands: without the latter it is taken back.

    What is in the file is what `kill -9` leaves. Left to itself, the server had the word there in 392 cases of 400.
    """
    log = durable_rabbitmq.folder / "mnesia" / "dray@localhost" / "LATEST.LOG"
    broker, found = rabbit(durable_rabbitmq), 0
    broker.open()
    for n in range(150):
        broker.publish([envelope(f"m{n}", f"q{n}")])
        # From time to time the log is written into the tables, and begins anew.
        _, queue, later = log.read_bytes().rpartition(broker.topology.name(f"q{n}").encode())
        found += bool(queue)
        assert not queue or b"committed" in later, f"that q{n} is there is not in the log yet"
    assert found > 100
    broker.close()


def test_a_new_quorum_queue_answers_after_the_server_was_killed_at_once(durable_rabbitmq: Any) -> None:
    """Those that its list of quorum queues does not name yet are there after that, and never answer.

    Left to itself, the server writes that list a second later.
    """
    listed = durable_rabbitmq.folder / "mnesia" / "dray@localhost" / "quorum" / "dray@localhost" / "names.dets"
    broker = rabbit(durable_rabbitmq, queue_type="quorum")
    broker.open()
    for n in range(10):
        broker.publish([envelope(f"m{n}", f"q{n}")])
        assert f"_{broker.topology.name(f'q{n}')}".encode() in listed.read_bytes()
    broker.publish([envelope("now", "last"), envelope("later", "last", delay=1.3)])
    steps = [f"{broker.topology.ladder}.{step:02}".encode() for step in range(20)]
    assert [step for step in steps if step not in listed.read_bytes()] == []
    durable_rabbitmq.kill()
    durable_rabbitmq.start()
    broker.close()
    broker.open()
    assert ids(take(broker.consumer(["last"], 30), 2)) == ["now", "later"]
    broker.close()


def test_a_full_queue_is_told_in_words_and_by_id(broker: RabbitBroker) -> None:
    broker.declare([Queue(name="small", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})])
    broker.publish([envelope("fits", "small"), envelope("elsewhere", "q")])
    # A quorum queue notices a little late that it is full.
    with pytest.raises(PublishError, match=r"it is full \(x-max-length with x-overflow=reject-publish\)") as refusal:
        for n in range(20):
            broker.publish([envelope(f"too-much-{n}", "small"), envelope(f"more-{n}", "q")])
    assert all(id.startswith("too-much") for id in refusal.value.rejected)


def test_what_cannot_go_to_the_back_of_a_full_queue_is_not_lost(broker: RabbitBroker) -> None:
    broker.declare([Queue(name="small", arguments={"x-max-length": 2, "x-overflow": "reject-publish"})])
    broker.publish([envelope("a", "small")])
    consumer = broker.consumer(["small"], 30)
    lent = take(consumer)
    with pytest.raises(PublishError):
        for n in range(20):
            broker.publish([envelope(f"m{n}", "small")])
    assert list(consumer.requeue(lent)) == []
    waiting = set()
    wait_until(lambda: "a" in waiting or waiting.update(ids(consumer.receive(10, 0.5))))


def test_an_exchange_that_is_nowhere_is_told_in_words(broker: RabbitBroker) -> None:
    with pytest.raises(BrokerError, match="NOT_FOUND - no exchange"):
        broker.publish([Envelope(id="a", queue="", body=b"", exchange="nowhere", routing_key="key")])
    broker.publish([envelope("b")])


def test_what_the_server_finds_too_large_is_refused_by_id(
    broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.publish([envelope("first")])
    publisher = broker._publisher
    send = publisher.send

    def refusing(posts: Any) -> Any:
        if any(len(post.body) > 1000 for post in posts):
            reason = "PRECONDITION_FAILED - message size 2000 is larger than configured max size 1000"
            return Fates([UNSURE] * len(posts), ChannelClosedByBroker(406, reason))
        return send(posts)

    monkeypatch.setattr(publisher, "send", refusing)
    with pytest.raises(PublishError, match="max_message_size=1,000") as refusal:
        broker.publish([envelope("before"), Envelope(id="fat", queue="q", body=b"x" * 2000), envelope("after")])
    assert list(refusal.value.rejected) == ["fat"]
    assert ids(take(broker.consumer(["q"], 30), 3)) == ["first", "before", "after"]


# Delays


def test_nothing_leaves_the_ladder_early_and_nothing_is_lost_on_it(broker: RabbitBroker) -> None:
    drawn = random.Random(1)
    delays = {f"m{n}": drawn.uniform(0.05, 4.0) for n in range(60)}
    consumer = broker.consumer(["q"], 30)
    broker.publish([envelope("warm", delay=0.1)])
    consumer.ack(take(consumer))
    clock = broker.clock
    sent = clock.monotonic()
    broker.publish([envelope(id, delay=delay) for id, delay in delays.items()])
    came: dict[str, float] = {}

    def all_here() -> bool:
        for delivery in consumer.receive(100, 0.2):
            came[delivery.id] = clock.monotonic() - sent
        return len(came) == len(delays)

    wait_until(all_here, 30)
    assert [id for id, delay in delays.items() if came[id] < delay] == []


def test_delayed_messages_of_a_deleted_queue_stop_no_others_and_are_kept(broker: RabbitBroker) -> None:
    broker.publish([envelope(f"m{n}", "gone", delay=0.5) for n in range(100)])
    lost = f"{broker.topology.ladder}.lost"
    with broker._link("sending").session() as session:
        before = session.ask("queue_declare", "looking", queue=lost, passive=True).message_count
        session.ask("queue_delete", "deleting", queue=broker.topology.name("gone"))
        broker.publish([envelope("a", delay=0.6)])
        assert ids(take(broker.consumer(["q"], 30))) == ["a"]
        wait_until(
            lambda: session.ask("queue_declare", "looking", queue=lost, passive=True).message_count >= before + 100
        )


def test_what_is_on_the_ladder_survives_a_restart_of_the_server(durable_rabbitmq: Any) -> None:
    broker = rabbit(durable_rabbitmq)
    broker.open()
    broker.publish([envelope(f"m{n}", delay=3.0) for n in range(20)])
    durable_rabbitmq.kill()
    durable_rabbitmq.start()
    broker.open()
    consumer, came = broker.consumer(["q"], 30), set[str]()
    wait_until(lambda: len(came) == 20 or came.update(ids(consumer.receive(20, 0.5))), 30)
    broker.close()


# Receiving


def acks_of(consumer: Any) -> list[tuple[int, bool]]:
    """Return a list that grows with every ack: the tag, and whether it stands for all before it."""
    channel, acks = consumer._intake._channel, list[tuple[int, bool]]()
    basic_ack = channel.basic_ack
    channel.basic_ack = lambda tag, multiple=False: (acks.append((tag, multiple)), basic_ack(tag, multiple))
    return acks


def test_a_batch_is_acked_with_one_frame(broker: RabbitBroker) -> None:
    broker.publish([envelope(f"m{n}") for n in range(200)])
    consumer = broker.consumer(["q"], 30)
    lent = take(consumer, 200)
    acks = acks_of(consumer)
    consumer.ack(lent)
    consumer.close()
    assert acks == [(lent[-1].receipt[1], True)]
    assert list(broker.consumer(["q"], 30).receive(10, 0.2)) == []


def test_an_ack_waits_a_moment_for_those_of_earlier_messages_and_not_for_ever(broker: RabbitBroker) -> None:
    broker.publish([envelope(id) for id in "abc"])
    consumer = broker.consumer(["q"], 30)
    first, second, third = take(consumer, 3)
    acks = acks_of(consumer)
    consumer.ack([second])
    wait_until(lambda: acks == [(second.receipt[1], False)], PATIENCE)
    consumer.ack([first])
    wait_until(lambda: acks[1:] == [(first.receipt[1], True)], PATIENCE)
    consumer.ack([third])
    wait_until(lambda: acks[2:] == [(third.receipt[1], True)], PATIENCE)


def test_an_ack_that_waits_for_another_is_sent_before_the_consumer_is_closed(broker: RabbitBroker) -> None:
    broker.publish([envelope("a"), envelope("b")])
    consumer = broker.consumer(["q"], 30)
    consumer.ack(take(consumer, 2)[1:])
    consumer.close()
    assert ids(take(broker.consumer(["q"], 30))) == ["a"]
    assert list(broker.consumer(["q"], 30).receive(10, 0.2)) == []


def test_an_idle_consumer_says_nothing(broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    # However long the machine stands still between two calls, it has not gone away.
    monkeypatch.setattr("dray_brokers.rabbitmq_consumer.HOLD", 60.0)
    consumer = broker.consumer(["a", "b"], 30)
    consumer.receive(10, 0.1)
    connection = broker._receiving._connection
    before = connection.frames_sent
    for _ in range(10):
        assert list(consumer.receive(10, 0.02)) == []
    assert connection.frames_sent == before


def test_who_comes_back_soon_does_not_look_into_the_same_empty_queue_each_time(
    broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No time goes by: what nobody asks for would go back.
    broker.clock = ManualClock()
    broker.publish([envelope(f"m{n}") for n in range(6)])
    consumer, looked = broker.consumer(["urgent", "q"], 30), list[str]()
    fetch = consumer._intake.fetch
    monkeypatch.setattr(consumer._intake, "fetch", lambda queue, most: (looked.append(queue), fetch(queue, most)))
    assert [ids(consumer.receive(1, 0.0)) for _ in range(5)] == [[f"m{n}"] for n in range(5)]
    assert looked.count("urgent") == 1
    broker.publish([envelope("now", "urgent")])
    wait_until(lambda: consumer._intake._arrived["urgent"])
    assert ids(consumer.receive(1, 0.0)) == ["now"]


def test_what_comes_to_a_busy_consumer_that_has_no_room_goes_to_another_uncounted(broker: RabbitBroker) -> None:
    broker.publish([envelope("long")])
    busy = beside(broker)
    holder = busy.consumer(["urgent", "q"], 30)
    assert ids(take(holder)) == ["long"]
    broker.publish([envelope("now", "urgent")])
    (delivery,) = take(broker.consumer(["urgent"], 30))
    assert (delivery.id, delivery.delivery_count) == ("now", 1)
    busy.close()


def test_of_a_consumer_that_was_lost_and_forgotten_no_thread_is_left(broker: RabbitBroker) -> None:
    # Time stands still: whoever comes back comes back soon, and leaves something open that has to be watched.
    broker.clock = ManualClock()
    for n in range(3):
        broker.publish([envelope(f"m{n}")])
        consumer = broker.consumer(["urgent", "q"], 30)
        assert isinstance(consumer, RabbitConsumer)
        wait_until(lambda: consumer.receive(1, 0.0), PATIENCE)  # noqa: B023
        guard = consumer._guard
        assert guard is not None
        assert guard.is_alive()
        cut_connections(broker)
        guard.join(PATIENCE)
        assert not guard.is_alive()
        wait_until(lambda: not broker._sending.is_open, PATIENCE)
        broker.open()


def test_a_message_of_celerys_comes_out_whole_to_be_buried(broker: RabbitBroker) -> None:
    body = b'[[2, 3], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
    broker.publish([envelope("ours")])
    properties = BasicProperties(
        content_type="application/json",
        content_encoding="utf-8",
        correlation_id="celery-id",
        delivery_mode=2,
        priority=0,
        headers={"lang": "py", "task": "shop.add", "id": "celery-id"},
    )
    broker._publisher.send([Post("", broker.topology.name("q"), properties, body)])
    consumer = broker.consumer(["q"], 30)
    foreign = take(consumer, 2)[1]
    assert (foreign.id, foreign.body, foreign.delivery_count) == ("celery-id", body, 1)
    consumer.requeue([foreign])
    (again,) = take(consumer)
    assert (again.id, again.body, again.delivery_count) == ("celery-id", body, 2)


# Rights, and things that are otherwise than expected


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (("guest:guest", "guest:wrong"), BrokerError, "check the user name and password in the URL"),
        (("/", "/nowhere"), BrokerError, "vhost nowhere not found .*add_vhost"),
    ],
    ids=["password", "vhost"],
)
def test_what_is_wrong_in_the_url_is_told_in_a_line(
    rabbitmq_server: Any, change: tuple[str, str], error: type[BrokerError], words: str
) -> None:
    wrong = change[1].join(rabbitmq_server.url.rsplit(change[0], 1))
    with pytest.raises(error, match=words) as refusal:
        RabbitBroker(Url.parse(wrong)).open()
    assert not isinstance(refusal.value, BrokerUnavailable)
    assert "guest:wrong" not in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_user_without_the_virtual_host_is_told_how_to_get_it(rabbitmq_server: Any, user: str) -> None:
    with pytest.raises(BrokerError, match="set_permissions"):
        as_user(rabbitmq_server, user).open()


def test_who_may_not_create_queues_uses_those_that_were_set_up(rabbitmq_server: Any, user: str) -> None:
    manage(rabbitmq_server, f"/api/permissions/%2F/{user}", "PUT", configure="^$", write=".*", read=".*")
    owner = rabbit(rabbitmq_server)
    owner.open()
    # Whoever came first has set up what all queues share.
    assert owner.setup(["q"])[0] == f"created the queue {owner.topology.name('q')}"
    assert owner.setup(["q"]) == []
    guest = as_user(rabbitmq_server, user, prefix=owner.options.prefix)
    guest.open()
    guest.publish([envelope("a"), envelope("later", delay=0.1)])
    assert sorted(ids(take(guest.consumer(["q"], 30), 2))) == ["a", "later"]
    with pytest.raises(BrokerError, match="may not create it: have it created by `dray setup`"):
        guest.publish([envelope("b", "another")])
    guest.close()
    owner.close()


def test_where_no_more_queues_are_taken_those_that_are_there_are_used(rabbitmq_server: Any) -> None:
    name = f"full-{uuid4().hex}"
    manage(rabbitmq_server, f"/api/vhosts/{name}", "PUT")
    try:
        manage(rabbitmq_server, f"/api/permissions/{name}/guest", "PUT", configure=".*", write=".*", read=".*")
        manage(rabbitmq_server, f"/api/vhost-limits/{name}/max-queues", "PUT", value=1)
        broker = RabbitBroker(Url.parse(f"{rabbitmq_server.url.rstrip('/')}/{name}"))
        broker.open()
        broker.publish([envelope("a")])
        assert ids(take(broker.consumer(["q"], 30))) == ["a"]
        with pytest.raises(BrokerUnavailable, match="queue limit"):
            broker.publish([envelope("b", "another")])
        broker.close()
    finally:
        manage(rabbitmq_server, f"/api/vhosts/{name}", "DELETE")


def test_a_queue_that_exists_with_other_arguments_is_told_apart(rabbitmq_server: Any, classic: RabbitBroker) -> None:
    with classic._link("sending").session() as session:
        session.ask(
            "queue_declare",
            "declaring",
            queue=classic.topology.name("short"),
            durable=True,
            arguments={"x-message-ttl": 60000, "x-max-priority": 3},
        )
    with pytest.raises(BrokerError, match=r"exists with x-message-ttl = 60000, and here it is none: say so"):
        classic.publish([envelope("a", "short")])
    classic.publish([envelope("b")])
    quorum = beside(classic, queue_type="quorum")
    with pytest.raises(BrokerError, match=r"\?queue_type=classic or quorum if it is of that kind"):
        quorum.publish([envelope("c")])
    quorum.close()


@pytest.mark.parametrize("levels", [10, 19], ids=["celery's", "an older dray's"])
def test_a_queue_that_was_made_with_priorities_is_used_and_a_cure_is_named(
    rabbitmq_server: Any, classic: RabbitBroker, caplog: pytest.LogCaptureFixture, levels: int
) -> None:
    name = classic.topology.name("old")
    with classic._link("sending").session() as session:
        made = {"queue": name, "durable": True, "arguments": {"x-max-priority": levels}}
        session.ask("queue_declare", "declaring", **made)
    classic.publish([envelope("a", "old"), envelope("b", "old", priority=3)])
    assert ids(take(classic.consumer(["old"], 30), 2)) == ["b", "a"]
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1 and name in told[0] and "delete it when it is empty" in told[0]
    parts = urlsplit(rabbitmq_server.management_url)
    advised = beside(classic, management=f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}")
    wait_until(lambda: any("x-max-priority" in each and name in each for each in advised.advice(["old"])), 30)
    advised.declare([Queue(name="old", arguments={"x-max-priority": levels})])
    assert not any("x-max-priority" in each for each in advised.advice(["old"]))
    advised.close()


def test_who_declares_priorities_gets_them_and_what_goes_through_an_exchange_comes_in_their_order(
    classic: RabbitBroker,
) -> None:
    queue = Queue(
        name="sorted",
        exchange="orders",
        type="direct",
        routing_key="k",
        arguments={"x-max-priority": 10},
    )
    classic.declare([queue])
    for id, priority in (("low", 0), ("high", 9), ("middle", 5)):
        classic.publish([Envelope(id=id, queue="", body=b"", exchange="orders", routing_key="k", priority=priority)])
    taken = take(classic.consumer(["sorted"], 30), 3)
    assert [(each.id, each.priority) for each in taken] == [("high", 9), ("middle", 5), ("low", 0)]


def test_a_host_that_does_not_answer_is_given_up_in_time() -> None:
    # An address that is for documentation, and leads nowhere.
    broker = RabbitBroker(Url.parse("amqp://user:secret@192.0.2.1/?connect_timeout=0.5"))
    with pytest.raises(BrokerUnavailable, match="connecting") as refusal:
        Background(broker.open).result()
    assert "secret" not in str(refusal.value) and "\n" not in str(refusal.value)


# Looking


def test_with_the_management_api_sizes_tell_what_is_lent(rabbitmq_server: Any) -> None:
    parts = urlsplit(rabbitmq_server.management_url)
    host = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    broker = rabbit(rabbitmq_server, management=host)
    broker.open()
    broker.publish([envelope("a"), envelope("b"), envelope("c", "other")])
    other = beside(broker)
    lent = take(other.consumer(["q"], 30))
    assert len(lent) == 1
    wait_until(lambda: broker.sizes(["q"])["q"] == {"ready": 1, "delayed": 0, "leased": 1, "dead": 0}, 30)
    stranger = beside(broker)
    wait_until(lambda: list(stranger.queues()) == ["other", "q"], 30)
    for one in (broker, other, stranger):
        one.close()


def test_advice_says_which_queues_were_chosen_and_why(classic: Broker, broker: RabbitBroker) -> None:
    assert any("queues are classic, as the URL says" in sentence for sentence in classic.advice(["q"]))
    text = " ".join(broker.advice(["q"]))
    assert "consumer_timeout" in text and "?management=" in text
    assert "delays pass through classic queues" not in text
