"""Routing: declared queues, exchanges and keys, routers, and which queue a call comes to on any broker."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Sequence
from typing import Any

import kombu
import kombu.common
import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as trying
from hypothesis import strategies as st

from dray import (
    Capabilities,
    Dray,
    Envelope,
    Message,
    NotSupported,
    Queue,
    SettingError,
    TaskOptionError,
    hookimpl,
)
from dray.codec import pack, unpack
from dray.queues import bound, check_declared, declared, fits, reached, read_queue, topic_fits
from dray.settings import Settings
from dray.testing import Enqueued
from dray_brokers.memory import MemoryBroker

# Topics


@pytest.mark.parametrize(
    ("pattern", "key", "does"),
    [
        ("media.video", "media.video", True),
        ("media.video", "media.audio", False),
        ("media.*", "media.video", True),
        ("media.*", "media", False),
        ("media.*", "media.video.hd", False),
        ("*.video", "media.video", True),
        ("media.#", "media", True),
        ("media.#", "media.video.hd", True),
        ("media.#", "mediaeval", False),
        ("#", "", True),
        ("#", "anything.at.all", True),
        ("*", "", False),
        ("", "", True),
        ("", "a", False),
        ("#.hd", "hd", True),
        ("#.hd", "media.video.hd", True),
        ("#.hd", "media.hd.video", False),
        ("a.#.z", "a.z", True),
        ("a.#.z", "a.b.c.z", True),
        ("a.#.*", "a", False),
        ("a.*.#", "a.b", True),
        ("#.#", "", True),
        ("#.*.#", "one", True),
        ("#.*.#", "", False),
        ("a..b", "a..b", True),
        ("a.*.b", "a..b", True),
        (".", ".", True),
        ("*.*", ".", True),
        ("a.", "a", False),
        ("med*", "media", False),
        ("[m]edia", "media", False),
    ],
)
def test_a_topic_key_fits_a_pattern_word_by_word(pattern: str, key: str, does: bool) -> None:
    assert topic_fits(pattern, key) is does


def slowly_fits(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """Say the same as `topic_fits` straight from the definition: try every share of the words for the first part."""
    if not pattern:
        return not words
    first, rest = pattern[0], pattern[1:]
    if first == "#":
        return any(slowly_fits(rest, words[n:]) for n in range(len(words) + 1))
    return bool(words) and (first == "*" or first == words[0]) and slowly_fits(rest, words[1:])


@trying(max_examples=500)
@given(
    pattern=st.lists(st.sampled_from(["a", "b", "", "*", "#"]), max_size=6),
    words=st.lists(st.sampled_from(["a", "b", "", "c"]), max_size=6),
)
def test_topics_mean_what_their_definition_says(pattern: list[str], words: list[str]) -> None:
    # A single empty word cannot be told from no word at all.
    pattern, words = ([] if one == [""] else one for one in (pattern, words))
    assert topic_fits(".".join(pattern), ".".join(words)) is slowly_fits(pattern, words)


def test_many_hashes_take_no_time() -> None:
    assert not topic_fits("#.a." * 40 + "z", ".".join("a" * 120))


@pytest.mark.parametrize(("type", "does"), [("direct", False), ("topic", True), ("fanout", True)])
def test_the_type_of_an_exchange_decides_what_fits(type: str, does: bool) -> None:
    assert fits(Queue(name="q", exchange="x", type=type, routing_key="a.*"), "a.b") is does


def test_what_has_no_exchange_is_not_reached_through_one() -> None:
    queues = [Queue(name="plain"), Queue(name="bound", exchange="x", routing_key="k")]
    assert reached(queues, "", "") == []
    assert reached(queues, "x", "k") == [queues[1]]
    assert reached(queues, "y", "k") == []


# Declaring queues


MEDIA = {"name": "video", "exchange": "media", "type": "topic", "routing_key": "media.video.#"}


@pytest.mark.parametrize(
    ("said", "queues"),
    [
        ("one, two", [Queue(name="one"), Queue(name="two")]),
        (["one", Queue(name="two")], [Queue(name="one"), Queue(name="two")]),
        ([MEDIA], [Queue(**MEDIA)]),  # type: ignore[arg-type]
        ('[{"name": "news", "broadcast": true}, "one"]', [Queue(name="news", broadcast=True), Queue(name="one")]),
        ({"one"}, [Queue(name="one")]),
        ([], []),
        (None, None),
        ("none,", [Queue(name="none")]),
    ],
)
def test_queues_are_declared_by_name_table_or_object(said: Any, queues: list[Queue] | None) -> None:
    conf = Settings()
    conf.update(task_queues=said)
    assert conf.task_queues == queues


def test_queues_of_kombu_are_read_without_importing_it_in_the_engine() -> None:
    media = kombu.Exchange("media", type="topic")
    conf = Settings()
    conf.update(
        task_queues=(
            kombu.Queue("default"),
            kombu.Queue("video", media, routing_key="media.video.#"),
            kombu.Queue("tight", kombu.Exchange("tight"), "tight", max_length=10, message_ttl=1.5, max_priority=9),
            kombu.Queue("odd", queue_arguments={"x-queue-type": "quorum"}),
            kombu.common.Broadcast("news"),
        )
    )
    assert conf.task_queues == [
        Queue(name="default"),
        Queue(name="video", exchange="media", type="topic", routing_key="media.video.#"),
        Queue(
            name="tight",
            exchange="tight",
            routing_key="tight",
            arguments={"x-max-length": 10, "x-message-ttl": 1500, "x-max-priority": 9},
        ),
        Queue(name="odd", arguments={"x-queue-type": "quorum"}),
        Queue(name="news", exchange="news", type="fanout", broadcast=True),
    ]


@pytest.mark.parametrize(
    ("queue", "said"),
    [
        (kombu.Queue("q", kombu.Exchange("x", type="headers")), "type is 'direct', 'topic' or 'fanout'"),
        (kombu.Queue("q", [kombu.binding(kombu.Exchange("x"), "k")]), "kombu's bindings has no counterpart"),
        (kombu.Queue("q", exclusive=True), "for a copy in each worker say broadcast"),
        (kombu.Queue("q", auto_delete=True), "a queue outlives its workers"),
        (kombu.Queue("q", no_ack=True), "acks_late=False"),
        (kombu.Queue("q", durable=False), "survive a restart"),
        (kombu.Queue("q", no_declare=True), "name the queue only"),
        (kombu.Queue("q", consumer_arguments={"x-priority": 1}), "consumers have no arguments"),
        (kombu.Queue("q", kombu.Exchange("x", durable=False)), "survive a restart"),
        (kombu.Queue("q", kombu.Exchange("x", delivery_mode="transient")), "survive a restart"),
        (kombu.Queue("q", kombu.Exchange("x", auto_delete=True)), "an exchange outlives its queues"),
        (kombu.Queue("q", kombu.Exchange("x", arguments={"alternate-exchange": "y"})), "exchanges have no arguments"),
        (kombu.Queue("two words"), "without whitespace"),
        ({"name": "q", "typ": "topic"}, "a queue has no 'typ'; did you mean 'type'?"),
        ({"exchange": "x"}, "has no name"),
        ({"name": "q", "type": "headers"}, "type is 'direct', 'topic' or 'fanout', and not 'headers'"),
        ({"name": "q", "exchange": "x" * 256}, "exchange is a text of up to 255 bytes"),
        ({"name": "q", "broadcast": "perhaps"}, "queue 'q': Expected `bool`"),
        (Queue(name="q", arguments={1: 2}), "arguments is a table whose keys are texts"),  # type: ignore[dict-item]
        (Queue(name="q", routing_key=7), "routing_key is a text"),  # type: ignore[arg-type]
        ("", "1 to 128 characters"),
        (7, "7 is none of them"),
    ],
)
def test_what_cannot_be_declared_is_refused_in_words(queue: Any, said: str) -> None:
    with pytest.raises(SettingError, match=re.escape(said)) as caught:
        Settings().update(task_queues=[queue])
    assert str(caught.value).startswith("task_queues = ")
    with pytest.raises(ValueError, match=re.escape(said)):
        read_queue(queue)


def conf_with(*queues: Any, **settings: Any) -> Settings:
    conf = Settings()
    conf.update(task_queues=queues, **settings)
    return conf


def test_a_queue_with_a_key_only_is_bound_to_the_default_exchange() -> None:
    only_key = {"name": "feeds", "routing_key": "feed.#"}
    assert bound(conf_with(only_key, task_default_exchange="tasks", task_default_exchange_type="topic")) == [
        Queue(name="feeds", exchange="tasks", type="topic", routing_key="feed.#")
    ]
    assert bound(conf_with(only_key, task_default_queue="celery"))[0].exchange == "celery"


@pytest.mark.parametrize(
    "queues",
    [
        (MEDIA, {"name": "video"}),
        (MEDIA, {"name": "audio", "exchange": "media", "type": "direct", "routing_key": "a"}),
    ],
)
def test_declarations_that_contradict_each_other_are_an_error(queues: Any) -> None:
    with pytest.raises(SettingError, match=r"two queues are called 'video'|exchange 'media' is topic for .*direct for"):
        bound(conf_with(*queues))


def test_the_same_queue_twice_is_one_queue() -> None:
    assert len(bound(conf_with("one", "one", MEDIA, MEDIA))) == 2


def test_only_queues_that_need_more_than_a_name_are_declared() -> None:
    conf = conf_with("plain", MEDIA, {"name": "news", "broadcast": True}, {"name": "full", "arguments": {"x": 1}})
    assert [queue.name for queue in declared(conf)] == ["video", "news", "full"]
    assert declared(Settings()) == []


def test_a_broker_is_told_of_what_it_can_do() -> None:
    able = Capabilities(exchanges=True, broadcast=True)
    queues = declared(conf_with(MEDIA, {"name": "news", "broadcast": True}, {"name": "full", "arguments": {"x": 1}}))
    assert check_declared(queues, able) == queues
    assert check_declared(queues[:1], Capabilities()) == []
    assert check_declared(queues[1:2], Capabilities(broadcast=True)) == queues[1:2]
    # How a queue is kept is nobody else's business.
    assert check_declared([Queue(name="q", arguments={"x-queue-type": "quorum"})], Capabilities()) == []


@pytest.mark.parametrize(
    ("queue", "said"),
    [
        (Queue(name="news", broadcast=True), "'news' is a broadcast queue, and this broker cannot give each worker"),
        (
            Queue(name="full", arguments={"x-max-length": 1}),
            "'full' has arguments that this broker does not know (x-ma",
        ),
    ],
)
def test_a_broker_that_would_leave_it_undone_is_refused(queue: Queue, said: str) -> None:
    with pytest.raises(NotSupported, match=re.escape(said)):
        check_declared([queue], Capabilities())


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


# Routers


def by_customer(name: str, args: Sequence[Any], kwargs: dict[str, Any], options: dict[str, Any]) -> Any:
    """A router that sends the calls of big customers elsewhere."""
    return {"queue": "big", "priority": 7} if name == "work" and args and args[0] == "acme" else None


class OldRouter:
    def route_for_task(self, task: str, args: Sequence[Any] = (), kwargs: Any = None) -> str | None:
        return "old" if task == "work" else None


def sent_to(task: Any, enqueued: Enqueued, *args: Any, **options: Any) -> tuple[str, int]:
    task.apply_async(args, **options)
    (message,) = enqueued.drain()
    return message.queue, message.priority


@pytest.mark.dray(task_routes=[by_customer, {"wo*": "some"}, ("*", {"queue": "rest", "priority": 1})])
def test_the_first_router_that_answers_decides(dray_app: Dray, task: Any, dray_enqueued: Enqueued) -> None:
    assert sent_to(task, dray_enqueued, "acme") == ("big", 7)
    assert sent_to(task, dray_enqueued, "tiny") == ("some", 0)
    assert sent_to(task, dray_enqueued) == ("some", 0)
    # What the call says, and what the task says, is not asked of any router.
    assert sent_to(task, dray_enqueued, "acme", queue="mine") == ("mine", 0)
    assert sent_to(task, dray_enqueued, "acme", priority=2) == ("big", 2)
    own = dray_app.task(name="own", queue="mine")(lambda *args: None)
    assert sent_to(own, dray_enqueued, "acme") == ("mine", 1)
    dray_app.send_task("unknown")
    assert dray_enqueued.drain()[0].queue == "rest"
    dray_app.send_task("work", ("acme",))
    assert dray_enqueued.drain()[0].queue == "big"


@pytest.mark.dray(task_routes=by_customer)
def test_calls_of_one_batch_are_routed_one_by_one(task: Any, dray_enqueued: Enqueued) -> None:
    task.delay_many([("acme",), ("tiny",), {"customer": 3}])
    assert sorted(message.queue for message in dray_enqueued.drain()) == ["big", "default", "default"]


@pytest.mark.dray(task_routes=by_customer)
def test_callbacks_are_routed_by_their_arguments(task: Any, dray_app: Dray, dray_enqueued: Enqueued) -> None:
    @dray_app.task(name="first")
    def first() -> str:
        return "acme"

    first.apply_async(link=[task.s(), task.si("acme"), task.si("tiny")])
    dray_app.worker(["default"]).run_until_idle()
    assert [(m.queue, m.args) for m in dray_enqueued.drain()] == [("big", ("acme",)), ("big", ("acme",))]


@pytest.mark.dray(task_routes=by_customer, task_always_eager=True)
def test_an_eager_call_knows_its_queue(dray_app: Dray) -> None:
    told = dray_app.task(name="work", bind=True)(lambda self, customer: self.request.queue)
    assert told.delay("acme").get() == "big"


@pytest.mark.parametrize("router", [OldRouter(), OldRouter])
def test_an_object_with_route_for_task_is_a_router(dray_app: Dray, dray_enqueued: Enqueued, router: Any) -> None:
    dray_app.conf.task_routes = [router]
    assert sent_to(dray_app.task(name="work")(lambda: None), dray_enqueued) == ("old", 0)


@pytest.fixture
def routing(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The module `shop_routing`."""
    module = types.ModuleType("shop_routing")
    module.route = by_customer  # type: ignore[attr-defined]
    module.number = 5  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop_routing", module)
    return module


