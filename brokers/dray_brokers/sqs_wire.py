"""How an envelope is written as an SQS message: body text, queue names, groups, and the limits that SQS sets.

A body on the wire is one line for us and then the envelope's bytes as text:

    dray1 l 0 0b9c6b0e-4f7c-9a1e\\n...

the mark, the form, the attempt, and the id (percent-encoded). SQS takes only the characters of XML 1.0, so the bytes
are written in the shorter of two forms:

    l   Latin-1: each byte is one character, and a control character is moved up by 256. What is text stays readable
    b   base64

Everything is in the body and nothing in message attributes: a body survives redrives, consoles and copying by hand.
What does not begin with the mark was sent by somebody else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from dray import Envelope

#: Limits of SQS (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html):
#: bytes of a message and of a batch together, messages in a batch, seconds of delay, of a loan, of a long poll, of
#: keeping a message, and characters of a queue's name.
MOST_BYTES, MOST_IN_BATCH = 1_048_576, 10
MOST_DELAY, MOST_LOAN, MOST_WAIT, MOST_RETENTION = 900, 43_200, 20, 1_209_600
MOST_NAME = 80
#: Room for our line: the id may have 128 characters, each of which may take 12 when percent-encoded.
LINE_BYTES = 2048

_LINE = re.compile(r"dray1 ([lb]) (\d{1,9}) ([^ \n]+)\n")
#: Bytes that are written as themselves and take one byte.
_NARROW = bytes(byte for byte in range(256) if 0x20 <= byte < 0x7F or byte in b"\t\n")
#: Characters that XML 1.0 forbids or a reader may change: all controls except tab and line feed.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LIFTED = re.compile("[\u0100-\u019f]")
_GROUP = re.compile(r"[!-~]{1,128}")
#: A character that a queue's name cannot have, or a hyphen that could be read as the beginning of an escape.
_ESCAPED = re.compile(r"-(?=[^A-Za-z0-9_])|[^A-Za-z0-9_-]")
_ESCAPES = re.compile(r"(?:--[0-9a-f]{2})+")


class Refused(Exception):
    """SQS would not take this envelope; the text says why and what would help."""


class Content(NamedTuple):
    """What is read from a message of ours."""

    id: str
    attempt: int
    body: bytes


def write(envelope: Envelope) -> str:
    """Return the text that carries an envelope's body, id and attempt."""
    body = envelope.body
    wide = len(body.translate(None, _NARROW))
    # A wide byte takes two bytes, and base64 makes four of three.
    if wide * 3 > len(body):
        form, text = "b", base64.b64encode(body).decode("ascii")
    else:
        form, text = "l", body.decode("latin-1")
        if wide:
            text = _CONTROL.sub(lambda found: chr(ord(found[0]) + 256), text)
    return f"dray1 {form} {envelope.attempt} {quote(envelope.id, safe=':')}\n{text}"


def read(text: str) -> Content | None:
    """Return what `write` was given; None for what somebody else has written."""
    line = _LINE.match(text)
    if line is None:
        return None
    form, attempt, id = line.groups()
    rest = text[line.end() :]
    try:
        if form == "b":
            body = base64.b64decode(rest, validate=True)
        else:
            body = _LIFTED.sub(lambda found: chr(ord(found[0]) - 256), rest).encode("latin-1")
    except (binascii.Error, UnicodeEncodeError):
        return None
    return Content(unquote(id), int(attempt), body)


def largest_body(most_bytes: int) -> int:
    """Return how long a body may be, whatever its bytes, in a queue whose messages may have `most_bytes`."""
    return (most_bytes - LINE_BYTES) // 4 * 3


def entry(envelope: Envelope, *, fifo: bool, fair: bool, most_bytes: int) -> dict[str, Any]:
    """Return the entry of a SendMessageBatch for an envelope, without its `Id`, or raise `Refused`."""
    most = largest_body(most_bytes)
    if len(envelope.body) > most:
        raise Refused(
            f"its body has {len(envelope.body)} bytes and SQS takes {most} ({most_bytes} when written as text); "
            "compress it, or send a reference to where the data is"
        )
    delay = math.ceil(envelope.delay)
    if delay > (0 if fifo else MOST_DELAY):
        raise Refused(
            "a FIFO queue has no delays for single messages"
            if fifo
            else f"its delay is {envelope.delay:g} s and SQS keeps a message for at most {MOST_DELAY} s"
        )
    made: dict[str, Any] = {"MessageBody": write(envelope)}
    if delay > 0:
        made["DelaySeconds"] = delay
    if fifo:
        made["MessageGroupId"] = group(envelope.key or envelope.id)
        # Drawn, not made of id and attempt: SQS silently swallows an id that it has seen within five minutes, and what
        # is replayed or hops is published again under the same one. It covers repeats within one call of ours.
        made["MessageDeduplicationId"] = uuid.uuid4().hex
    elif fair and envelope.key:
        made["MessageGroupId"] = group(envelope.key)
    return made


def group(key: str) -> str:
    """Return a key as a MessageGroupId: itself where SQS takes it, else its hash."""
    return key if _GROUP.fullmatch(key) else hashlib.sha256(key.encode()).hexdigest()


def batches(entries: Sequence[Mapping[str, Any]], most_bytes: int) -> Iterator[range]:
    """Cut entries, in their order, into stretches that fit into one request each."""
    start = size = 0
    for position, each in enumerate(entries):
        bytes_here = len(each.get("MessageBody", "").encode())
        if position > start and (position - start == MOST_IN_BATCH or size + bytes_here > most_bytes):
            yield range(start, position)
            start, size = position, 0
        size += bytes_here
    if entries:
        yield range(start, len(entries))


def queue_name(queue: str, prefix: str, fifo: bool) -> str:
    """Return the name in SQS of a queue. Characters that SQS does not take become `--` and two hex digits per byte.

    Raises `Refused` when it gets too long.
    """
    name = prefix + _ESCAPED.sub(_escape, queue) + (".fifo" if fifo else "")
    if len(name) > MOST_NAME or name == prefix:
        raise Refused(
            f"the queue {queue!r} would be named {name!r} in SQS, which has {len(name)} characters; "
            f"SQS takes names of 1 to {MOST_NAME}: shorten it, or the URL's prefix="
        )
    return name


def queue_of(name: str, prefix: str, fifo: bool) -> str | None:
    """Return the queue that `queue_name` has named so; None when it is none of ours."""
    suffix = ".fifo" if fifo else ""
    if not (name.startswith(prefix) and name.endswith(suffix)) or (not fifo and name.endswith(".fifo")):
        return None
    try:
        queue = _ESCAPES.sub(_unescape, name[len(prefix) : len(name) - len(suffix)])
        return queue if queue_name(queue, prefix, fifo) == name else None
    except (UnicodeDecodeError, Refused):
        return None


def _escape(found: re.Match[str]) -> str:
    return "".join(f"--{byte:02x}" for byte in found[0].encode())


def _unescape(found: re.Match[str]) -> str:
    return bytes.fromhex(found[0].replace("--", "")).decode()
