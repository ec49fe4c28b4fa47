"""Turn rich values into plain ones, and plain ones into what an annotation asks for.

Plain: what the format has anyway. msgspec knows most types (dates, UUID, Decimal, Enum, dataclasses, Structs, ...);
this file adds subclasses of str, int and float, paths, and pydantic's models once somebody has imported pydantic.

Reading is strict where guessing would hide a mistake: text becomes a date, a UUID, a Decimal, bytes, a path or an Enum
when the annotation says so, but "5" does not become 5. An annotation that nobody here understands (a union of two
dataclasses, a Protocol, a Callable) leaves the value as it is.
"""

from __future__ import annotations

import collections.abc
import inspect
import sys
from collections.abc import Callable, Hashable, Iterator
from functools import lru_cache
from pathlib import PurePath
from typing import Any, Literal, get_args, get_origin

import msgspec

from dray import DecodeError

#: Reads a value as one annotation; raises ValueError when it does not fit.
Reader = Callable[[Any], Any]

#: Annotations whose readers are kept. A program has as many as its tasks have parameters.
_KEPT = 4096
#: Abstract classes that msgspec reads into a concrete container.
_CONTAINERS = frozenset(
    {
        collections.abc.Collection,
        collections.abc.Mapping,
        collections.abc.MutableMapping,
        collections.abc.MutableSequence,
        collections.abc.MutableSet,
        collections.abc.Sequence,
        collections.abc.Set,
    }
)


def plain(value: Any) -> Any:
    """Return `value` as something msgspec can write, or raise TypeError: the `enc_hook` of all encoders here."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, PurePath):
        return str(value)
    model = getattr(sys.modules.get("pydantic"), "BaseModel", None)
    if model is not None and isinstance(value, model):
        # round_trip leaves computed fields out: a model that forbids extra fields could not be read back with them.
        return value.model_dump(mode="json", round_trip=True)
    raise TypeError(f"{type(value).__qualname__} cannot be written")


def build(kind: Any, value: Any) -> Any:
    """Return `value` as a `kind` that msgspec does not know, or raise ValueError: the `dec_hook` of all decoders."""
    origin = get_origin(kind) or kind
    if not isinstance(origin, type) or isinstance(value, origin):
        return value
    if issubclass(origin, PurePath) and isinstance(value, str):
        return origin(value)
    for base in (str, int, float):
        if issubclass(origin, base) and type(value) is base:
            return origin(value)
    model = getattr(sys.modules.get("pydantic"), "BaseModel", None)
    if model is not None and issubclass(origin, model):
        return _validated(kind.model_validate, value)
    return value


def convert(value: Any, annotation: Any, *, text_keys: bool) -> Any:
    """Return `value` as `annotation` says; raise `DecodeError` when it does not fit.

    `text_keys` is True for formats whose dicts have text keys only: keys are then read back from text.
    """
    reader = _reader_of(annotation, text_keys)
    if reader is None:
        return value
    try:
        return reader(value)
    except RecursionError:
        raise DecodeError("nested too deeply") from None
    except Exception as error:
        raise DecodeError(_words(error)) from None


def _reader_of(annotation: Any, text_keys: bool) -> Reader | None:
    """Return what reads values as `annotation`, or None when they are to be left as they are. Never raises."""
    if isinstance(annotation, Hashable):
        try:
            return _kept_reader(annotation, text_keys)
        except TypeError:  # Hashable on the outside only, such as Annotated[int, {}].
            pass
    return _new_reader(annotation, text_keys)


def _compiles(annotation: Any) -> bool:
    """Whether msgspec, with `build`, reads `annotation` as it is meant. Never raises."""
    parts = tuple(_parts_of(annotation))
    if any(_is_abstract(part) or _is_pydantics_alone(part) for part in parts):
        return False
    try:
        msgspec.json.Decoder(annotation, dec_hook=build)
    except Exception:  # TypeError for what msgspec does not know, NameError and others for names not there.
        return False
    return True


def _new_reader(annotation: Any, text_keys: bool) -> Reader | None:
    if get_origin(annotation) is collections.abc.Iterable:
        annotation = list[get_args(annotation)]  # type: ignore[misc]
    if _compiles(annotation):
        # A Struct keeps what msgspec has worked out about its fields; convert() to a bare annotation works it out anew.
        box = msgspec.defstruct("Box", [("value", annotation)], array_like=True)

        def read(value: Any) -> Any:
            return msgspec.convert((value,), box, str_keys=text_keys, dec_hook=build).value  # type: ignore[attr-defined]

        return read
    return _pydantic_reader(annotation)


_kept_reader = lru_cache(maxsize=_KEPT)(_new_reader)


def _pydantic_reader(annotation: Any) -> Reader | None:
    """Return pydantic's own reader for an annotation that mentions pydantic and that msgspec cannot read."""
    pydantic = sys.modules.get("pydantic")
    parts = tuple(_parts_of(annotation))
    # pydantic would take our base64 for the bytes themselves.
    if pydantic is None or bytes in parts or not any(_is_pydantics(part) for part in parts):
        return None
    try:
        adapter = pydantic.TypeAdapter(annotation)
    except Exception:
        return None
    return lambda value: _validated(adapter.validate_python, value)


def _validated(validate: Callable[..., Any], value: Any) -> Any:
    """Call pydantic's `validate`, and say in one line what it has against `value`, without showing the value."""
    try:
        return validate(value, by_alias=True, by_name=True)
    except RecursionError:
        raise
    except Exception as error:
        found = getattr(error, "errors", None)
        if found is None:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        faults = found(include_url=False, include_context=False, include_input=False)
        shown = "; ".join(
            ".".join(map(str, (*fault["loc"], ""))).rstrip(".") + f": {fault['msg']}" for fault in faults[:3]
        )
        raise ValueError(shown.removeprefix(": ")) from None


def _parts_of(annotation: Any) -> Iterator[Any]:
    """Yield `annotation` and, recursively, what it is made of."""
    yield annotation
    if get_origin(annotation) is Literal:
        return
    origin = get_origin(annotation)
    if isinstance(origin, type):
        yield origin
    for part in (*get_args(annotation), *getattr(annotation, "__metadata__", ())):
        if isinstance(part, list):
            continue  # The parameters of a Callable.
        yield from _parts_of(part)


def _is_abstract(part: Any) -> bool:
    """Whether `part` is a class of which a decoded value is never an instance."""
    if not isinstance(part, type) or part in _CONTAINERS or get_origin(part) is not None:
        return False
    return part is type or inspect.isabstract(part) or bool(getattr(part, "_is_protocol", False))


def _is_pydantics(part: Any) -> bool:
    return (
        hasattr(part, "__pydantic_validator__")
        or hasattr(part, "__get_pydantic_core_schema__")
        or type(part).__module__.partition(".")[0] in ("pydantic", "annotated_types")
    )


def _is_pydantics_alone(part: Any) -> bool:
    """Whether `part` means something to pydantic that msgspec would overlook. Models are none: `build` reads them."""
    pydantic = sys.modules.get("pydantic")
    if pydantic is None or not _is_pydantics(part):
        return False
    return not (isinstance(part, type) and issubclass(part, pydantic.BaseModel))


def _words(error: Exception) -> str:
    """Return msgspec's sentence with paths that begin at the value, not at the box around it."""
    return str(error).replace("`$[0]", "`$").removesuffix(" - at `$`") or type(error).__name__
