"""JSON, the default: readable everywhere, decoded back to the annotated types.

What it writes besides JSON's own values: datetime, date, time, timedelta, UUID, Decimal, Enum, bytes (base64), set,
frozenset, tuple, NamedTuple, TypedDict, dataclasses, attrs classes, msgspec Structs, paths and pydantic models. They
come back as what JSON has (text, lists, dicts) unless an annotation says what they are.

- Integers of any size up to 4300 digits are kept exactly.
- NaN and the infinities are refused: JSON has no word for them, and null would be another value.
- Keys of dicts become text: numbers, dates, UUIDs and Enums can be read back by annotation (`dict[int, str]`). Other
  keys (None, bool, tuples) are refused.
- Text with lone surrogates, values that contain themselves and values nested about a thousand deep are refused.
- A pydantic model is written as its `model_dump(mode="json")` shows it: a SecretStr is masked there, and stays so.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import Any

import msgspec

from dray import DecodeError, Serializer

from .conversion import convert, plain
from .refusal import refusal

_encode = msgspec.json.Encoder(enc_hook=plain).encode
_decode = msgspec.json.Decoder().decode

_pack = msgspec.msgpack.Encoder(enc_hook=plain).encode
#: A double in msgpack whose exponent is all ones: NaN or an infinity. Other bytes can look like it.
_PACKED_NON_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]")


class JsonSerializer(Serializer):
    """Writes and reads JSON in UTF-8. The module's docstring says what becomes of each type."""

    name = "json"
    content_type = "application/json"

    def dumps(self, value: Any) -> bytes:
        try:
            return _write(value)
        except Exception as error:
            raise refusal(self.name, value, _write) from error

    def loads(self, data: bytes | memoryview, type: Any = None) -> Any:
        try:
            value = _decode(data)
        except RecursionError:
            raise DecodeError("not readable as JSON: nested too deeply") from None
        except Exception as error:
            raise DecodeError(f"not readable as JSON: {error}") from None
        return value if type is None else convert(value, type, text_keys=True)

    def convert(self, value: Any, type: Any) -> Any:
        return convert(value, type, text_keys=True)


def _write(value: Any) -> bytes:
    data = _encode(value)
    # msgspec writes NaN as null. On short data these two are the quickest ways there are to look for a byte ("n") and
    # for a word: partition() is called without a tuple of arguments, and copies nothing when it finds nothing.
    if 110 in data and data.partition(b"null")[1] and _has_non_finite(value):
        raise ValueError("JSON has no NaN and no infinity; send None or text instead")
    return data


def _has_non_finite(value: Any) -> bool:
    """Whether there is a NaN or an infinity anywhere in `value`, which can be written otherwise."""
    try:
        # Almost every null is a None. msgpack keeps NaN, and packing once more is far quicker than a walk.
        packed = _pack(value)
        if 0xCB not in packed or not _PACKED_NON_FINITE.search(packed):
            return False
    except OverflowError:
        pass  # An int beyond 64 bits.
    rest = [msgspec.to_builtins(value, enc_hook=plain)]
    while rest:
        part = rest.pop()
        if isinstance(part, dict):
            rest.extend(part.values())
        elif isinstance(part, list | tuple):
            rest.extend(part)
        elif isinstance(part, float) and not isfinite(part):
            return True
    return False
