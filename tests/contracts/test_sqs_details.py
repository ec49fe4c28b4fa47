"""What the sqs:// broker does beyond the contract: its requests and rights, its queues, and what SQS alone can do."""

from __future__ import annotations

import json
import logging
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from dray import (
    BrokerError,
    BrokerUnavailable,
    Delivery,
    Dray,
    Envelope,
    ManualClock,
    PublishError,
    Queue,
    Url,
)
from dray.testing.background import Background
from dray.testing.faults import wait_until
from dray_brokers.sqs import SqsBroker
from dray_brokers.sqs_client import SqsClient
from dray_brokers.sqs_consumer import QUIET

from ..servers.server import given_or_started
from ..servers.sqs import LiveSqs, MiniStackServer, SqsServer

LONG = 60.0


class Answer:
    """What the driver sees of an answer over HTTP."""

    def __init__(self, status: int) -> None:
        self.status_code = status


class Opened:
    """A broker with a prefix of its own, and what it asked SQS."""

    def __init__(self, url: str, prefix: str = "") -> None:
        self.prefix = prefix or secrets.token_urlsafe(4)
        self.broker = SqsBroker(Url.parse(f"{url}&max_bytes=262144&prefix={self.prefix}"))
        #: Every request made: its name and parameters.
        self.asked: list[tuple[str, dict[str, Any]]] = []
        #: Answers to give in the server's place, by request; each once.
        self.instead: dict[str, list[dict[str, Any]]] = {}
        self.broker.open()
        for client in (self.client, self.broker._client._poller()):
            client.meta.events.register("before-call.sqs", self._answer)

    @property
    def client(self) -> Any:
        return self.broker._client._client()

    def _answer(self, params: dict[str, Any], model: Any, **_: Any) -> tuple[Answer, dict[str, Any]] | None:
        """Note a request; return what is to be answered, or None to let it pass to the server."""
        self.asked.append((model.name, json.loads(params["body"])))
        answers = self.instead.get(model.name)
        if not answers:
            return None
        answer = answers.pop(0)
        return Answer(400 if "Error" in answer else 200), answer

    def count(self, name: str) -> int:
        return sum(1 for asked, _ in self.asked if asked == name)

    def url_of(self, queue: str = "q") -> str:
        return str(self.client.get_queue_url(QueueName=self.prefix + queue)["QueueUrl"])

    def send(self, *ids: str, queue: str = "q", **fields: Any) -> None:
        self.broker.publish([Envelope(id=id, queue=queue, body=id.encode(), **fields) for id in ids])

    def take(self, n: int = 1, *queues: str, lease: float = LONG) -> list[Delivery]:
        consumer = self.broker.consumer(queues or ["q"], lease)
        taken: list[Delivery] = []
        while len(taken) < n:
            came = consumer.receive(n - len(taken), 15.0)
            assert came, f"only {len(taken)} of {n} came"
            taken += came
        return taken


def ids(deliveries: Any) -> list[str]:
    return [each.id for each in deliveries]


@pytest.fixture(params=["moto_server", "ministack_server"])
def server(request: pytest.FixtureRequest) -> SqsServer:
    found: SqsServer = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def sqs(server: SqsServer) -> Iterator[Opened]:
    opened = Opened(server.url)
    yield opened
    opened.broker.close()


@pytest.fixture
def fifo(ministack_server: MiniStackServer) -> Iterator[Opened]:
    opened = Opened(f"{ministack_server.url}&fifo=yes")
    yield opened
    opened.broker.close()


# Requests


def test_a_thousand_messages_are_a_hundred_requests(ministack_server: MiniStackServer) -> None:
    sqs = Opened(ministack_server.url)
    sqs.send(*(f"m{n}" for n in range(1000)))
    assert sqs.count("SendMessageBatch") == 100
    taken = sqs.take(1000)
    assert len(set(ids(taken))) == 1000
    sqs.broker.consumer(["q"], LONG).ack(taken)
    assert sqs.count("DeleteMessageBatch") == 100


