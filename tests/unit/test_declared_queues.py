"""Declared queues: topics, what `task_queues` may say, and which broker has to be told of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import kombu
import kombu.common
import pytest
from hypothesis import given
from hypothesis import settings as trying
from hypothesis import strategies as st

from dray import Capabilities, NotSupported, Queue, SettingError
from dray.queues import bound, check_declared, declared, fits, reached, read_queue, topic_fits
from dray.settings import Settings

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