@pytest.mark.parametrize("path", ["shop_routing:route", "shop_routing.route", ["shop_routing:route", {"a": "b"}]])
def test_a_router_is_named_by_its_path_and_imported_when_it_is_asked(
    dray_app: Dray, dray_enqueued: Enqueued, routing: types.ModuleType, path: Any
) -> None:
    dray_app.conf.task_routes = path
    assert sent_to(dray_app.task(name="work")(lambda customer: None), dray_enqueued, "acme") == ("big", 7)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("shop_routing:rout", "'shop_routing:rout' cannot be imported: module 'shop_routing' has no attribute 'rout'"),
        ("shop_routin.route", "'shop_routin.route' cannot be imported: No module named 'shop_routin'"),
        ("shop_routing:number", "'shop_routing:number' is int, and not a function"),
    ],
)
def test_a_path_that_leads_nowhere_is_told_when_it_is_asked(
    dray_app: Dray, routing: types.ModuleType, path: str, said: str
) -> None:
    dray_app.conf.task_routes = path  # type: ignore[assignment]
    with pytest.raises(SettingError, match=re.escape(said)):
        dray_app.task(name="work")(lambda: None).delay()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"queu": "x"}, "says: it has no 'queu'; did you mean 'queue'?"),
        ("two words", "'two words' is no route"),
        (5, "5 is no route"),
        ({"priority": 10}, "is no route: that is a queue name without whitespace, or a table of queue, priority (0 to"),
        ({"exchange": "x"}, "no queue is bound to the exchange 'x'"),
    ],
)
def test_an_answer_that_is_no_route_is_told_with_its_router(dray_app: Dray, answer: Any, said: str) -> None:
    def asked(name: str, args: Any, kwargs: Any, options: Any) -> Any:
        return answer

    dray_app.conf.task_routes = asked  # type: ignore[assignment]
    with pytest.raises(TaskOptionError, match=re.escape(said)) as caught:
        dray_app.task(name="work")(lambda: None).delay()
    assert "sending work: " in str(caught.value) and "asked" in str(caught.value)


