"""A record as the bytes that servers and folders keep which know bytes only, and the rule of the first final writer."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from math import inf

import msgspec

from dray import Record

#: Ids that may stand in a key or file name as they are: safe in both, where upper and lower case are one, too.
_PLAIN = re.compile(r"[a-z0-9_-]{1,128}")


class Stored(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is written: a record and when its time is up (seconds since 1970; None: never)."""

    id: str
    state: str
    final: bool
    rank: int
    expires: float | None
    body: bytes

    @classmethod
    def of(cls, record: Record, expires: float | None) -> Stored:
        """Return what to write for a record."""
        return cls(record.id, record.state, record.final, record.rank, expires, record.body)

    @property
    def record(self) -> Record:
        """The record, as the engine knows it."""
        return Record(id=self.id, state=self.state, final=self.final, body=self.body, rank=self.rank)

    def is_over(self, now: float) -> bool:
        """Whether its time is up."""
        return self.expires is not None and self.expires <= now

    def stays(self, new: Record, now: float) -> bool:
        """Whether it stays although `new` was stored: it is final, and `new` is not, or has a lower rank."""
        return not self.is_over(now) and _weight(self) > _weight(new)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Stored)


def write(stored: Stored) -> bytes:
    """Return the bytes to keep."""
    return _encoder.encode(stored)


def read(data: bytes, id: str | None = None) -> Stored | None:
    """Return what is in `data`; None when that cannot be read, or belongs to another id than `id`."""
    try:
        stored = _decoder.decode(data)
    except (msgspec.DecodeError, ValueError):
        # Somebody else's bytes under our key: as good as nothing, and to be written over.
        return None
    return stored if id is None or stored.id == id else None


def name_of(id: str) -> str:
    """Return what a record of this id is filed under: the id where that is harmless, else "=" and its hash."""
    return id if _PLAIN.fullmatch(id) else "=" + hashlib.sha256(id.encode()).hexdigest()


def merged(records: Iterable[Record]) -> Sequence[Record]:
    """Return for each id the one record that is left when these are stored one after the other.

    To store that one is the same as to store them all: the rule chooses the heaviest, of equal ones the last.
    """
    left: dict[str, Record] = {}
    for record in records:
        kept = left.get(record.id)
        if kept is None or _weight(kept) <= _weight(record):
            left[record.id] = record
    return list(left.values())


def _weight(of: Record | Stored) -> float:
    return of.rank if of.final else -inf
