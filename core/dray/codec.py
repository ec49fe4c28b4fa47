"""Message to bytes and back: the wire format (`pack`, `unpack`) and the payload inside it (`Payloads`).

A body is, byte by byte (docs/envelope.md):

    D7 44 31    magic: 0xD7, "D", and the wire version as a digit, "1"
    flags       one byte; the low four bits are the metadata's format: 0 = msgpack. Bit 4: sealed (sealing.py). The
                rest is 0
    length      of the metadata in bytes, as an unsigned LEB128 varint
    metadata    a msgpack map of the fields of `Message` under their short names
    payload     the rest: the arguments as `[args, kwargs]`, written as the metadata says, untouched

Only `Payloads` looks into a payload. Routing, retrying and burying read the metadata alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from .errors import ContentNotAccepted, DecodeError, SerializationError
from .foreign import foreign
from .message import Message

if TYPE_CHECKING:
    from .compressor import Compressor
    from .plugins import Plugins
    from .serializer import Serializer
    from .settings import Settings

MAGIC = b"\xd7D1"
#: Magic and flags as `pack` writes them.
_HEAD = MAGIC + b"\x00"
#: Longest metadata that is read (bytes). Ours is a few hundred; more is an attack or an accident.
MAX_METADATA = 1 << 20

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Message)
# Half as dear as `replace`, and not known to type checkers.
_copy: Callable[[Message], Message] = Message.__copy__  # type: ignore[attr-defined]
_set = msgspec.structs.force_setattr


def pack(message: Message) -> bytes:
    """Return the body that carries `message`, whose arguments are in `payload` already.

    Raises `SerializationError` for headers that cannot be written.
    """
    payload = message.payload
    # A copy, which is ours alone, and of which all that is not metadata is put back to its default.
    bare = _copy(message)
    _set(bare, "payload", b"")
    if message.args:
        _set(bare, "args", ())
    if message.kwargs:
        _set(bare, "kwargs", {})
    try:
        metadata = _encode(bare)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SerializationError(
            f"{message.task}: the headers or callback options cannot be written ({error}); they take plain values: "
            "texts, numbers, booleans, None, and lists and text-keyed dicts of those"
        ) from None
    return b"".join((_HEAD, varint(len(metadata)), metadata, payload))


def unpack(body: bytes) -> Message:
    """Return the message in `body`, its payload still undecoded; raise `DecodeError` saying what is wrong."""
    if body[:4] != _HEAD:
        raise DecodeError(foreign(body))
    start = 5
    length = body[4] if len(body) > 4 else 0
    if length >= 0x80:
        length, start = read_varint(body)
    end = start + length
    if length > MAX_METADATA or end > len(body):
        raise DecodeError(f"truncated: the metadata should be {length} bytes and {len(body) - start} are there")
    try:
        message = _decoder.decode(body[start:end])
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DecodeError(f"the metadata cannot be read: {error}") from None
    # The message is ours alone until it is returned; setting the field here saves a copy of the whole of it.
    _set(message, "payload", body[end:])
    return message


@lru_cache(maxsize=1024)
def varint(number: int) -> bytes:
    """Return `number` as an unsigned LEB128 varint."""
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(body: bytes) -> tuple[int, int]:
    """Return the length that stands after the first four bytes of `body`, and where it ends; or raise `DecodeError`."""
    number = 0
    for index in range(4, min(len(body), 9)):
        number |= (body[index] & 0x7F) << 7 * (index - 4)
        if body[index] < 0x80:
            return number, index + 1
    raise DecodeError("truncated: the length of the metadata has no end")


class Packed(NamedTuple):
    """A value written as bytes, and how."""

    data: bytes
    content_type: str
    content_encoding: str


class Writer:
    """Writes values in one way: with one serializer and one compression. Immutable, and thread-safe as they are."""

    __slots__ = ("_dumps", "_limit", "_squeeze", "content_encoding", "content_type")

    def __init__(self, serializer: Serializer, compressor: Compressor | None, content_encoding: str, limit: int):
        self.content_type = serializer.content_type
        self.content_encoding = content_encoding
        self._dumps = serializer.dumps
        self._squeeze = None if compressor is None else compressor.compress
        self._limit = limit

    def write(self, value: Any) -> bytes:
        """Return `value` written; raise `SerializationError` when it cannot be, or is larger than may be read."""
        data = self._dumps(value)
        if len(data) > self._limit:
            raise SerializationError(
                f"{len(data):,} bytes are more than task_max_message_bytes allows ({self._limit:,}): "
                "send a reference (a path, a key, an id) instead of the data, or raise the setting on both sides"
            )
        return data if self._squeeze is None else self._squeeze(data)

    def fill(self, message: Message) -> Message:
        """Write a message's arguments into its payload, in place, and return it.

        In place because every call that is sent comes through here. So it is for whoever made the message and has
        shown it to nobody yet; for any other there is `Payloads.encode`.
        """
        _set(message, "payload", self.write((message.args, message.kwargs)))
        if message.content_type != self.content_type:
            _set(message, "content_type", self.content_type)
        if message.content_encoding != self.content_encoding:
            _set(message, "content_encoding", self.content_encoding)
        return message


class Payloads:
    """Writes values with the serializers and compressions that the settings name, and reads what they accept.

    Thread-safe. Built once per app, when it is first used.
    """

    def __init__(self, plugins: Plugins, conf: Settings) -> None:
        self._plugins = plugins
        self._limit = conf.task_max_message_bytes
        self._serializers: dict[str, Serializer] = {}
        self._by_type: dict[str, Serializer] = {}
        self._compressors: dict[str, Compressor] = {}
        self._writers: dict[tuple[str, str | None], Writer] = {}
        self._accepted = frozenset(
            name if "/" in name else self.serializer(name).content_type for name in conf.accept_content
        )
        self._accept_text = ", ".join(conf.accept_content)

    def serializer(self, name: str) -> Serializer:
        """Return the serializer with that short name, or raise `UnknownPlugin`."""
        found = self._serializers.get(name)
        if found is None:
            found = self._serializers[name] = self._plugins.find("serializers", name)()
        return found

    def compressor(self, name: str) -> Compressor:
        """Return the compressor with that name, or raise `UnknownPlugin`."""
        found = self._compressors.get(name)
        if found is None:
            found = self._compressors[name] = self._plugins.find("codecs", name)()
        return found

    def writer(self, serializer: str, compression: str | None) -> Writer:
        """Return what writes with both of these names, or raise `UnknownPlugin`."""
        found = self._writers.get((serializer, compression))
        if found is None:
            squeezed = self.compressor(compression) if compression else None
            found = Writer(self.serializer(serializer), squeezed, compression or "", self._limit)
            self._writers[serializer, compression] = found
        return found

    def dump(self, value: Any, serializer: str, compression: str | None) -> Packed:
        """Write `value`; raise `SerializationError` when it cannot be written or is larger than may be read."""
        writer = self.writer(serializer, compression)
        return Packed(writer.write(value), writer.content_type, writer.content_encoding)

    def reader(self, content_type: str) -> Serializer:
        """Return the serializer for `content_type` if it may be read; raise `ContentNotAccepted` otherwise.

        This is the gate in front of every decoding: an unsafe format passes only when `accept_content` names it.
        """
        found = self._by_type.get(content_type)
        if found is None:
            if content_type not in self._accepted:
                raise ContentNotAccepted(
                    f"content type {content_type!r} is not accepted (accept_content: {self._accept_text})"
                )
            found = self._by_type[content_type] = self._plugins.by_content_type("serializers", content_type)()
        return found

    def load(self, data: bytes, content_type: str, content_encoding: str = "", type: Any = None) -> Any:
        """Read a value back; raise `DecodeError` for whatever cannot or may not be read."""
        reader = self.reader(content_type)
        return reader.loads(self.plain(data, content_encoding), type)

    def plain(self, data: bytes, content_encoding: str) -> bytes:
        """Return `data` unpacked; raise `DecodeError` when it is larger than `task_max_message_bytes`."""
        if content_encoding:
            data = self.compressor(content_encoding).decompress(data, self._limit)
        if len(data) > self._limit:
            raise DecodeError(f"{len(data):,} bytes are more than task_max_message_bytes allows ({self._limit:,})")
        return data

    def encode(self, message: Message, serializer: str, compression: str | None) -> Message:
        """Return `message` with its arguments written into its payload."""
        return self.writer(serializer, compression).fill(_copy(message))

    def arguments(self, message: Message) -> tuple[list[Any], dict[str, Any], Serializer]:
        """Return the arguments in the payload, not yet converted to annotations, and the serializer that read them."""
        reader = self._by_type.get(message.content_type) or self.reader(message.content_type)
        data = message.payload
        if message.content_encoding or len(data) > self._limit:
            data = self.plain(data, message.content_encoding)
        value = reader.loads(data)
        try:
            args, kwargs = value
        except (TypeError, ValueError):
            raise DecodeError("the payload is not a pair of arguments, [args, kwargs]") from None
        if not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
            raise DecodeError("the payload is not a pair of arguments, [args, kwargs]")
        return args if type(args) is list else list(args), kwargs, reader
