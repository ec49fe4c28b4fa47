"""The frames of AMQP that every message takes, read and written as bytes.

pika makes a dozen objects of each message that comes in and of each that goes out, and copies all that waits to be read
with every frame. What came in one piece is read here instead, many messages at a time, and what goes out is written
here; everything else is pika's. What a frame looks like is AMQP 0-9-1's, and will not change:

    frame     its kind, its channel, the size of what it holds; that; an end
    message   a frame with a method, one with the properties, and as many with the body as it takes
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct, error
from typing import NamedTuple

import msgspec
from pika import BasicProperties, frame, spec

#: How a frame begins, and how one with a method does, and one with properties: their class, weight, size of the body.
_FRAME, _METHOD, _HEADER = Struct(">BHI"), Struct(">BHII"), Struct(">BHIHHQ")
#: What follows the consumer's tag in a delivery: the delivery's tag, and bits, the lowest of which says "redelivered".
_DELIVERY = Struct(">QB")
_END = bytes([spec.FRAME_END])
#: What a frame takes beside what it holds.
AROUND = spec.FRAME_HEADER_SIZE + spec.FRAME_END_SIZE
_KINDS = (spec.FRAME_METHOD, spec.FRAME_HEADER, spec.FRAME_BODY, spec.FRAME_HEARTBEAT)


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A message as it came in on a channel."""

    tag: int
    redelivered: bool
    properties: BasicProperties
    body: bytes
    #: What waited behind it when it was fetched with `get`; 0 when it was pushed.
    behind: int = 0


class Run(NamedTuple):
    """Messages that were pushed to one consumer, one after the other, and where what follows them begins."""

    channel: int
    consumer_tag: str
    arrivals: list[Arrival]
    end: int


def read_run(data: bytes, start: int) -> Run | None:
    """Return the messages to one consumer from `start` on, as far as they are whole; None when there is none."""
    arrivals: list[Arrival] = []
    first = 0, b""
    try:
        while True:
            kind, channel, size, method = _METHOD.unpack_from(data, start)
            if method != spec.Basic.Deliver.INDEX or kind != spec.FRAME_METHOD:
                break
            consumer = channel, data[start + 12 : (tag_end := start + 12 + data[start + 11])]
            if consumer != first and arrivals:
                break
            number, bits = _DELIVERY.unpack_from(data, tag_end)
            header = start + AROUND + size
            header_kind, header_channel, header_size, _, _, length = _HEADER.unpack_from(data, header)
            body = header + AROUND + header_size
            body_kind, body_channel, body_size = _FRAME.unpack_from(data, body)
            end = body + AROUND + body_size
            if (
                (header_kind, header_channel) != (spec.FRAME_HEADER, channel)
                or (body_kind, body_channel, body_size) != (spec.FRAME_BODY, channel, length)
                or not data[header - 1] == data[body - 1] == data[end - 1] == spec.FRAME_END
            ):
                break
            properties = BasicProperties().decode(data[header + _HEADER.size : body - 1])
            arrivals.append(Arrival(number, bits & 1 == 1, properties, data[body + _FRAME.size : end - 1]))
            first, start = consumer, end
    except (error, IndexError):
        # The rest of this one has not come yet.
        pass
    return Run(first[0], first[1].decode(), arrivals, start) if arrivals else None


def frame_end(data: bytes, start: int) -> int | None:
    """Return where the frame at `start` ends, or all of it if that is no frame; None while it is not whole."""
    if start < len(data) and data[start] not in _KINDS:
        return len(data)
    if len(data) - start < _FRAME.size:
        return None
    end = start + AROUND + int(_FRAME.unpack_from(data, start)[2])
    return end if end <= len(data) else None


@lru_cache(1024)
def publish_method(channel: int, exchange: str, key: str, mandatory: bool) -> bytes:
    """Return the frame that says where the message goes whose properties and body follow it."""
    method = spec.Basic.Publish(exchange=exchange, routing_key=key, mandatory=mandatory)
    return bytes(frame.Method(channel, method).marshal())


def content(channel: int, properties: BasicProperties, body: bytes, most: int) -> bytes:
    """Return the frames with the properties and the body of a message, none of them larger than `most`."""
    pieces = [frame.Header(channel, len(body), properties).marshal()]
    for start in range(0, len(body), most - AROUND):
        part = body[start : start + most - AROUND]
        pieces += (_FRAME.pack(spec.FRAME_BODY, channel, len(part)), part, _END)
    return b"".join(pieces)
