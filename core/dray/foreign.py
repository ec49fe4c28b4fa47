"""Say in words what bytes are that lie in a queue and are no message this dray can read."""

from __future__ import annotations

import binascii
from typing import Any

import msgspec

#: Bodies larger than this (bytes) are looked at from outside only.
_LOOKED_AT = 1 << 20

_CELERY = "this is a Celery message: dray and Celery take their messages from queues of their own"

#: What a Celery message of protocol 2 carries beside its arguments. Full ones name all four, in every serialization.
_EMBED = (b"callbacks", b"errbacks", b"chain", b"chord")
#: Arguments, keyword arguments, and what is embedded; nothing of it is decoded.
_PROTOCOL_2 = tuple[list[msgspec.Raw], dict[str, msgspec.Raw], dict[str, msgspec.Raw] | None]
_READERS: tuple[tuple[Any, Any], ...] = tuple(
    (format.Decoder(_PROTOCOL_2), format.Decoder(dict[str, msgspec.Raw])) for format in (msgspec.json, msgspec.msgpack)
)


def foreign(body: bytes) -> str:
    """Return what `body`, which does not begin as a message of this wire version does, seems to be."""
    if not body:
        return "not a dray message: it is empty"
    if body[:4] == b"\xd7D1\x10":
        return "it is sealed, and neither message_security nor message_security_accept is set here"
    if body[:2] == b"\xd7D" and len(body) > 3:
        found = f"wire version {body[2:3]!r}, flags {body[3]}"
        return f"written by another dray ({found}); this one reads version b'1', flags 0"
    if _is_celerys(body) or _is_celerys(_unwrapped(body)):
        return _CELERY
    return f"not a dray message: it begins with {body[:8]!r}"


def _unwrapped(body: bytes) -> bytes:
    """Return what is inside base64, which Celery wraps around messages where only text is taken; else nothing."""
    try:
        return binascii.a2b_base64(body.strip(), strict_mode=True) if len(body) <= _LOOKED_AT else b""
    except binascii.Error:
        return b""


def _is_celerys(body: bytes) -> bool:
    """Return whether this is one of Celery's: the envelope it puts into Redis, SQS and files, or AMQP's bare body."""
    if all(word in body for word in _EMBED):
        return True
    if len(body) > _LOOKED_AT:
        return body.lstrip()[:1] == b"{" and b'"properties"' in body and b'"body"' in body
    for bare, keyed in _READERS:
        fields: dict[str, Any] | None = _read(keyed, body)
        if fields is not None:
            # The envelope; or the body of protocol 1, which is a dict that names the task.
            return {"body", "properties"} <= fields.keys() or {"task", "id", "args", "kwargs"} <= fields.keys()
        if _read(bare, body) is not None:
            return True
    return False


def _read(decoder: Any, body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
