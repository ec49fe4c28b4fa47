"""Bytes in a queue that no sender of ours would write: kept whole, with a reason, and harmless to everything else."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dray import ManualClock, Message, Step, TaskRejected
from dray.codec import MAGIC, pack

from .conftest import Shop

Make = Callable[..., Shop]

DEEP = b"[" * 100_000 + b"]" * 100_000


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def message(shop: Shop, payload: bytes = b"[[], {}]", **fields: Any) -> bytes:
    """Return the body of a message as another program may have written it."""
    given = {"id": "planted", "task": "good", "created": shop.app.clock.time(), **fields}
    return pack(Message(payload=payload, **given))


@pytest.fixture
def good(shop: Shop) -> Any:
    return shop.app.task(name="good")(lambda: "done")


def check_buried(shop: Shop, good: Any, body: bytes, *reason: str) -> None:
    """Run a queue in which `body` lies among good work; check that it alone is buried, byte for byte."""
    before = [good.delay() for _ in range(3)]
    shop.put(body)
    after = [good.delay() for _ in range(3)]
    shop.run(concurrency=1)
    assert [r.get(timeout=5) for r in before + after] == ["done"] * 6
    (letter,) = shop.dead()
    assert (letter.id, letter.body) == ("planted", body)
    for word in reason:
        assert word in letter.reason
    assert shop.sizes() == {"ready": 0, "delayed": 0, "leased": 0, "dead": 1}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b"garbage", "not a dray message"),
        (os.urandom(4096), "not a dray message"),
        (MAGIC[:2] + b"9\x00\x00", "wire version"),
        (MAGIC + b"\x07\x00", "flags 7"),
        (MAGIC + b"\x00", "truncated"),
        (MAGIC + b"\x00\xff\xff\xff\xff\xff\xff", "truncated"),
        (MAGIC + b"\x00\x7f\x81", "truncated"),
        (MAGIC + b"\x00\x03\xc1\xc1\xc1", "cannot be read"),
        (MAGIC + b"\x00\x0a\x82\xa2id\xa1\xff\xa1t\xa1t", "utf-8"),
        (json.dumps({"body": "W10=", "properties": {}, "headers": {}}).encode(), "Celery"),
    ],
)
def test_what_is_no_message_of_ours_is_buried(shop: Shop, good: Any, body: bytes, reason: str) -> None:
    check_buried(shop, good, body, "unreadable", reason)


def test_a_message_cut_short_is_buried(shop: Shop, good: Any) -> None:
    body = message(shop, headers={"x": "y" * 100})
    check_buried(shop, good, body[:60], "unreadable", "truncated")


def test_metadata_nested_without_end_is_buried(shop: Shop, good: Any) -> None:
    deep = b"\x81\xa1h\x81\xa1x" + b"\x91" * 100_000 + b"\xc0"
    check_buried(shop, good, MAGIC + b"\x00" + _varint(len(deep)) + deep, "unreadable")


def test_a_payload_nested_100_000_deep_is_buried(shop: Shop, good: Any) -> None:
    check_buried(shop, good, message(shop, DEEP), "deep")


def test_a_body_of_20_mb_is_buried_unread(shop: Shop, good: Any) -> None:
    check_buried(shop, good, message(shop, b"x" * 20_000_000), "unreadable", "20,000,", "task_max_message_bytes")


@pytest.mark.parametrize("payload", [b"", b"{}", b"[1]", b"[[], [], []]", b"[1, 2]", b'["ab", {}]', b"\xff\xfe"])
def test_a_payload_that_is_no_pair_of_arguments_is_buried(shop: Shop, good: Any, payload: bytes) -> None:
    check_buried(shop, good, message(shop, payload), "arguments cannot be used")


def test_arguments_that_do_not_fit_the_signature_are_buried(shop: Shop, good: Any) -> None:
    check_buried(shop, good, message(shop, b'[[1, 2], {"z": 3}]'), "arguments cannot be used")


@pytest.mark.parametrize("where", ["payload", "link", "link_error"])
def test_a_planted_pickle_is_never_unpickled(shop: Shop, good: Any, tmp_path: Path, where: str) -> None:
    target = tmp_path / "owned"
    bomb = pickle.dumps([[], {"x": Bomb(target)}])
    kind = "application/x-python-serialize"
    if where == "payload":
        body = message(shop, bomb, content_type=kind)
    elif where == "link":
        body = message(shop, link=(Step(task="good", payload=bomb, content_type=kind),))
    else:
        body = message(shop, b"not arguments", link_error=(Step(task="good", payload=bomb, content_type=kind),))
    check_buried(shop, good, body)
    assert not target.exists()


def test_an_unknown_content_type_or_encoding_is_buried(shop: Shop, good: Any) -> None:
    check_buried(shop, good, message(shop, content_type="text/klingon"), "text/klingon", "accept_content")


def test_an_unknown_compression_is_buried(shop: Shop, good: Any) -> None:
    check_buried(shop, good, message(shop, content_encoding="klingon"), "klingon")


def test_a_bomb_of_zeros_is_buried_unpacked_no_further_than_the_limit(shop: Shop, good: Any) -> None:
    import gzip

    body = message(shop, gzip.compress(b"0" * 50_000_000, 1), content_encoding="gzip")
    check_buried(shop, good, body, "arguments cannot be used")


@pytest.mark.parametrize(
    "fields",
    [
        {"retries": 2**62},
        {"retries": -(2**62)},
        {"priority": 99},
        {"created": float("inf")},
        {"created": float("nan")},
        {"queue": ""},
        {"expires": float("nan")},
        {"eta": float("inf")},
        {"root_id": "x" * 10_000},
        {"headers": {"traceparent": [{}]}},
        {"link": (Step(task="nobody", payload=b"[[], {}]", options={"countdown": "soon"}),)},
        {"link": (Step(task="nobody", payload=b"[[], {}]", options={"queue": ["a"], "priority": "high"}),)},
        {"link_error": (Step(task="nobody", payload=b"}"),)},
    ],
    ids=str,
)
@pytest.mark.parametrize("task", ["good", "unheard.of"])
def test_forged_metadata_neither_stops_the_worker_nor_goes_in_circles(
    shop: Shop, good: Any, fields: dict[str, Any], task: str
) -> None:
    shop.put(message(shop, task=task, **fields))
    others = [good.delay() for _ in range(3)]
    assert shop.run(concurrency=1, lease=0.05) < 10
    assert [r.get(timeout=5) for r in others] == ["done"] * 3
    # Whatever is wrong with it, it has run or it is kept.
    assert shop.sizes()["leased"] == 0 or shop.run(lease=0.05) < 10
    assert shop.app.AsyncResult("planted").state in ("SUCCESS", "REJECTED") or shop.dead()


def test_an_unknown_task_is_buried_with_the_nearest_name_and_its_error_link_called(shop: Shop) -> None:
    heard = []

    @shop.app.task(name="shop.resize")
    def resize() -> None: ...

    @shop.app.task
    def on_error(id: str) -> None:
        heard.append(id)

    result = shop.app.send_task("shop.resise", link_error=on_error.s())
    body = shop.app.broker.peek("default", 1)[0].body
    shop.run()
    (letter,) = shop.dead()
    assert letter.body == body
    assert "shop.resise" in letter.reason
    assert "shop.resize" in letter.reason
    assert heard == [result.id]
    assert isinstance(result.get(timeout=5, propagate=False), TaskRejected)


def test_an_unknown_task_waits_for_a_deploy_and_then_has_all_its_tries(shop_with: Make) -> None:
    clock = ManualClock()
    shop = shop_with(clock, task_unknown_grace=60.0)
    seen = []
    result = shop.app.send_task("shop.new", args=(7,))
    for _ in range(5):
        assert shop.run() == 1
        # Out of the way until the next look, and never in circles.
        assert shop.run() == 0
        clock.advance(5)
    assert result.state == "PENDING"
    assert not shop.dead()

    @shop.app.task(name="shop.new", bind=True)
    def new(self: Any, x: int) -> int:
        seen.append((self.request.delivery_count, self.request.retries))
        return x

    shop.run()
    assert result.get(timeout=5) == 7
    assert seen == [(1, 0)]


def test_an_unknown_task_handed_back_can_be_retried_later(shop_with: Make) -> None:
    clock = ManualClock()
    shop = shop_with(clock, task_unknown_grace=60.0)
    result = shop.app.send_task("shop.new")
    for _ in range(2):
        shop.run()
        clock.advance(5)

    @shop.app.task(name="shop.new", bind=True, max_retries=3)
    def new(self: Any) -> int:
        if self.request.retries < 3:
            raise self.retry(countdown=0)
        return int(self.request.retries)

    shop.run()
    assert result.get(timeout=5) == 3
    assert shop.sizes() == {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}


def test_an_unknown_task_is_buried_when_its_grace_is_over(shop_with: Make) -> None:
    clock = ManualClock()
    shop = shop_with(clock, task_unknown_grace=12.0)
    result = shop.app.send_task("shop.new")
    while not shop.dead():
        shop.run()
        clock.advance(5)
    assert 12 <= clock.time() - 1_700_000_000 <= 25
    assert result.state == "REJECTED"


def test_an_unknown_task_of_a_sender_whose_clock_is_ahead_does_not_circle(shop: Shop) -> None:
    shop.put(message(shop, task="unheard.of", created=shop.app.clock.time() + 3600))
    assert shop.run() == 1
    assert len(shop.dead()) == 1


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])