def test_a_function_that_takes_something_else_is_no_router(dray_app: Dray) -> None:
    dray_app.conf.task_routes = lambda name: "x"  # type: ignore[assignment]
    with pytest.raises(SettingError, match=r"takes \(name\); a function that routes takes what this one does"):
        dray_app.task(name="work")(lambda: None).delay()


@pytest.mark.dray(
    task_queues=QUEUES,
    task_routes=[
        ("exact", "one"),
        (re.compile(r"(video|image)\..*"), {"exchange": "media", "routing_key": "media.video"}),
        ("mail.*", {"routing_key": "mail", "priority": 3}),
        ("later.*", {"priority": 2}),
    ],
)
def test_patterns_may_be_regular_expressions_and_routes_may_name_exchanges(dray_app: Dray) -> None:
    routes = [tuple(dray_app.route(name))[:2] for name in ("exact", "image.crop", "mail.send", "later.x", "other")]
    assert routes == [("one", 0), ("video", 0), ("mail", 3), ("default", 2), ("default", 0)]


@pytest.mark.dray(task_queues=QUEUES, task_routes={"a.*": {"exchange": "media", "routing_key": "nowhere"}})
def test_a_route_that_leads_nowhere_is_an_error_of_the_settings(dray_app: Dray) -> None:
    with pytest.raises(SettingError, match=r"^task_routes\['a\.\*'\]: no queue is bound to the exchange 'media'"):
        dray_app.route("other")


