"""Say in words why a value cannot be written: which part of it, of which type, and what to do instead.

Used only after writing has failed, so it may be slow: it tries the parts of the value one by one and follows the first
that fails, until none of the parts of what is left fails by itself.
"""

from __future__ import annotations

import dataclasses
import inspect
import io
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec

from dray import SerializationError

#: How far a value that is nested too deeply is followed, looking for a part that contains itself.
_DEEPEST_LOOK = 100


class _ContainsItself(Exception):
    """A part of the value is one of its own containers."""


def refusal(name: str, value: Any, write: Callable[[Any], object]) -> SerializationError:
    """Return the error to raise for `value`, which the serializer called `name` could not write.

    `write` is that serializer's own attempt: it raises for what it cannot write. The path begins with `args` or
    `kwargs` when `value` is the pair of a call's arguments.
    """
    steps, part, error, is_key = _culprit(value, write)
    if _is_call(value) and steps:
        steps[0] = ("args", "kwargs")[steps[0] == "[1]"]
    where = "".join(steps) or "the value"
    if is_key:
        return SerializationError(f"{where}: a key of the dict, {_brief(part)}, {_key_reason(name, part, error)}")
    return SerializationError(f"{where}: {_reason(name, part, error)}")


def _is_call(value: Any) -> bool:
    return type(value) is tuple and len(value) == 2 and type(value[0]) in (tuple, list) and type(value[1]) is dict


def _culprit(value: Any, write: Callable[[Any], object]) -> tuple[list[str], Any, Exception, bool]:
    """Return the path to the smallest part that fails, that part, why, and whether it is a dict's key."""
    steps: list[str] = []
    above: set[int] = set()
    reason = _failure(value, write) or RuntimeError("it could be written when it was tried again")
    while len(steps) < _DEEPEST_LOOK or not isinstance(reason, RecursionError):
        if id(value) in above:
            return steps, value, _ContainsItself(), False
        above.add(id(value))
        if isinstance(value, dict):
            for key in value:
                if failed := _failure({key: 0}, write):
                    return steps, key, failed, True
        for step, part in _parts(value):
            if failed := _failure(part, write):
                steps.append(step)
                value, reason = part, failed
                break
        else:
            return steps, value, reason, False
    return [], value, reason, False


def _failure(value: Any, write: Callable[[Any], object]) -> Exception | None:
    try:
        write(value)
    except Exception as error:
        return error
    return None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"[{key!r}]" if not isinstance(key, str) else f'["{key}"]', item) for key, item in value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from ((f".{field}", item) for field, item in zip(value._fields, value, strict=True))
    elif isinstance(value, list | tuple):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield from (("[...]", item) for item in value)
    else:
        yield from ((f".{field}", getattr(value, field)) for field in _fields(value) if hasattr(value, field))


def _fields(value: Any) -> tuple[str, ...]:
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return tuple(field.name for field in dataclasses.fields(value))
    return ()


def _reason(name: str, part: Any, error: Exception) -> str:
    kind = _type_name(part)
    match error:
        case _ContainsItself():
            return f"the {kind} contains itself, which {name} cannot write"
        case RecursionError():
            return f"nested too deeply for {name}"
        case UnicodeEncodeError():
            return f"the text holds a lone surrogate ({part[error.start]!a}), which UTF-8 cannot carry"
        case ValueError() | OverflowError():
            return f"{name} cannot write this {kind}: {error}"
    return f"{kind} is not something {name} can write; {_hint(part)}"


def _key_reason(name: str, key: Any, error: Exception) -> str:
    if isinstance(key, str):
        return "holds a lone surrogate, which UTF-8 cannot carry"
    if isinstance(error, OverflowError):
        return f"is not something {name} can write: {error}"
    return f"of type {_type_name(key)}, is not something {name} can write; use text keys"


def _hint(part: Any) -> str:
    if inspect.isawaitable(part):
        return "await it first and pass what it returns"
    if isinstance(part, io.IOBase):  # Before Iterator: files are iterators of their lines.
        return "pass its path or what is in it"
    if isinstance(part, Iterator | AsyncIterator):
        return "make a list of it first"
    if inspect.isroutine(part) or inspect.isclass(part) or inspect.ismodule(part):
        return "pass its name"
    return "pass its id, or its data as a dict or a dataclass"


def _type_name(part: Any) -> str:
    kind = type(part)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _brief(part: Any) -> str:
    text = ascii(part)
    return text if len(text) <= 60 else text[:57] + "..."
