"""Routing on a broker with exchanges: several queues, broadcast, and topics that mean what they mean at the sender."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from itertools import product
from typing import Any

import kombu
import kombu.common
import pika
import pytest

from dray import Dray, Url
from dray.queues import topic_fits
from dray.testing.faults import wait_until

PARTS = ["a", "b", "", "*", "#"]
WORDS = ["a", "b", "", "c"]


def test_topics_mean_what_rabbitmq_takes_them_to_mean(rabbitmq_server: Any) -> None:
    draw = random.Random(3)
    patterns = {".".join(draw.choices(PARTS, k=draw.randint(0, 5))) for _ in range(60)}
    patterns |= {".".join(parts) for parts in product(PARTS, repeat=2)}
    keys = {".".join(draw.choices(WORDS, k=draw.randint(0, 5))) for _ in range(40)}
    keys |= {".".join(words) for words in product(WORDS, repeat=2)}
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq_server.url))
    try:
        channel = connection.channel()
        channel.exchange_declare("dray.topics", "topic", auto_delete=True)
        queues = {}
        for pattern in sorted(patterns):
            queues[pattern] = channel.queue_declare("", exclusive=True).method.queue
            channel.queue_bind(queues[pattern], "dray.topics", pattern)
        channel.confirm_delivery()
        for key in sorted(keys):
            channel.basic_publish("dray.topics", key, key.encode())
        for pattern, queue in queues.items():
            got = set()
            while (found := channel.basic_get(queue, auto_ack=True))[0] is not None:
                got.add(found[2].decode())
            assert got == {key for key in keys if topic_fits(pattern, key)}, pattern
    finally:
        connection.close()


MEDIA = kombu.Exchange("media", type="topic")
QUEUES = [
    "default",
    kombu.Queue("video", MEDIA, routing_key="media.video.#"),
    kombu.Queue("raw", MEDIA, routing_key="media.*.raw"),
    kombu.common.Broadcast("news"),
]


@pytest.fixture
def app(rabbitmq_server: Any) -> Iterator[Dray]:
    """An app with queues of its own on RabbitMQ."""
    parsed = Url.parse(rabbitmq_server.url)
    options = {**parsed.options, "prefix": f"r{secrets.token_hex(4)}."}
    url = f"{parsed.reveal().partition('?')[0]}?" + "&".join(f"{name}={value}" for name, value in options.items())
    with Dray("routed", broker=url, result_backend="disabled", task_queues=QUEUES, set_as_current=False) as made:
        made.broker.setup([queue.name for queue in made.conf.task_queues or ()])
        yield made


def test_what_several_queues_want_reaches_each_once(app: Dray) -> None:
    seen = []

    @app.task(bind=True, name="see", retry_jitter=False)
    def see(self: Any) -> None:
        seen.append((self.request.queue, self.request.retries))
        if self.request.queue == "raw" and not self.request.retries:
            raise self.retry(countdown=0)

    with app.worker():
        see.apply_async(exchange="media", routing_key="media.video.raw")
        see.apply_async(exchange="media", routing_key="media.video.hd")
        # The retry stays in the queue it came out of.
        wait_until(lambda: len(seen) == 4, timeout=20)
    assert sorted(seen) == [("raw", 0), ("raw", 1), ("video", 0), ("video", 0)]


@pytest.mark.parametrize("address", [{"queue": "news"}, {"exchange": "news"}])
def test_every_worker_gets_a_copy_of_what_is_broadcast(app: Dray, address: dict[str, str]) -> None:
    heard = []
    app.task(name="hear")(heard.append)
    others = [Dray("other", set_as_current=False, result_backend="disabled") for _ in range(2)]
    for n, other in enumerate(others):
        other.conf.update(broker_url=app.conf.broker_url, task_queues=QUEUES)
        other.task(name="hear")(lambda news, n=n: heard.append(f"{news} {n}"))
    with others[0], others[1], others[0].worker(), others[1].worker():
        app.send_task("hear", ("rain",), **address)
        wait_until(lambda: len(heard) == 2, timeout=20)
    assert sorted(heard) == ["rain 0", "rain 1"]
