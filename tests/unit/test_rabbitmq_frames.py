"""What the amqp:// adapter reads and writes itself, beside pika: the frames of messages, and acks for many of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pika import BasicProperties, ConnectionParameters, frame, spec

from dray_brokers.rabbitmq_channel import RabbitConnection
from dray_brokers.rabbitmq_frames import AROUND, Arrival, content, frame_end, publish_method, read_run
from dray_brokers.rabbitmq_tags import Tags

#: Largest frame, in these tests.
MOST = 64
HEARTBEAT = frame.Heartbeat().marshal()


def properties(**fields: Any) -> BasicProperties:
    return BasicProperties(delivery_mode=2, message_id="id", timestamp=1_700_000_000, **fields)


def pushed(number: int, body: bytes = b"body", tag: str = "0.1", channel: int = 1, **fields: Any) -> bytes:
    """Return what the server sends to push a message."""
    method = spec.Basic.Deliver(tag, number, fields.pop("redelivered", False), "exchange", "key")
    return bytes(frame.Method(channel, method).marshal()) + content(channel, properties(**fields), body, MOST)


# Reading


def test_messages_that_came_in_one_piece_are_read_together() -> None:
    data = HEARTBEAT + pushed(1, b"one") + pushed(2, b"two", redelivered=True, headers={"x-delivery-count": 3})
    run = read_run(data, len(HEARTBEAT))
    assert run is not None
    assert (run.channel, run.consumer_tag, run.end) == (1, "0.1", len(data))
    assert run.arrivals == [
        Arrival(1, False, properties(), b"one"),
        Arrival(2, True, properties(headers={"x-delivery-count": 3}), b"two"),
    ]


@pytest.mark.parametrize("other", [{"tag": "1.2"}, {"channel": 2}], ids=["consumer", "channel"])
def test_messages_to_another_consumer_are_read_apart(other: dict[str, Any]) -> None:
    first, second = pushed(1), pushed(2, **other)
    run = read_run(first + second, 0)
    assert run is not None and ([each.tag for each in run.arrivals], run.end) == ([1], len(first))


def test_of_a_message_that_has_not_come_whole_nothing_is_read() -> None:
    first, second = pushed(1), pushed(2)
    for size in range(len(second)):
        run = read_run(first + second[:size], 0)
        assert run is not None and ([each.tag for each in run.arrivals], run.end) == ([1], len(first))
        assert read_run(second[:size], 0) is None


@pytest.mark.parametrize(
    "data",
    [
        pushed(1, b""),
        pushed(1, b"x" * MOST),
        frame.Method(1, spec.Basic.GetOk(1, False, "", "key", 0)).marshal() + content(1, properties(), b"body", MOST),
        pushed(1)[:-1] + b"\0",
        HEARTBEAT * 10,
    ],
    ids=["empty", "in pieces", "fetched", "broken", "no message"],
)
def test_what_is_not_as_most_messages_are_is_left_to_pika(data: bytes) -> None:
    assert read_run(data, 0) is None


def test_a_frame_ends_where_it_says_and_is_waited_for() -> None:
    data = publish_method(1, "", "key", True)
    assert frame_end(HEARTBEAT + data, len(HEARTBEAT)) == len(HEARTBEAT + data)
    assert [frame_end(data[:size], 0) for size in range(len(data))] == [None] * len(data)
    # An older server's answer to the greeting is not a frame at all.
    assert frame_end(b"AMQP\x00\x00\x09\x01", 0) == 8


class Stream:
    """A connection that is fed by hand, and what it made of that."""

    def __init__(self) -> None:
        self.connection = RabbitConnection(ConnectionParameters(), None, None, None, None, False)
        self.came: list[tuple[str, int, bytes]] = []
        for number in (1, 2):
            channel = self.connection._create_channel(number, None)
            self.connection._channels[number] = channel
            channel.on_arrivals = self._on_arrivals

    def _on_arrivals(self, tag: str, arrivals: Sequence[Arrival]) -> None:
        self.came += [(tag, each.tag, each.body) for each in arrivals]


@pytest.mark.parametrize("size", [1, 7, 50, 333, 10_000])
def test_however_the_stream_is_cut_every_message_comes_once_and_in_order(size: int) -> None:
    bodies = [b"x" * (number * 7 % 150) for number in range(60)]
    data = b"".join(
        (HEARTBEAT if number % 9 == 0 else b"") + pushed(number, body, f"0.{number // 5}", 1 + number // 20 % 2)
        for number, body in enumerate(bodies)
    )
    stream = Stream()
    for start in range(0, len(data), size):
        stream.connection._on_data_available(data[start : start + size])
    assert stream.came == [(f"0.{number // 5}", number, body) for number, body in enumerate(bodies)]
    # By what has come pika tells whether the server is alive.
    assert stream.connection.bytes_received == len(data)
    stream.connection.ioloop.close()


# Writing


@pytest.mark.parametrize("size", [0, 1, MOST - AROUND, MOST - AROUND + 1, 5 * MOST])
def test_pika_reads_what_is_written(size: int) -> None:
    body = bytes(range(256))[:size] if size <= 256 else b"y" * size
    data = publish_method(3, "exchange", "key", True) + content(3, properties(headers={"a": 1}), body, MOST)
    frames = []
    while data:
        end, read = frame.decode_frame(data)
        assert 0 < end <= MOST + 32
        frames.append(read)
        data = data[end:]
    method, header, *parts = frames
    assert vars(method.method) == vars(spec.Basic.Publish(0, "exchange", "key", True))
    assert (header.body_size, header.properties) == (size, properties(headers={"a": 1}))
    assert b"".join(part.fragment for part in parts) == body
    assert {each.channel_number for each in frames} == {3}
    assert all(len(part.fragment) + AROUND <= MOST for part in parts)


# Acks


def test_one_ack_stands_for_all_that_came_before() -> None:
    tags = Tags()
    tags.opened(range(1, 101))
    assert tags.done(range(2, 51)) == 0
    assert tags.done([1]) == 50
    assert not tags.waiting
    assert tags.done([99, 100, 98]) == 0
    assert tags.done(range(51, 98)) == 100


def test_who_waits_for_an_earlier_one_too_long_is_acked_by_itself() -> None:
    tags = Tags()
    tags.opened([1, 2, 3, 4])
    assert tags.done([3]) == 0
    assert tags.overdue() == []
    assert tags.done([2]) == 0
    assert tags.overdue() == [3]
    assert tags.waiting
    assert tags.overdue() == [2]
    assert not tags.waiting and tags.overdue() == []
    assert tags.done([1]) == 1
    assert tags.done([4]) == 4


def test_what_the_server_was_told_by_other_means_holds_up_nobody_and_is_not_acked() -> None:
    tags = Tags()
    tags.opened([1, 2, 3])
    assert tags.done([2]) == 0
    tags.closed([1])
    assert tags.done([1]) == 2
    tags.closed([3])
    assert tags.done([3]) == 0 and not tags.waiting


def test_at_the_end_what_still_waits_is_acked() -> None:
    tags = Tags()
    tags.opened([1, 2, 3])
    tags.done([2, 3])
    assert tags.rest() == [2, 3]
    assert not tags.waiting and tags.rest() == []
