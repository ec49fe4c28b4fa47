"""How a message is written down in Redis: names of queues and messages, records, and frames that carry many of them.

The scripts in `redis_scripts` read and write the same bytes; the layout is at the head of `shared.lua`.
"""

from __future__ import annotations

import struct
from binascii import hexlify
from collections.abc import Iterable, Iterator, Sequence

from dray import Delivery, Envelope, Waiting

#: What begins the name of a message instead of its id: an id that is a UUID (16 bytes follow), an id that begins with
#: one of these three bytes itself, a later attempt (4 bytes and the id follow).
UUID, ESCAPE, ATTEMPT = b"\x00", b"\x01", b"\x02"
#: Length of the token and of the place, with which a receipt begins before it names the message.
TOKEN, PLACE = 8, 10

_FRAME = struct.Struct(">I")
#: Length of the rest, delay, deliveries, attempt, priority, length of the id: the head of a message to publish.
_ENVELOPE = struct.Struct(">IdHIBH")
#: Published, deliveries, attempt, priority, length of the id: the head of a record.
_RECORD = struct.Struct(">dHIBH")
#: The groups of digits of a UUID.
_DIGITS = struct.Struct("8s4s4s4s12s")
_STATE = struct.Struct(">Bd")
_LETTER = struct.Struct(">dI")

STATES = ("ready", "delayed", "leased", "dead")
#: A queue's name stands between braces, where a cluster looks for what decides the node.
_QUOTED = str.maketrans({"{": "%7B", "}": "%7D", "%": "%25"})


def quoted(queue: str) -> str:
    """Return the name of a queue with nothing in it that has a meaning within a key; never an empty one."""
    return queue.translate(_QUOTED) or "%"


def id_to_bytes(id: str) -> bytes:
    """Return an id as it is stored: a UUID in 16 bytes and a marker, any other text as it is."""
    if len(id) == 36 and id[8] == id[13] == id[18] == id[23] == "-":
        digits = id.replace("-", "")
        try:
            raw = bytes.fromhex(digits)
        except ValueError:
            raw = b""
        # Upper case would not come back.
        if len(raw) == 16 and raw.hex() == digits:
            return UUID + raw
    text = id.encode("utf-8", "surrogatepass")
    return ESCAPE + text if text[:1] in (UUID, ESCAPE, ATTEMPT) else text


def id_from_bytes(stored: bytes) -> str:
    """Return the id that `id_to_bytes` wrote."""
    if stored[:1] == UUID:
        return b"-".join(_DIGITS.unpack(hexlify(stored[1:]))).decode()
    return stored.removeprefix(ESCAPE).decode("utf-8", "surrogatepass")


def framed(parts: Iterable[bytes]) -> bytes:
    """Return bytes that carry `parts`, each behind its length."""
    return b"".join([piece for part in parts for piece in (_FRAME.pack(len(part)), part)])


def unframed(frames: bytes) -> Iterator[bytes]:
    """Give back what `framed` packed."""
    at = 0
    while at < len(frames):
        (size,) = _FRAME.unpack_from(frames, at)
        at += 4 + size
        yield frames[at - size : at]


def framed_ids(ids: Iterable[str]) -> bytes:
    """Return `ids` as the scripts take them."""
    return framed(map(id_to_bytes, ids))


def envelope_to_bytes(envelope: Envelope) -> bytes:
    """Return a message as `publish.lua` takes it: the server adds the time."""
    id, body = id_to_bytes(envelope.id), envelope.body
    size = _ENVELOPE.size - _FRAME.size + len(id) + len(body)
    head = _ENVELOPE.pack(size, envelope.delay, 0, envelope.attempt, envelope.priority, len(id))
    return b"".join((head, id, body))


def deliveries_from(queue: str, token: bytes, frames: bytes) -> list[Delivery]:
    """Return what `receive.lua` has lent under `token`."""
    return [_delivery(queue, token, frame) for frame in unframed(frames)]


def _delivery(queue: str, token: bytes, frame: bytes) -> Delivery:
    published, deliveries, attempt, priority, length = _RECORD.unpack_from(frame, PLACE)
    start = PLACE + _RECORD.size + length
    id = frame[PLACE + _RECORD.size : start]
    name = ATTEMPT + _FRAME.pack(attempt) + id if attempt else id
    return Delivery(
        id=id_from_bytes(id),
        queue=queue,
        body=frame[start:],
        receipt=token + frame[:PLACE] + name,
        # A record counts the deliveries that are over.
        delivery_count=deliveries + 1,
        priority=priority,
        attempt=attempt,
        published=published,
    )


def waiting_from(queue: str, frames: bytes) -> Sequence[Waiting]:
    """Return what `look.lua` shows for `peek`."""
    shown = []
    for frame in unframed(frames):
        state, delay = _STATE.unpack_from(frame)
        shown.append(_waiting(queue, frame[_STATE.size :], delay=delay, state=STATES[state]))
    return shown


def letters_from(queue: str, frames: bytes) -> Sequence[Waiting]:
    """Return what `letters.lua` shows."""
    shown = []
    for letter in unframed(frames):
        buried, length = _LETTER.unpack_from(letter)
        start = _LETTER.size + length
        reason = letter[_LETTER.size : start].decode("utf-8", "surrogatepass")
        shown.append(_waiting(queue, letter[start:], state="dead", reason=reason, buried=buried))
    return shown


def _waiting(
    queue: str, record: bytes, *, state: str, delay: float = 0.0, reason: str = "", buried: float | None = None
) -> Waiting:
    published, deliveries, attempt, priority, length = _RECORD.unpack_from(record)
    start = _RECORD.size + length
    return Waiting(
        id=id_from_bytes(record[_RECORD.size : start]),
        queue=queue,
        body=record[start:],
        priority=priority,
        attempt=attempt,
        delivery_count=deliveries,
        published=published,
        delay=delay,
        state=state,
        reason=reason,
        buried=buried,
    )
