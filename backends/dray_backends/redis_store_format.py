"""How the Redis store writes changes and wishes for its scripts, and reads what these answer."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import msgspec

from dray import Absent, Add, Change, Changed, Check, Delete, Due, Equals, Index, Present, Put, Unindex

encode = msgspec.msgpack.Encoder().encode
#: Texts that a script has packed; a missing one is None.
texts_or_none = msgspec.msgpack.Decoder(list[bytes | None]).decode
texts_from = msgspec.msgpack.Decoder(list[bytes]).decode

#: What stands in MessagePack before an array or a text of some size, and before a text shorter than 32 bytes.
_SIZED = struct.Struct(">BI")
_SHORT = [bytes([0xA0 | size]) for size in range(32)]
_APPLIED = ord("1")


def text(value: bytes) -> msgspec.Raw:
    """Return bytes to be encoded as text is, whatever they are: the scripts know of no bytes beside texts."""
    size = len(value)
    return msgspec.Raw((_SHORT[size] if size < len(_SHORT) else _SIZED.pack(0xDB, size)) + value)


def array(rows: Sequence[bytes]) -> bytes:
    """Return things that are encoded as an array of them."""
    return _SIZED.pack(0xDD, len(rows)) + b"".join(rows)


def escaped(part: str) -> str:
    """Return a name without zero bytes, so that one can end it; escaped names sort as the names do."""
    return part.replace("\x01", "\x01\x02").replace("\x00", "\x01\x01")


def unescaped(name: str) -> str:
    """Return the name that was `escaped`."""
    return name.replace("\x01\x01", "\x00").replace("\x01\x02", "\x01")


def change_to_bytes(change: Change) -> bytes:
    """Return a change as `commit.lua` takes it."""
    writes: list[str | msgspec.Raw] = []
    entries: list[str | float | bool] = []
    for write in change.writes:
        match write:
            case Put(key, value):
                writes += ("put", key, text(value))
            case Add(key, number):
                # As text: a number of Lua is a double.
                writes += ("add", key, str(number))
            case Delete(key):
                writes += ("delete", key, "")
            case Index(index, key, at):
                entries += (index, key, at)
            case Unindex(index, key):
                entries += (index, key, False)
    checks = [part for check in change.checks for part in _check(check)]
    ttl = False if change.ttl is None else change.ttl
    return encode((escaped(change.part), checks, writes, entries, change.reads, ttl))


def _check(check: Check) -> tuple[str, str, str | msgspec.Raw]:
    match check:
        case Absent(key):
            return "absent", key, ""
        case Present(key):
            return "present", key, ""
        case Equals(key, value):
            return "equals", key, text(value)


def indexes_of(change: Change) -> Iterator[str]:
    """Give the indexes that a change may touch."""
    for write in change.writes:
        if isinstance(write, Index | Unindex):
            yield write.index


def changed_from_bytes(changes: Sequence[Change], answer: bytes) -> Iterator[Changed]:
    """Give what changes came to, from the answer of `commit.lua`."""
    values = iter(texts_or_none(answer[len(changes) :]) if len(answer) > len(changes) else ())
    for change, mark in zip(changes, answer, strict=False):
        # In this order: when there is no further key, no value is taken.
        read = {key: value for key, value in zip(change.reads, values, strict=False) if value is not None}
        yield Changed(mark == _APPLIED, read)


def member_of(entry: Due) -> str:
    """Return an entry as it stands in its index."""
    return f"{escaped(entry.part)}\x00{entry.key}"


def entries_from(texts: Sequence[bytes]) -> list[Due]:
    """Return the entries that `due.lua` has found: instants and members in turn."""
    found = []
    for at, member in zip(texts[::2], texts[1::2], strict=True):
        part, _, key = member.decode().partition("\x00")
        found.append(Due(float(at), unescaped(part), key))
    return found
