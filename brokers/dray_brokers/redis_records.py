"""How a message is written down in Redis: names of queues and messages, records, and frames that carry many of them.

The scripts in `redis_scripts` read and write the same bytes; the layout is at the head of `shared.lua`.
"""

from __future__ import annotations

import struct
from binascii import hexlify
from collections.abc import Iterable, Sequence
from functools import lru_cache

from dray import Delivery, Envelope, Waiting

#: What begins the name of a message instead of its id: an id that is a UUID (16 bytes follow), an id that begins with
#: one of these three bytes itself, a later attempt (4 bytes and the id follow).
UUID, ESCAPE, ATTEMPT = b"\x00", b"\x01", b"\x02"
#: Length of the token of a loan.
TOKEN = 8

#: The proof of one message's loan: the token, the number of the message in the loan, and its name.
Receipt = tuple[bytes, int, bytes]

_NUMBER = struct.Struct(">I")
_SHORT = struct.Struct(">H")
#: Published, deliveries, attempt, priority, length of the id: the head of a record.
_RECORD = struct.Struct(">dHIBH")
#: The groups of digits of a UUID.
_DIGITS = struct.Struct("8s4s4s4s12s")
_STATE = struct.Struct(">Bd")
_LETTER = struct.Struct(">dI")

STATES = ("ready", "delayed", "leased", "dead")
#: A queue's name stands between braces, where a cluster looks for what decides the node.
_QUOTED = str.maketrans({"{": "%7B", "}": "%7D", "%": "%25"})


@lru_cache(maxsize=1024)
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


def ids_to_bytes(ids: Sequence[str]) -> list[bytes]:
    """Return many ids as they are stored. Those that are UUIDs, if all of them are, cost a quarter of one by one."""
    text = "".join(ids)
    digits = text.replace("-", "")
    dashes = "-" * len(ids)
    if (
        len(digits) == 32 * len(ids)
        and {*map(len, ids)} == {36}
        and text[8::36] == text[13::36] == text[18::36] == text[23::36] == dashes
    ):
        try:
            raw = bytes.fromhex(digits)
        except ValueError:
            raw = b""
        if raw.hex() == digits:
            return [UUID + raw[start : start + 16] for start in range(0, len(raw), 16)]
    return list(map(id_to_bytes, ids))


def id_from_bytes(stored: bytes) -> str:
    """Return the id that `id_to_bytes` wrote."""
    if stored[:1] == UUID:
        return b"-".join(_DIGITS.unpack(hexlify(stored[1:]))).decode()
    return stored.removeprefix(ESCAPE).decode("utf-8", "surrogatepass")


def framed(parts: Iterable[bytes]) -> bytes:
    """Return bytes that carry `parts`, behind how many there are and the length of each."""
    parts = list(parts)
    return struct.pack(f">{len(parts) + 1}I", len(parts), *map(len, parts)) + b"".join(parts)


def unpacked(packed: bytes) -> list[bytes]:
    """Return the texts that a script has packed with `cmsgpack`.

    That is MessagePack as Lua writes it: an array of what elsewhere is text, and here any bytes.
    """
    texts = []
    at, end = {0xDC: 3, 0xDD: 5}.get(packed[0], 1), len(packed)
    while at < end:
        kind = packed[at]
        if kind == 0xD9:
            start = at + 2
            at = start + packed[at + 1]
        elif kind == 0xDA:
            start = at + 3
            at = start + _SHORT.unpack_from(packed, at + 1)[0]
        elif kind == 0xDB:
            start = at + 5
            at = start + _NUMBER.unpack_from(packed, at + 1)[0]
        else:
            start = at + 1
            at = start + (kind & 0x1F)
        texts.append(packed[start:at])
    return texts


def framed_ids(ids: Iterable[str]) -> bytes:
    """Return `ids` as the scripts take them."""
    return framed(ids_to_bytes(list(ids)))


def to_publish(envelopes: Sequence[Envelope], now: float) -> list[bytes]:
    """Return messages as `publish.lua` takes them: the delays if there are any, and the records."""
    ids = ids_to_bytes([envelope.id for envelope in envelopes])
    delays = [envelope.delay for envelope in envelopes]
    records = [struct.pack(f">{len(delays)}d", *delays) if any(delays) else b""]
    for id, envelope in zip(ids, envelopes, strict=True):
        head = _RECORD.pack(now, 0, envelope.attempt, envelope.priority, len(id))
        records.append(b"".join((head, id, envelope.body)))
    return records


def deliveries_from(queue: str, token: bytes, loan: bytes) -> list[Delivery]:
    """Return what `receive.lua` has lent under `token`."""
    if not loan:
        return []
    _, *records = unpacked(loan)
    return [_delivery(queue, token, number, record) for number, record in enumerate(records)]


def _delivery(queue: str, token: bytes, number: int, record: bytes) -> Delivery:
    published, deliveries, attempt, priority, length = _RECORD.unpack_from(record)
    start = _RECORD.size + length
    id = record[_RECORD.size : start]
    return Delivery(
        id=id_from_bytes(id),
        queue=queue,
        body=record[start:],
        receipt=(token, number, _name(attempt, id) if attempt else id),
        # A record counts the deliveries that are over.
        delivery_count=deliveries + 1,
        priority=priority,
        attempt=attempt,
        published=published,
    )


def _name(attempt: int, id: bytes) -> bytes:
    return ATTEMPT + _NUMBER.pack(attempt) + id if attempt else id


def mask_of(numbers: Iterable[int]) -> int:
    """Return a number whose bits `numbers` are set."""
    mask = 0
    for number in numbers:
        mask |= 1 << number
    return mask


def mask_to_bytes(mask: int) -> bytes:
    """Return a mask as the scripts take it: whole words of 4 bytes."""
    return mask.to_bytes((mask.bit_length() + 31) // 32 * 4, "little")


def mask_from_bytes(mask: bytes) -> int:
    """Return the mask that `mask_to_bytes` wrote."""
    return int.from_bytes(mask, "little")


def waiting_from(queue: str, frames: bytes) -> Sequence[Waiting]:
    """Return what `look.lua` shows for `peek`."""
    shown = []
    for frame in unpacked(frames):
        state, delay = _STATE.unpack_from(frame)
        shown.append(_waiting(queue, frame[_STATE.size :], delay=delay, state=STATES[state]))
    return shown


def letters_from(queue: str, frames: bytes) -> Sequence[Waiting]:
    """Return what `letters.lua` shows."""
    shown = []
    for letter in unpacked(frames):
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
