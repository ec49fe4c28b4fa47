"""What an envelope looks like as an SQS message: every byte survives, in characters and sizes that SQS takes."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dray import Envelope
from dray_brokers.sqs_wire import (
    MOST_BYTES,
    Refused,
    batches,
    entry,
    group,
    largest_body,
    queue_name,
    queue_of,
    read,
    write,
)

#: What SQS takes in a body (the characters of XML 1.0), without the carriage return that XML readers change.
ALLOWED = re.compile("[\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")
QUEUE_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=128)
queues = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10)


def envelope(body: bytes = b"body", **fields: Any) -> Envelope:
    return Envelope(**{"id": "an-id", "queue": "q", "body": body, **fields})


def made(given: Envelope, *, fifo: bool = False, fair: bool = True, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    return entry(given, fifo=fifo, fair=fair, most_bytes=most_bytes)


@given(body=st.binary(max_size=300), id=ids, attempt=st.integers(0, 10**9 - 1))
def test_whatever_is_written_is_read_and_sqs_takes_its_characters(body: bytes, id: str, attempt: int) -> None:
    text = write(envelope(body, id=id, attempt=attempt))
    assert read(text) == (id, attempt, body)
    assert ALLOWED.fullmatch(text)


@given(body=st.binary(max_size=3000), id=ids)
def test_the_largest_body_fits_whatever_its_bytes(body: bytes, id: str) -> None:
    # Here a "largest body" of these very bytes: base64 is the longest that it ever gets.
    most = 2048 + (len(body) + 2) // 3 * 4
    assert len(body) <= largest_body(most)
    assert len(write(envelope(body, id=id)).encode()) <= most


def test_text_stays_readable_and_takes_one_byte_per_letter() -> None:
    assert write(envelope(b'{"to": "ann"}\n')) == 'dray1 l 0 an-id\n{"to": "ann"}\n'


def test_a_few_bytes_that_are_no_text_cost_one_more_each() -> None:
    body = b"\xd7D1\x00" + b"x" * 100
    assert len(write(envelope(body)).encode()) == len(b"dray1 l 0 an-id\n") + len(body) + 2


def test_what_is_mostly_no_text_is_written_in_base64() -> None:
    body = bytes(range(128, 256))
    assert write(envelope(body)) == "dray1 b 0 an-id\n" + base64.b64encode(body).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "{}",
        "dray1",
        "dray1 l 0 id",
        "dray2 l 0 id\nx",
        "dray1 b 0 id\n!!!",
        "dray1 l 0 id\n鍵",
        " dray1 l 0 id\n",
    ],
)
def test_what_somebody_else_has_written_is_told_apart(text: str) -> None:
    assert read(text) is None


def test_a_body_that_is_too_large_is_refused_with_the_limit_and_advice() -> None:
    assert largest_body(MOST_BYTES) > 784_000
    with pytest.raises(Refused, match=r"has 784897 bytes and SQS takes 784896 .* compress it, or send a reference"):
        made(envelope(b"x" * 784_897))


@pytest.mark.parametrize(("delay", "seconds"), [(0.001, 1), (1.0, 1), (1.2, 2), (899.5, 900), (900.0, 900)])
def test_a_delay_is_whole_seconds_and_never_shorter(delay: float, seconds: int) -> None:
    assert made(envelope(delay=delay))["DelaySeconds"] == seconds


def test_without_a_delay_the_queue_decides() -> None:
    assert "DelaySeconds" not in made(envelope())


def test_a_delay_that_sqs_does_not_keep_is_refused() -> None:
    with pytest.raises(Refused, match="its delay is 901 s and SQS keeps a message for at most 900 s"):
        made(envelope(delay=901.0))
    with pytest.raises(Refused, match="a FIFO queue has no delays"):
        made(envelope(delay=1.0), fifo=True)


def test_a_key_is_the_group_of_a_message() -> None:
    assert made(envelope(key="tenant-7"))["MessageGroupId"] == "tenant-7"
    assert "MessageGroupId" not in made(envelope(key="tenant-7"), fair=False)
    assert "MessageGroupId" not in made(envelope())
    assert made(envelope(key="tenant-7"), fifo=True)["MessageGroupId"] == "tenant-7"
    assert made(envelope(), fifo=True)["MessageGroupId"] == "an-id"


@pytest.mark.parametrize("key", ["a b", "ключ", "x" * 129, "tab\t"])
def test_a_key_that_sqs_would_not_take_is_hashed(key: str) -> None:
    assert re.fullmatch("[0-9a-f]{64}", group(key))


def test_sent_again_a_message_is_no_duplicate_to_a_fifo_queue() -> None:
    first, second = (made(envelope(), fifo=True)["MessageDeduplicationId"] for _ in range(2))
    assert first != second


@pytest.mark.parametrize("name", ["default", "default__p5", "default__dead", "my-queue", "UPPER_and-lower-9"])
def test_a_plain_name_is_the_queues_name(name: str) -> None:
    assert queue_name(name, "", False) == name
    assert queue_name(name, "shop-", True) == f"shop-{name}.fifo"


def test_other_characters_are_escaped() -> None:
    assert queue_name("dray.doctor.abc", "", False) == "dray--2edoctor--2eabc"
    assert queue_name("a--b", "", False) == "a--2d-b"


@given(queue=queues, prefix=st.sampled_from(["", "p", "p-", "p--2e"]), fifo=st.booleans())
def test_every_name_can_be_read_back(queue: str, prefix: str, fifo: bool) -> None:
    try:
        name = queue_name(queue, prefix, fifo)
    except Refused:
        return
    assert QUEUE_NAME.fullmatch(name.removesuffix(".fifo") if fifo else name)
    assert queue_of(name, prefix, fifo) == queue


@given(one=queues, other=queues)
def test_two_queues_never_share_a_name(one: str, other: str) -> None:
    try:
        assert (queue_name(one, "", False) == queue_name(other, "", False)) == (one == other)
    except Refused:
        pass


@pytest.mark.parametrize("name", ["other-q", "p-a--zz--2e--ff", "p-a--b", "p-q.fifo", "p-"])
def test_the_names_of_others_are_not_ours(name: str) -> None:
    assert queue_of(name, "p-", False) is None


def test_a_standard_queue_is_none_of_fifo() -> None:
    assert queue_of("p-q", "p-", True) is None


def test_a_name_that_gets_too_long_is_refused() -> None:
    assert len(queue_name("q" * 80, "", False)) == 80
    with pytest.raises(Refused, match="which has 81 characters; SQS takes names of 1 to 80: shorten it"):
        queue_name("q" * 76, "", True)
    with pytest.raises(Refused):
        queue_name("", "prefix", False)


def test_a_batch_has_ten_entries_and_no_more_bytes_than_a_message() -> None:
    def cut(*sizes: int) -> list[list[int]]:
        return [list(stretch) for stretch in batches([{"MessageBody": "ü" * (size // 2)} for size in sizes], 1000)]

    assert cut() == []
    assert [len(stretch) for stretch in cut(*[2] * 25)] == [10, 10, 5]
    assert cut(600, 400, 2, 1000, 1000) == [[0, 1], [2], [3], [4]]