@pytest.mark.dray(task_queues=QUEUES, task_routes={"both.*": {"exchange": "both"}})
def test_a_route_to_several_queues_leaves_the_worker_with_the_declared_ones(dray_app: Dray) -> None:
    dray_app.task(name="both.sides")(lambda: None)
    assert dray_app.route("both.sides").exchange == "both"
    assert "" not in dray_app.worker().queues


def test_what_a_router_raises_comes_out_where_the_task_is_sent(dray_app: Dray) -> None:
    def broken(name: str, args: Any, kwargs: Any, options: Any) -> Any:
        raise KeyError("no such customer")

    dray_app.conf.task_routes = broken  # type: ignore[assignment]
    with pytest.raises(KeyError, match="no such customer"):
        dray_app.task(name="work")(lambda: None).delay()


@pytest.mark.parametrize(
    "said",
    [
        by_customer,
        [by_customer],
        "a.b:c, d.e",
        '["a.b:c", {"x": "y"}]',
        [{"a": "b"}, [("c.*", {"queue": "d"}), (re.compile("e"), "f")], OldRouter()],
        (("a", "b"), ("c", {"priority": 1})),
        {re.compile("a"): "b"},
        {"a": {"queue": "b", "exchange": "x", "routing_key": "k"}},
        {},
    ],
)
def test_routes_read_twice_are_the_same(said: Any) -> None:
    conf = Settings()
    conf.update(task_routes=said)
    again = Settings()
    again.update(task_routes=conf.task_routes)
    assert again.task_routes == conf.task_routes
    assert "task_routes" in conf.shown()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("nodots", "'nodots' is not the path of a function, such as 'shop.routing:route'"),
        ([5], "5 is neither a table nor a function, nor the path of one"),
        ([["a", "b", "c"]], "'a' is not a pair of a task's name or pattern and its route"),
        ({"": "q"}, "a route needs the name or pattern of a task"),
        ({5: "q"}, "(5, 'q') is not a pair"),
        (7, "7 is neither a table"),
    ],
)
def test_what_is_no_router_is_refused_in_words(said: Any, words: str) -> None:
    with pytest.raises(SettingError, match=re.escape(words)):
        Settings().update(task_routes=said)
