"""Turn what was written for a setting into its type, or say what it takes.

It may have been written in code, an environment variable or a file. Every setting is described once, by its annotation
in `dray.settings.Settings`; `Setting` is that description taken apart. Reading is lenient where the meaning is plain
(a timedelta or "5m" for seconds, "a,b" for a list) and strict everywhere else.
"""

from __future__ import annotations

import difflib
import json
import re
import typing
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec
from msgspec import inspect

from .errors import UrlError
from .queues import read_queue
from .rates import read_rate
from .routers import read_routes
from .urls import Url, mask, nearest

_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
#: Longest duration that is one (seconds): thirty thousand years.
LONGEST = 1e12
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|[smhdw])")


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting, as its annotation describes it."""

    name: str
    annotation: Any
    default: Any
    #: One sentence on what it does.
    help: str
    #: What it is about: a heading of the documentation.
    group: str
    #: "seconds", "bytes" or "" for what has no unit.
    unit: str
    #: "url", "urls", "timezone", "queues", "routes", "secrets" or "": what is read in a way of its own.
    form: str
    #: Celery's name for the same thing; "" when Celery has no such setting.
    celery: str
    #: What values it takes, in words.
    takes: str
    optional: bool
    #: Its type, without the None and without constraints.
    shape: inspect.Type

    @property
    def environment(self) -> str:
        """The environment variable that sets it."""
        return f"DRAY_{self.name.upper()}"

    @property
    def default_text(self) -> str:
        """The default as it would be written in Python."""
        default = self.default
        if isinstance(default, float) and default.is_integer():
            default = int(default)
        return repr(default)


def describe_setting(field: msgspec.structs.FieldInfo) -> Setting:
    """Take the annotation of one field of `Settings` apart."""
    help_text = typing.get_args(field.type)[-1]
    info = inspect.type_info(field.type)
    extra = dict(info.extra or {}) if isinstance(info, inspect.Metadata) else {}
    takes = extra.get("takes") or _words(info)
    inner = _bare(info)
    members = [_bare(member) for member in inner.types] if isinstance(inner, inspect.UnionType) else [inner]
    if isinstance(inner, inspect.UnionType):
        for member in inner.types:
            extra |= (member.extra or {}) if isinstance(member, inspect.Metadata) else {}
    celery = extra.get("celery", True)
    return Setting(
        name=field.name,
        annotation=field.type,
        default=field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory(),
        help=help_text.description,
        group=extra["group"],
        unit=extra.get("unit", ""),
        form=extra.get("form", ""),
        celery=field.name if celery is True else celery or "",
        takes=takes,
        optional=any(isinstance(member, inspect.NoneType) for member in members),
        shape=next(member for member in members if not isinstance(member, inspect.NoneType)),
    )


def read_value(setting: Setting, value: Any) -> Any:
    """Return `value` as the type of `setting`; raise ValueError saying what is wrong with it.

    Text is read as an environment variable is: "none" for None, "5m" for seconds, "a,b" for a list, JSON for a table.
    """
    value = _opened(value)
    if isinstance(value, str) and setting.optional and not isinstance(setting.shape, inspect.ListType):
        value = None if value.strip().lower() in ("", "none", "null") else value
    if value is None:
        if setting.optional:
            return None
        raise ValueError("None is no value for it")
    if setting.unit == "seconds":
        value = read_seconds(value)
    elif setting.form == "url":
        value = _url(value, setting)
    elif setting.form == "queues":
        value = _queues(_list(value))
    elif setting.form == "rate":
        read_rate(value)
    elif setting.form == "routes":
        value = read_routes(_routes(value))
    elif setting.form == "urls":
        several = value if isinstance(value, list | tuple) else str(value).split(";")
        value = ";".join(_url(_opened(each), setting) for each in several) or None
    elif isinstance(setting.shape, inspect.BoolType):
        value = _bool(value)
    elif isinstance(setting.shape, inspect.ListType):
        value = _list(value)
    elif isinstance(setting.shape, inspect.DictType | inspect.TypedDictType):
        value = _table(value, setting)
    try:
        value = msgspec.convert(value, setting.annotation, strict=False)
    except msgspec.ValidationError:
        # msgspec's own words speak of `str` and `$`; what the setting takes is said in ours.
        raise ValueError("that does not fit") from None
    if setting.form == "timezone":
        check_timezone(value)
    return value


def read_seconds(value: Any) -> float:
    """Return a duration as seconds: a number, a timedelta, or text such as "90", "5m", "1h30m", "250ms"."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        return _seconds_in(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LONGEST:
        raise ValueError("that is not a duration")
    return float(value)


