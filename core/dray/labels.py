"""Labels: what the engine notes on the outside of a body when a broker cannot keep it: a count, a rest of a delay.

A labelled body is, byte by byte:

    D7 4C 31    magic: 0xD7, "L", and the version as a digit
    length      of the label in bytes: two bytes, big-endian
    label       a msgpack map
    body        the rest, untouched

Only envelopes that need one carry one. A body that happens to begin with the magic is labelled too, emptily, so that
every body whatever comes out as it went in.
"""

from __future__ import annotations

import msgspec

from .capabilities import LABEL_BYTES

_MAGIC = b"\xd7L1"
_HEAD = len(_MAGIC) + 2


class Label(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is noted. All fields are as if nothing had been, by default."""

    #: Deliveries counted before this envelope was written; added to those of the broker. May be negative.
    count: int = msgspec.field(default=0, name="c")
    #: On a hop: the delay it was published with, what it has still to wait after that (seconds), and when the hop ends
    #: (seconds since 1970, by the clock of who published it).
    hop: float = msgspec.field(default=0.0, name="h")
    rest: float = msgspec.field(default=0.0, name="w")
    until: float = msgspec.field(default=0.0, name="u")
    #: Of a dead letter: why and when it was buried, and its priority. Replayed, it keeps the instant: deliveries before
    #: that do not count any more.
    reason: str = msgspec.field(default="", name="r")
    buried: float = msgspec.field(default=0.0, name="b")
    priority: int = msgspec.field(default=0, name="p")
    #: The envelope's key, for a copy of it: brokers do not hand keys over.
    key: str = msgspec.field(default="", name="k")


NO_LABEL = Label()
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Label)


def is_labelled(body: bytes) -> bool:
    """Tell whether a body begins as a labelled one; one of a user's that does has to be labelled itself."""
    return body.startswith(_MAGIC)


def put_on(label: Label, body: bytes) -> bytes:
    """Return `body` with the label on its outside."""
    if label.reason:
        # What an exception says may be long, and may hold what no text should; a key has 512 bytes at most.
        reason = label.reason.encode(errors="backslashreplace")[: LABEL_BYTES - 1024].decode(errors="ignore")
        label = msgspec.structs.replace(label, reason=reason)
    noted = _encoder.encode(label)
    return b"".join((_MAGIC, len(noted).to_bytes(2), noted, body))


def take_off(body: bytes) -> tuple[Label, bytes]:
    """Return the label and the body below it; a body without one, or with one that cannot be read, stays whole."""
    if not body.startswith(_MAGIC):
        return NO_LABEL, body
    end = _HEAD + int.from_bytes(body[len(_MAGIC) : _HEAD])
    try:
        return _decoder.decode(body[_HEAD:end]), body[end:]
    except (msgspec.DecodeError, ValueError):
        return NO_LABEL, body