def test_a_thousand_tasks_are_hardly_more_than_two_hundred_requests(
    ministack_server: MiniStackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Moments that a loaded machine does not exceed: how long acks wait for others, and empty queues are left alone.
    monkeypatch.setattr("dray.holding.HOLD", 0.5)
    monkeypatch.setattr("dray_brokers.sqs_consumer.QUIET", 60.0)
    asked: list[str] = []
    ask = SqsClient._ask

    def count(client: SqsClient, driver: Any, verb: str, *more: Any) -> dict[str, Any]:
        asked.append(verb)
        return ask(client, driver, verb, *more)

    monkeypatch.setattr(SqsClient, "_ask", count)
    with closing(Dray("shop", broker=f"{ministack_server.url}&prefix={secrets.token_urlsafe(4)}")) as app:
        nothing = app.task(name="shop.nothing", ignore_result=True)(lambda: None)
        nothing.delay_many(() for _ in range(1000))
        asked.clear()
        assert app.worker().run_until_idle() == 1000
    # A hundred of each would be full ones. The first are few at a time, for they might be what kills workers; at the
    # end four look side by side and find nothing; and what a loaded machine runs slowly lies ready in smaller numbers.
    assert asked.count("delete_message_batch") <= 115
    assert asked.count("receive_message") <= 130


def test_a_batch_has_no_more_bytes_than_sqs_takes(sqs: Opened) -> None:
    sqs.broker.publish([Envelope(id=f"m{n}", queue="q", body=b"x" * 100_000) for n in range(5)])
    # Side by side, so in any order.
    assert sorted(len(asked["Entries"]) for name, asked in sqs.asked if name == "SendMessageBatch") == [1, 2, 2]
    assert len(sqs.take(5)) == 5


def test_an_idle_worker_waits_in_one_long_poll(sqs: Opened) -> None:
    consumer = sqs.broker.consumer(["q"], LONG)
    looked = sqs.broker.clock.monotonic()
    while sqs.broker.clock.monotonic() < looked + 4:
        assert consumer.receive(300, 0.2) == []
    consumer.close()
    waits = [asked["WaitTimeSeconds"] for name, asked in sqs.asked if name == "ReceiveMessage"]
    assert waits[0] == 0
    assert waits[1:] == sorted(waits[1:])
    assert len(waits) <= 5


def test_a_worker_with_one_slot_borrows_one_message(sqs: Opened) -> None:
    sqs.send("a", "b", queue="first")
    sqs.send("c", queue="second")
    consumer = sqs.broker.consumer(["first", "second"], LONG)
    assert len(consumer.receive(1, 5.0)) == 1
    # Nothing else was touched, so nothing else was counted as delivered.
    assert {each.delivery_count for each in sqs.take(2, "first", "second")} == {1}


def test_an_empty_queue_is_left_alone_for_a_moment_while_others_bring_something(sqs: Opened) -> None:
    clock = sqs.broker.clock = ManualClock()
    sqs.send(*(f"m{n}" for n in range(30)), queue="full")
    consumer = sqs.broker.consumer(["empty", "full"], LONG)

    def looks() -> int:
        urls = [asked["QueueUrl"] for name, asked in sqs.asked if name == "ReceiveMessage"]
        return sum(url.endswith("empty") for url in urls)

    for _ in range(5):
        assert consumer.receive(2, 0.0)
    assert looks() == 1
    clock.advance(QUIET)
    assert consumer.receive(2, 0.0)
    assert looks() == 2


def test_where_nothing_else_comes_a_queue_that_was_empty_is_asked_again_at_once(sqs: Opened) -> None:
    consumer = sqs.broker.consumer(["first", "second"], LONG)
    assert consumer.receive(1, 0.0) == []
    sqs.send("a", queue="first")
    assert ids(consumer.receive(1, 0.0)) == ["a"]
    assert consumer.receive(1, 0.0) == []
    sqs.send("b", queue="second")
    assert ids(consumer.receive(1, 10.0)) == ["b"]


def test_few_are_not_asked_for_beside_whole_batches(sqs: Opened) -> None:
    sqs.send(*(f"m{n}" for n in range(26)))
    consumer = sqs.broker.consumer(["q"], LONG)
    assert len(consumer.receive(26, 0.0)) == 20
    assert [asked["MaxNumberOfMessages"] for name, asked in sqs.asked if name == "ReceiveMessage"] == [10, 10]
    assert len(consumer.receive(6, 0.0)) == 6


def test_what_nobody_comes_for_goes_back_at_once(sqs: Opened) -> None:
    idle, busy = sqs.broker.consumer(["q"], LONG), sqs.broker.consumer(["q"], LONG)
    assert idle.receive(5, 0.6) == []
    sqs.send("a")
    assert ids(busy.receive(1, 15.0)) == ["a"]


def test_beside_what_was_lent_before_nothing_is_polled_for_that_would_have_to_go_back_charged(sqs: Opened) -> None:
    sqs.send(*(f"m{n}" for n in range(40)))
    dying = sqs.broker.consumer(["q"], LONG)
    borrowed: list[Delivery] = []
    wait_until(lambda: len(borrowed) == 40 or borrowed.extend(dying.receive(40, 0.2)), 15.0)
    wary = sqs.broker.consumer(["q"], LONG)
    assert wary.receive(100, 0.5) == []
    dying.requeue(borrowed, 1)
    came = list(wary.receive(100, 15.0))
    # Whoever comes while the first one thinks about what it has got.
    others = sqs.take(40 - len(came))
    assert {each.delivery_count for each in [*came, *others]} == {2}


def test_what_a_poll_brings_to_a_closed_consumer_goes_back_at_once(sqs: Opened) -> None:
    leaving = sqs.broker.consumer(["q"], LONG)
    assert leaving.receive(5, 0.3) == []
    leaving.close()
    sqs.send("a")
    assert ids(sqs.take()) == ["a"]


LEAVING = """
import sys
from dray import Url
from dray_brokers.sqs import SqsBroker
broker = SqsBroker(Url.parse(sys.argv[1]))
broker.open()
consumer = broker.consumer(["q"], 60.0)
consumer.receive(5, 0.3)
consumer.close()
broker.close()
print("closed", flush=True)
"""


def test_what_a_poll_brings_to_a_process_that_ends_goes_back_at_once(ministack_server: MiniStackServer) -> None:
    sqs = Opened(ministack_server.url)
    command = [sys.executable, "-c", LEAVING, sqs.broker.url.reveal()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as leaving:
        assert leaving.stdout is not None
        assert leaving.stdout.readline() == "closed\n"
        sqs.send("a")
        assert leaving.wait(15) == 0
    assert ids(sqs.take()) == ["a"]


# Failures of some


def test_what_fails_for_now_is_tried_again(sqs: Opened) -> None:
    sqs.send("before")
    busy = {"Id": "1", "Code": "InternalError", "SenderFault": False}
    sqs.instead["SendMessageBatch"] = [{"Successful": [{"Id": "0"}], "Failed": [busy]}]
    sqs.send("a", "b")
    assert [entry["MessageBody"][-1] for entry in sqs.asked[-1][1]["Entries"]] == ["b"]


def test_what_is_refused_is_named_and_the_others_are_safe(sqs: Opened) -> None:
    sqs.send("before")
    bad = {"Id": "1", "Code": "InvalidMessageContents", "Message": "not so", "SenderFault": True}
    sqs.instead["SendMessageBatch"] = [{"Successful": [{"Id": "0"}], "Failed": [bad]}]
    with pytest.raises(PublishError) as refusal:
        sqs.send("a", "b")
    assert refusal.value.rejected == {"b": "SQS refused it: InvalidMessageContents: not so"}


def test_what_goes_on_failing_is_an_outage(sqs: Opened) -> None:
    sqs.send("before")
    busy = {"Id": "0", "Code": "RequestThrottled", "Message": "slow down", "SenderFault": True}
    sqs.instead["SendMessageBatch"] = [{"Failed": [busy]}] * 4
    with pytest.raises(BrokerUnavailable, match="RequestThrottled: slow down"):
        sqs.send("a")


def test_an_ack_that_fails_for_now_is_tried_again(sqs: Opened) -> None:
    sqs.send("a")
    taken = sqs.take()
    sqs.instead["DeleteMessageBatch"] = [{"Failed": [{"Id": "0", "Code": "InternalError", "SenderFault": False}]}]
    assert list(sqs.broker.consumer(["q"], LONG).ack(taken)) == []
    assert sqs.count("DeleteMessageBatch") == 2


def test_a_loan_that_sqs_says_is_over_is_told_as_lost(sqs: Opened) -> None:
    sqs.send("a", "b")
    taken = sqs.take(2)
    over = {"Id": "0", "Code": "ReceiptHandleIsInvalid", "SenderFault": True}
    sqs.instead["DeleteMessageBatch"] = [{"Successful": [{"Id": "1"}], "Failed": [over]}]
    assert list(sqs.broker.consumer(["q"], LONG).ack(taken)) == taken[:1]


# Loans


def test_a_loan_goes_on_under_another_consumer(sqs: Opened) -> None:
    sqs.send("a")
    taken = sqs.take()
    other = sqs.broker.consumer(["q"], LONG)
    assert list(other.extend(taken, LONG)) == []
    assert list(other.ack(taken)) == []


def test_a_loan_that_is_over_is_lost_without_asking(sqs: Opened) -> None:
    sqs.send("a")
    taken = sqs.take()
    taken[0].receipt.ends = sqs.broker.clock.monotonic() - 1
    assert list(sqs.broker.consumer(["q"], LONG).ack(taken)) == taken
    assert sqs.count("DeleteMessageBatch") == 0


def test_after_twelve_hours_a_loan_is_told_as_lost(sqs: Opened, caplog: pytest.LogCaptureFixture) -> None:
    sqs.send("a", "b")
    taken = sqs.take(2)
    taken[0].receipt.last = sqs.broker.clock.monotonic() + LONG - 1
    with caplog.at_level(logging.WARNING):
        assert list(sqs.broker.consumer(["q"], LONG).extend(taken, LONG)) == taken[:1]
    assert f"{taken[0].id}: held for almost 12 hours" in caplog.text


def test_a_message_goes_away_for_no_longer_than_sqs_can(sqs: Opened) -> None:
    sqs.send("a")
    taken = sqs.take()
    taken[0].receipt.last = sqs.broker.clock.monotonic() + 100.5
    sqs.broker.consumer(["q"], LONG).requeue(taken, 1000.0)
    assert sqs.asked[-1][1]["Entries"][0]["VisibilityTimeout"] == 100


# Queues and rights


def test_a_queue_is_created_to_keep_messages_for_fourteen_days(sqs: Opened) -> None:
    sqs.send("a")
    has = sqs.client.get_queue_attributes(QueueUrl=sqs.url_of(), AttributeNames=["All"])["Attributes"]
    assert has["MessageRetentionPeriod"] == "1209600"


def test_a_queue_that_is_there_is_taken_as_it_is(sqs: Opened) -> None:
    sqs.client.create_queue(QueueName=f"{sqs.prefix}q", Attributes={"MessageRetentionPeriod": "600"})
    sqs.send("a")
    assert ids(sqs.take()) == ["a"]


def test_a_queue_that_was_deleted_is_created_again(sqs: Opened) -> None:
    sqs.send("before")
    sqs.client.delete_queue(QueueUrl=sqs.url_of())
    sqs.send("a")
    assert ids(sqs.take()) == ["a"]


def test_no_queue_is_created_where_that_is_not_wanted(server: SqsServer) -> None:
    sqs = Opened(f"{server.url}&create=no")
    with pytest.raises(BrokerError, match="there is no queue .* and create=no: create it, or run `dray setup`"):
        sqs.send("a")
    with pytest.raises(BrokerError, match="create=no"):
        sqs.broker.consumer(["q"], LONG).receive(1, 0)
    assert sqs.count("CreateQueue") == 0


def test_predefined_queues_need_no_other_rights(sqs: Opened) -> None:
    sqs.client.create_queue(QueueName=f"{sqs.prefix}emails")
    named = Opened(f"{sqs.broker.url.reveal()}&queues=emails:{sqs.url_of('emails')}", sqs.prefix)
    named.send("a", queue="emails")
    assert named.broker.sizes(["emails"])["emails"]["ready"] == 1
    assert list(named.broker.queues()) == ["emails"]
    assert ids(named.take(1, "emails", "emails__p5")) == ["a"]
    assert {name for name, _ in named.asked} == {"SendMessageBatch", "ReceiveMessage", "GetQueueAttributes"}


def test_a_predefined_queue_that_does_not_exist_is_said_to_be_missing(sqs: Opened) -> None:
    url = f"{sqs.broker.url.options['endpoint']}/123456789012/nothing"
    with pytest.raises(BrokerError, match="the queue that the URL names does not exist"):
        Opened(f"{sqs.broker.url.reveal()}&queues=q:{url}", sqs.prefix).send("a")


def test_with_an_account_the_urls_are_put_together(sqs: Opened) -> None:
    sqs.send("before")
    account = sqs.url_of().split("/")[-2]
    told = Opened(f"{sqs.broker.url.reveal()}&account={account}", sqs.prefix)
    assert ids(told.take()) == ["before"]
    told.send("a")
    assert {name for name, _ in told.asked} == {"SendMessageBatch", "ReceiveMessage"}
    with pytest.raises(BrokerError, match="does not exist"):
        told.send("a", queue="other")


def test_setup_creates_what_is_missing_and_says_so(sqs: Opened) -> None:
    (made,) = sqs.broker.setup(["q"])
    assert made == f"created the queue {sqs.url_of()}"
    assert sqs.broker.setup(["q"]) == []


def test_a_declared_queue_is_created_with_its_attributes(sqs: Opened) -> None:
    sqs.broker.declare([Queue(name="q", arguments={"MessageRetentionPeriod": 600})])
    sqs.broker.declare([Queue(name="q", arguments={"MessageRetentionPeriod": 600})])
    with pytest.raises(BrokerError, match="exists with MessageRetentionPeriod=600, and 700 is declared"):
        sqs.broker.declare([Queue(name="q", arguments={"MessageRetentionPeriod": 700})])


def test_what_the_engine_names_after_a_declared_queue_gets_its_attributes(sqs: Opened) -> None:
    sqs.send("a", queue="dlq")
    arn = sqs.client.get_queue_attributes(QueueUrl=sqs.url_of("dlq"), AttributeNames=["QueueArn"])["Attributes"]
    redrive = {"deadLetterTargetArn": arn["QueueArn"], "maxReceiveCount": 3}
    declared = Queue(name="q", arguments={"MessageRetentionPeriod": 600, "RedrivePolicy": redrive})
    sqs.broker.declare([declared])
    sqs.broker.declare([declared])
    sqs.send("a", queue="q__dead")
    has = sqs.client.get_queue_attributes(QueueUrl=sqs.url_of("q__dead"), AttributeNames=["All"])["Attributes"]
    assert has["MessageRetentionPeriod"] == "600"
    assert not has.get("RedrivePolicy")


def test_only_queues_with_the_prefix_are_listed(sqs: Opened) -> None:
    sqs.send("a", queue="shop.emails")
    sqs.client.create_queue(QueueName=f"other-{sqs.prefix}")
    assert list(sqs.broker.queues()) == ["shop.emails"]


def test_advice_is_about_what_loses_or_hides_messages(sqs: Opened) -> None:
    sqs.send("a", queue="dlq")
    arn = sqs.client.get_queue_attributes(QueueUrl=sqs.url_of("dlq"), AttributeNames=["QueueArn"])["Attributes"]
    redrive = json.dumps({"deadLetterTargetArn": arn["QueueArn"], "maxReceiveCount": 3})
    attributes = {"RedrivePolicy": redrive, "MessageRetentionPeriod": "86400", "DelaySeconds": "5"}
    sqs.client.create_queue(QueueName=f"{sqs.prefix}q", Attributes=attributes)
    redriven, forgets, delays = sqs.broker.advice(["q"])[:3]
    assert "when it has been received 3 times" in redriven
    assert "forgets messages after 1 days" in forgets
    assert "delays every message by 5 s" in delays


def test_without_a_prefix_the_whole_account_is_ours(server: SqsServer) -> None:
    broker = SqsBroker(Url.parse(server.url))
    broker.open()
    assert "every queue of the account" in broker.advice([])[0]


# Messages


def test_a_message_of_somebody_elses_comes_out_as_it_is(sqs: Opened) -> None:
    sqs.send("before")
    sqs.take()
    sent = sqs.client.send_message(QueueUrl=sqs.url_of(), MessageBody='{"task": "Grüße"}')
    (foreign,) = sqs.take()
    assert (foreign.id, foreign.body) == (sent["MessageId"], '{"task": "Grüße"}'.encode())
    assert list(sqs.broker.consumer(["q"], LONG).ack([foreign])) == []


def test_a_key_is_the_group_by_which_a_queue_is_fair(sqs: Opened) -> None:
    sqs.send("a", key="tenant-7")
    (seen,) = sqs.client.receive_message(QueueUrl=sqs.url_of(), MessageSystemAttributeNames=["All"])["Messages"]
    assert seen["Attributes"]["MessageGroupId"] == "tenant-7"


def test_purging_spares_what_is_lent_and_takes_the_rest_one_by_one(sqs: Opened) -> None:
    sqs.send("lent")
    lent = sqs.take()
    sqs.send(*(f"m{n}" for n in range(15)))
    assert sqs.broker.purge("q") == 15
    assert sqs.count("PurgeQueue") == 0
    assert list(sqs.broker.consumer(["q"], LONG).ack(lent)) == []


def test_a_queue_that_is_being_purged_already_is_emptied_by_hand(sqs: Opened) -> None:
    sqs.send("a", "b")
    sqs.send("later", delay=LONG)
    told = {"Error": {"Code": "AWS.SimpleQueueService.PurgeQueueInProgress", "Message": "wait 60 seconds"}}
    sqs.instead["PurgeQueue"] = [told]
    assert sqs.broker.purge("q") == 2


# FIFO


def test_messages_with_one_key_come_one_at_a_time_and_in_order(fifo: Opened) -> None:
    fifo.send(*(f"m{n}" for n in range(5)), key="one")
    consumer = fifo.broker.consumer(["q"], LONG)
    seen = []
    for _ in range(5):
        (delivery,) = consumer.receive(10, 5.0)
        seen.append(delivery.id)
        assert consumer.receive(10, 0) == []
        assert list(consumer.ack([delivery])) == []
    assert seen == ["m0", "m1", "m2", "m3", "m4"]


def test_messages_with_other_keys_do_not_wait_for_each_other(fifo: Opened) -> None:
    fifo.send("a1", "a2", key="a")
    fifo.send("b1", "b2", key="b")
    assert sorted(ids(fifo.take(2))) == ["a1", "b1"]


def test_what_is_given_back_keeps_its_place(fifo: Opened) -> None:
    fifo.send("m0", "m1", key="one")
    consumer = fifo.broker.consumer(["q"], LONG)
    consumer.requeue(consumer.receive(1, 5.0))
    (again,) = consumer.receive(1, 5.0)
    assert (again.id, again.delivery_count) == ("m0", 2)


def test_a_message_may_be_replayed_into_a_fifo_queue_soon_after_it_was_sent(fifo: Opened) -> None:
    fifo.send("a")
    fifo.broker.consumer(["q"], LONG).ack(fifo.take())
    fifo.send("a")
    assert ids(fifo.take()) == ["a"]


# Outages


def test_an_outage_is_met_and_survived() -> None:
    with closing(given_or_started(MiniStackServer, durable=True)) as server:
        sqs = Opened(server.url)
        sqs.send("a")
        consumer = sqs.broker.consumer(["q"], LONG)
        taken = consumer.receive(1, 5.0)
        waiting = Background(lambda: consumer.receive(1, 10.0))
        wait_until(lambda: sqs.count("ReceiveMessage") >= 3)
        server.kill()
        with pytest.raises(BrokerUnavailable):
            waiting.result()
        with pytest.raises(BrokerUnavailable):
            sqs.send("b")
        with pytest.raises(BrokerUnavailable):
            consumer.ack(taken)
        with pytest.raises(BrokerUnavailable):
            sqs.broker.open()
        consumer.close()
        server.start()
        # It is empty now, queues included.
        sqs.broker.open()
        sqs.send("c")
        assert ids(sqs.take()) == ["c"]


# The real thing


def test_a_message_goes_through_amazons_own(live_sqs: LiveSqs) -> None:
    sqs = Opened(live_sqs.url if "?" in live_sqs.url else f"{live_sqs.url}?create=yes")
    body = bytes(range(256))
    sqs.broker.publish([Envelope(id="a", queue="q", body=body, attempt=1)])
    (delivery,) = sqs.take()
    assert (delivery.id, delivery.body, delivery.attempt, delivery.delivery_count) == ("a", body, 1, 1)
    consumer = sqs.broker.consumer(["q"], LONG)
    assert list(consumer.extend([delivery], LONG)) == []
    assert list(consumer.ack([delivery])) == []
    sqs.client.delete_queue(QueueUrl=sqs.url_of())
