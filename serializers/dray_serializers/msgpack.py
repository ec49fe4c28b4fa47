"""MessagePack: smaller and quicker than JSON, and bytes stay bytes.

Takes the types that json takes and reads them back the same way, by annotation. Besides, these come back without one:
bytes, datetimes with a time zone (as UTC), NaN and the infinities, and dict keys of any plain type. Integers are
limited to 64 bits.
"""

from __future__ import annotations

from typing import Any

import msgspec

from dray import DecodeError, Serializer

from .conversion import convert, plain
from .refusal import refusal

_encode = msgspec.msgpack.Encoder(enc_hook=plain).encode
_decode = msgspec.msgpack.Decoder().decode


class MsgpackSerializer(Serializer):
    """Writes and reads MessagePack. The module's docstring says what becomes of each type."""

    name = "msgpack"
    content_type = "application/x-msgpack"

    def dumps(self, value: Any) -> bytes:
        try:
            return _encode(value)
        except Exception as error:
            raise refusal(self.name, value, _encode) from error

    def loads(self, data: bytes | memoryview, type: Any = None) -> Any:
        try:
            value = _decode(data)
        except RecursionError:
            raise DecodeError("not readable as MessagePack: nested too deeply") from None
        except Exception as error:
            raise DecodeError(f"not readable as MessagePack: {error}") from None
        return value if type is None else convert(value, type, text_keys=False)

    def convert(self, value: Any, type: Any) -> Any:
        return convert(value, type, text_keys=False)
