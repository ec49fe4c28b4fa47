"""Routing: which queue a call with an exchange and a routing key comes to on any broker; keys of order and fairness."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from dray import Dray, Envelope, Message, NotSupported, Queue, TaskOptionError, hookimpl
from dray.codec import pack, unpack
from dray.testing import Enqueued
from dray_brokers.memory import MemoryBroker

# Calls with an exchange and a key


QUEUES = [
    "default",
    Queue(name="video", exchange="media", type="topic", routing_key="media.video.#"),
    Queue(name="audio", exchange="media", type="topic", routing_key="media.audio.*"),
    Queue(name="all", exchange="media", type="topic", routing_key="media.*.raw"),
    Queue(name="left", exchange="both", type="fanout"),
    Queue(name="right", exchange="both", type="fanout"),
    Queue(name="mail", routing_key="mail"),
]


@pytest.fixture
def task(dray_app: Dray) -> Any:
    return dray_app.task(name="work")(lambda *args, **kwargs: None)


def where(enqueued: Enqueued) -> str:
    (message,) = enqueued.drain()
    assert (message.exchange, message.routing_key) == ("", "")
    return message.queue


@pytest.mark.dray(task_queues=QUEUES)
@pytest.mark.parametrize(
    ("options", "queue"),
    [
        ({}, "default"),
        ({"exchange": "media", "routing_key": "media.video.hd.long"}, "video"),
        ({"exchange": "media", "routing_key": "media.audio.flac"}, "audio"),
        ({"exchange": "media", "routing_key": "media.text.raw"}, "all"),
        # A key alone goes to the default exchange.
        ({"routing_key": "mail"}, "mail"),
        ({"exchange": "default", "routing_key": "mail"}, "mail"),
        # Both, as Celery's users write it: they agree, or the queue has no binding.
        ({"queue": "video", "exchange": "media", "routing_key": "media.video"}, "video"),
        ({"queue": "video", "exchange": "media", "routing_key": "media.video.raw"}, "video"),
        ({"queue": "left", "exchange": "both"}, "left"),
        ({"queue": "new", "routing_key": "new"}, "new"),
        ({"queue": "new", "exchange": "new", "routing_key": "new"}, "new"),
        ({"queue": "default", "routing_key": "whatever"}, "default"),
        # A queue without a binding is there under its own name.
        ({"routing_key": "default"}, "default"),
        ({"exchange": "", "routing_key": "default"}, "default"),
    ],
)
def test_a_key_comes_to_the_one_queue_that_wants_it_on_every_broker(
    task: Any, dray_enqueued: Enqueued, options: dict[str, Any], queue: str
) -> None:
    task.apply_async(**options)
    assert where(dray_enqueued) == queue


@pytest.mark.dray(task_queues=QUEUES)
@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        (
            {"exchange": "media", "routing_key": "media.text"},
            TaskOptionError,
            "sending work: no queue is bound to the exchange 'media' with the routing key 'media.text'. Bound in "
            "task_queues: default (by its name only); video (exchange 'media', topic, routing_key 'media.video.#'); ",
        ),
        ({"exchange": "medai", "routing_key": "media.text"}, TaskOptionError, "no queue is bound to the exchange 'med"),
        ({"routing_key": "nobody"}, TaskOptionError, "the exchange 'default' with the routing key 'nobody'"),
        ({"exchange": "media"}, TaskOptionError, "with the routing key ''"),
        (
            {"queue": "audio", "exchange": "media", "routing_key": "media.video"},
            TaskOptionError,
            "does not reach the queue 'audio': say one or the other",
        ),
        (
            {"exchange": "media", "routing_key": "media.video.raw"},
            NotSupported,
            "sending work to the exchange 'media' with the routing key 'media.video.raw': several queues are bound to "
            "that (video, all), and this broker has no exchanges: name one with queue=",
        ),
        ({"exchange": "both"}, NotSupported, "(left, right)"),
        ({"exchange": 5}, TaskOptionError, "exchange is a text of up to 255 bytes; got 5"),
        ({"routing_key": "k" * 256}, TaskOptionError, "routing_key is a text of up to 255 bytes"),
    ],
)
def test_a_key_that_nobody_or_several_want_is_refused_in_words(
    task: Any, dray_enqueued: Enqueued, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=re.escape(said)):
        task.apply_async(**options)
    assert dray_enqueued.all() == []


@pytest.mark.dray(
    task_queues=QUEUES,
    task_default_exchange="media",
    task_default_exchange_type="topic",
    task_default_routing_key="media.audio.wav",
)
def test_the_defaults_fill_in_what_a_call_leaves_out(task: Any, dray_enqueued: Enqueued) -> None:
    task.apply_async(exchange="media")
    assert where(dray_enqueued) == "audio"
    task.apply_async(routing_key="media.video")
    assert where(dray_enqueued) == "video"


@pytest.mark.dray(task_queues=QUEUES)
def test_a_task_and_a_signature_may_have_an_exchange_too(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    heard = dray_app.task(name="heard", exchange="media", routing_key="media.audio.wav")(lambda: None)
    heard.delay()
    assert where(dray_enqueued) == "audio"
    heard.apply_async(queue="elsewhere")
    assert where(dray_enqueued) == "elsewhere"
    heard.s().set(routing_key="mail").delay()
    assert where(dray_enqueued) == "mail"
    dray_app.send_task("unknown", exchange="media", routing_key="media.video")
    assert where(dray_enqueued) == "video"


@pytest.mark.dray(task_queues=QUEUES)
def test_a_callback_goes_through_its_exchange(task: Any, dray_app: Dray, dray_enqueued: Enqueued) -> None:
    task.apply_async(link=task.si(1).set(exchange="media", routing_key="media.video"))
    dray_app.worker(["default"]).run_until_idle()
    assert where(dray_enqueued) == "video"


@pytest.mark.dray(task_queues=QUEUES, task_create_missing_queues=False)
def test_declared_queues_are_the_known_ones(task: Any, dray_enqueued: Enqueued) -> None:
    task.apply_async(queue="video")
    assert where(dray_enqueued) == "video"
    task.apply_async(exchange="media", routing_key="media.video")
    assert where(dray_enqueued) == "video"
    with pytest.raises(TaskOptionError, match=r"no queue 'vidoe' in task_queues.*did you mean 'video'"):
        task.apply_async(queue="vidoe")


@pytest.mark.dray(task_queues=QUEUES)
def test_a_worker_serves_the_declared_queues(dray_app: Dray) -> None:
    dray_app.task(name="heard", exchange="media", routing_key="media.audio.wav")(lambda: None)
    dray_app.task(name="both", exchange="both")(lambda: None)
    assert dray_app.worker().queues == ["default", "video", "audio", "all", "left", "right", "mail"]


# A broker that has exchanges


class Exchanging(MemoryBroker):
    """Memory that says it has exchanges, and keeps what it is sent."""

    capabilities = msgspec.structs.replace(MemoryBroker.capabilities, exchanges=True, broadcast=True, key="order")
    sent: list[Envelope]

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        self.sent = [*getattr(self, "sent", []), *envelopes]


class Plugin:
    @hookimpl
    def register_brokers(self, register: Any) -> None:
        register("exchanging", Exchanging)


@pytest.fixture
def exchanging(dray_app: Dray) -> Exchanging:
    dray_app.plugins.register(Plugin())
    dray_app.conf.broker_url = "exchanging://"
    broker = dray_app.broker
    broker = getattr(broker, "transport", broker)
    assert isinstance(broker, Exchanging)
    return broker


@pytest.mark.dray(task_queues=QUEUES)
def test_a_key_that_several_queues_want_is_left_to_a_broker_with_exchanges(task: Any, exchanging: Exchanging) -> None:
    task.apply_async(exchange="media", routing_key="media.video.raw")
    task.apply_async(exchange="media", routing_key="media.video")
    several, one = exchanging.sent
    assert (several.queue, several.exchange, several.routing_key) == ("", "media", "media.video.raw")
    assert (one.queue, one.exchange, one.routing_key) == ("video", "", "")
    message = unpack(several.body)
    assert (message.queue, message.exchange, message.routing_key) == ("", "media", "media.video.raw")


def test_what_came_through_an_exchange_belongs_to_its_queue_from_then_on(dray_app: Dray) -> None:
    seen = []

    @dray_app.task(bind=True, name="again", retry_jitter=False)
    def again(self: Any) -> None:
        seen.append((self.request.queue, self.request.retries))
        if self.request.retries == 0:
            raise self.retry(countdown=0)

    message = Message(id="one", task="again", queue="", exchange="both", content_type="application/json")
    packed = dray_app.payloads.encode(message, "json", None)
    dray_app.broker.publish([Envelope(id="one", queue="left", body=pack(packed))])
    dray_app.worker(["left", "right"]).run_until_idle()
    assert seen == [("left", 0), ("left", 1)]


# Keys of order and fairness


def test_a_key_travels_and_stays_through_retries(task: Any, exchanging: Exchanging) -> None:
    task.apply_async(key="customer-7", ordered=True)
    task.apply_async()
    with_key, without = exchanging.sent
    assert with_key.key == "customer-7" and without.key is None
    message = unpack(with_key.body)
    assert (message.key, message.ordered) == ("customer-7", True)
    again = task.app.sender.enclose(message.but(retries=1))
    assert (again.key, again.attempt) == ("customer-7", 1)


def test_a_key_alone_is_harmless_where_no_broker_knows_it(task: Any, dray_enqueued: Enqueued) -> None:
    task.apply_async(key="customer-7")
    assert dray_enqueued.drain()[0].key == "customer-7"


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"key": "a", "ordered": True}, NotSupported, "in the order of its key 'a': this broker does not keep one"),
        ({"ordered": True}, TaskOptionError, "ordered=True keeps the order of a key; say which"),
        ({"key": ""}, TaskOptionError, "key is a text of 1 to 128 characters; got ''"),
        ({"key": 7}, TaskOptionError, "got 7"),
        ({"key": "a", "ordered": 1}, TaskOptionError, "ordered is true or false; got 1"),
    ],
)
def test_an_order_that_nobody_keeps_is_refused(
    task: Any, dray_enqueued: Enqueued, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=re.escape(said)):
        task.apply_async(**options)
    assert dray_enqueued.all() == []


def test_a_task_may_have_a_key_of_its_own(dray_app: Dray, exchanging: Exchanging) -> None:
    dray_app.task(name="ledger", key="ledger", ordered=True)(lambda: None).delay()
    assert exchanging.sent[0].key == "ledger"