def _seconds_in(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        parts = list(_PART.finditer(text.lower()))
        if not parts or "".join(part[0] for part in parts).strip() != text.strip().lower():
            raise ValueError("that is not a duration") from None
        return read_seconds(sum(float(part[1]) * _UNITS[part[2]] for part in parts))
    return read_seconds(number)


def _opened(value: Any) -> Any:
    """Take values out of the wrappers that settings libraries put around secrets and URLs."""
    if hasattr(value, "get_secret_value"):
        value = value.get_secret_value()
    if isinstance(value, Url):
        return value.reveal()
    return value


def _url(value: Any, setting: Setting) -> str:
    text = str(value).strip()
    if text == "disabled" and setting.name in ("result_backend", "store_url"):
        return text
    try:
        Url.parse(text)
    except UrlError as error:
        # A password can only be masked where a URL can be made out; where it cannot, the text is not repeated.
        told = str(error) if "@" not in text or mask(text) != text else "that is not a URL"
        raise ValueError(told) from None
    return text


def _bool(value: Any) -> Any:
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _TRUE | _FALSE:
            return word in _TRUE
    return value


def _list(value: Any) -> Any:
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            return _json(value)
        return [item.strip() for item in value.split(",") if item.strip()]
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return list(value) if isinstance(value, tuple) else value


def _queues(value: Any) -> Any:
    return [read_queue(one) for one in value] if isinstance(value, list) else value


def _routes(value: Any) -> Any:
    """Return routes that were written as text - JSON, or paths of functions with commas - as table or list."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return {}
    return _json(value) if value.lstrip()[0] in "[{" else _list(value)


def _table(value: Any, setting: Setting) -> Any:
    if isinstance(value, str):
        value = _json(value) if value.strip() else {}
    if not isinstance(value, Mapping):
        return value
    if isinstance(setting.shape, inspect.TypedDictType):
        _check_keys(value, setting.shape)
        return {**setting.default, **value}
    if setting.form == "secrets":
        return {key: _opened(entry) for key, entry in value.items()}
    for entry in value.values():
        if isinstance(entry, Mapping) and (kind := _typed_dict(setting.shape)) is not None:
            _check_keys(entry, kind)
            read_rate(entry.get("rate_limit"))
    return dict(value)


def _typed_dict(table: inspect.Type) -> inspect.TypedDictType | None:
    """Return the kind of table that a table's values may be, if any."""
    values = _bare(table.value_type) if isinstance(table, inspect.DictType) else table
    members = values.types if isinstance(values, inspect.UnionType) else (values,)
    return next((member for member in members if isinstance(member, inspect.TypedDictType)), None)


def _check_keys(value: Mapping[Any, Any], kind: inspect.TypedDictType) -> None:
    known = [field.name for field in kind.fields]
    for key in value:
        if key not in known:
            raise ValueError(f"it has no {key!r}{nearest(str(key), known)}")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"as text it is written in JSON, and this is not JSON: {error}") from None


def check_timezone(name: str) -> None:
    """Raise ValueError, with the nearest name, when there is no such time zone on this machine."""
    if name == "UTC":
        return
    import zoneinfo  # slow to import, and UTC needs none of it

    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        known = zoneinfo.available_timezones()
        if not known:
            raise ValueError("this machine has no time zone data; pip install tzdata") from None
        close = difflib.get_close_matches(name, known, n=1)
        raise ValueError("no such time zone" + (f"; did you mean {close[0]!r}?" if close else "")) from None


def _bare(kind: inspect.Type) -> inspect.Type:
    return kind.type if isinstance(kind, inspect.Metadata) else kind


def _words(kind: inspect.Type) -> str:
    """Say in words which values a type takes."""
    match kind:
        case inspect.Metadata(type=inner, extra=extra):
            extra = extra or {}
            if "takes" in extra:
                return str(extra["takes"])
            words = _words(inner)
            return words.replace("number", extra["unit"], 1) if extra.get("unit") == "seconds" else words
        case inspect.UnionType(types=members):
            return " or ".join(_words(member) for member in members)
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "whole number" + _bounds(kind)
        case inspect.FloatType():
            return "number" + _bounds(kind)
        case inspect.NoneType():
            return "None"
        case inspect.LiteralType(values=values):
            return " or ".join(repr(value) for value in values)
        case inspect.ListType(item_type=item):
            words = _words(item)
            return f"list of {words.replace('name', 'names', 1) if 'name' in words else words + 's'}"
        case inspect.DictType(key_type=key, value_type=value):
            return f"table of {_words(key)} -> {_words(value)}"
        case inspect.TypedDictType(fields=fields):
            return "table of " + ", ".join(field.name for field in fields)
        case inspect.StrType():
            return "text"
        case _:
            return "anything"


def _bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f" from {_number(kind.ge)} to {_number(kind.le)}"
    if kind.ge is not None:
        return f" >= {_number(kind.ge)}"
    return f" > {_number(kind.gt)}" if kind.gt is not None else ""


def _number(bound: float) -> str:
    return f"{int(bound):,}" if bound == int(bound) else f"{bound:g}"
