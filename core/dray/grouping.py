"""Grouping: which calls of a task count as one for a limit or for uniqueness, told from their arguments.

Whatever is made here is the same in every process and on every host, now and later: no `hash()`, no order of a set.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from string import Formatter
from typing import Any

import msgspec

from .arguments import Parameters
from .errors import TaskOptionError
from .urls import nearest

#: From a call's arguments by name to what it is grouped by.
Key = Callable[[Mapping[str, Any]], Any]

_encode = msgspec.json.Encoder(order="deterministic").encode


def stable_id(*parts: Any) -> str:
    """Return a text of 32 characters that these values always come to: the same in every process, on every host.

    For ids of your own, `task_id=stable_id("email", to, subject)`, where `hash()` would give another one in each
    process. Takes what JSON can tell, and dates, decimals, UUIDs, enums, sets and dataclasses.
    """
    return sha256(_encode(parts)).hexdigest()[:32]


def partition(kind: str, name: str, *parts: Any) -> str:
    """Return the name of the store's partition for what `name` and `parts` stand for; people can read its beginning."""
    readable = re.sub(r"[^\w.:-]", "_", name, flags=re.ASCII)[:120]
    return f"{kind}/{readable}/{stable_id(name, *parts)}"


def read_key(value: Any, parameters: Parameters, option: str) -> Key | None:
    """Return the key that a task's option says: a function of the arguments, or text such as "{user_id}".

    Raises `TaskOptionError` for what is neither, and for a text that names a parameter which is not there.
    """
    if value is None:
        return None
    if isinstance(value, str) and value:
        return _by_text(value, parameters, option)
    if callable(value):
        return _by_function(value)
    raise TaskOptionError(
        f'{parameters.text}: {option} is a function of the arguments, or text such as "{{user_id}}"; got {value!r}'
    )


def _by_text(text: str, parameters: Parameters, option: str) -> Key:
    try:
        fields = [field for _, field, _, _ in Formatter().parse(text) if field is not None]
    except ValueError as error:
        raise TaskOptionError(f"{parameters.text}: {option} {text!r} is no format: {error}") from None
    if not fields:
        raise TaskOptionError(
            f'{parameters.text}: {option} {text!r} is the same for every call; name a parameter, such as "{{user_id}}"'
        )
    for field in fields:
        check_parameter(re.split(r"[.\[]", field)[0], parameters, option)
    return lambda named: text.format_map(named)


def check_parameter(name: str, parameters: Parameters, option: str) -> None:
    """Raise `TaskOptionError` if the function has no parameter of that name."""
    if name not in parameters.names and not parameters.takes_any_name:
        raise TaskOptionError(
            f"{parameters.text}: {option} names a parameter {name!r} that it does not have"
            f"{nearest(name, parameters.names)}"
        )


def _by_function(function: Callable[..., Any]) -> Key:
    try:
        every = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C: nothing is known of it
        return lambda named: function(**named)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in every):
        return lambda named: function(**named)
    wanted = [parameter.name for parameter in every]
    return lambda named: function(**{name: named[name] for name in wanted if name in named})
