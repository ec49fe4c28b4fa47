"""Routers: what `task_routes` lists - tables by name or pattern, functions, and paths of functions - and asking them.

A router answers where a task goes: with a queue's name, or a table of queue, priority, exchange and routing_key, or
with None when that is not its business. The first router that answers decides.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import translate
from pkgutil import resolve_name
from typing import Annotated, Any, TypedDict

import msgspec
from msgspec import Meta

from .errors import SettingError
from .rates import read_rate
from .urls import nearest

Priority = Annotated[int, Meta(ge=0, le=9)]
QueueName = Annotated[str, Meta(pattern=r"\A\S{1,128}\Z", extra={"takes": "queue name without whitespace"})]
ShortText = Annotated[str, Meta(max_length=255)]
RateText = Annotated[str | float, Meta(extra={"form": "rate", "takes": "rate such as '10/s', '100/m', '5000/d'"})]

#: "package.module:function" or "package.module.function".
_PATH = re.compile(r"[^\W\d]\w*([.:][^\W\d]\w*)+")


class RouteOptions(TypedDict, total=False):
    """Where a router sends a task. What is left out is decided by the task or the defaults."""

    queue: QueueName
    priority: Priority
    exchange: ShortText
    routing_key: ShortText
    #: That of the queue, over all workers; in tables only.
    rate_limit: RateText


#: What a function that routes is called with: the task's name, its arguments, the options of the call.
Router = Callable[[str, Sequence[Any], Mapping[str, Any], Mapping[str, Any]], Any]

_WORDS = tuple(RouteOptions.__annotations__)


# Reading what the setting says


def read_routes(value: Any) -> Any:
    """Return `task_routes` in one of its two forms, a table or a list of routers; ValueError says what is wrong.

    In a list a table stays a table, pairs of (pattern, route) stand together in a list of their own, and functions
    and their paths are as they were given: a path is not imported before it is needed.
    """
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return _read_table(value)
    if not isinstance(value, list | tuple):
        return [_read_router(value)]
    routers: list[Any] = []
    alone = False
    for item in value:
        if _is_pair(item):
            # Pairs that stand in the list itself are one table.
            if alone:
                routers[-1].append(_read_pair(*item))
            else:
                routers.append([_read_pair(*item)])
            alone = True
        else:
            routers.append(_read_router(item))
            alone = False
    return routers


def _read_router(item: Any) -> Any:
    if isinstance(item, Mapping):
        return _read_table(item) if all(isinstance(key, str) for key in item) else _read_pairs(item.items())
    if isinstance(item, str):
        if _PATH.fullmatch(item) is None:
            raise ValueError(f"{item!r} is not the path of a function, such as 'shop.routing:route'")
        return item
    if isinstance(item, list | tuple):
        return _read_pairs(item)
    if callable(item) or hasattr(item, "route_for_task"):
        return item
    raise ValueError(f"{item!r} is neither a table nor a function, nor the path of one")


def _is_pair(item: Any) -> bool:
    return (
        isinstance(item, list | tuple)
        and len(item) == 2
        and isinstance(item[0], str | re.Pattern)
        and isinstance(item[1], str | Mapping)
    )


def _read_table(table: Mapping[str, Any]) -> dict[str, Any]:
    return dict(_read_pair(name, said) for name, said in table.items())


def _read_pairs(pairs: Any) -> list[tuple[Any, Any]]:
    for pair in pairs:
        if not _is_pair(pair):
            raise ValueError(f"{pair!r} is not a pair of a task's name or pattern and its route")
    return [_read_pair(*pair) for pair in pairs]


def _read_pair(name: Any, said: Any) -> tuple[Any, Any]:
    if name == "":
        raise ValueError("a route needs the name or pattern of a task")
    return name, read_answer(said)


def read_answer(said: Any) -> Any:
    """Return where a router sends a task, as a queue's name or a table; ValueError says what is wrong with it."""
    if isinstance(said, Mapping):
        for key in said:
            if key not in _WORDS:
                raise ValueError(f"it has no {key!r}{nearest(str(key), _WORDS)}")
        if "rate_limit" in said:
            read_rate(said["rate_limit"])
            if "queue" not in said:
                raise ValueError(
                    "a rate_limit in a route is that of its queue, and it names none; for a limit of the task say "
                    "@app.task(rate_limit=...), or task_annotations"
                )
        kind: Any = RouteOptions
    else:
        kind = QueueName
    try:
        return msgspec.convert(said, kind, strict=False)
    except msgspec.ValidationError:
        raise ValueError(
            f"{said!r} is no route: that is a queue name without whitespace, or a table of queue, priority (0 to 9), "
            "exchange, routing_key and rate_limit"
        ) from None


# Asking


class Table:
    """Values by exact name, glob or regular expression. An exact name wins, then the patterns in the order written."""

    def __init__(self, entries: Mapping[str, Any] | Sequence[tuple[Any, Any]]) -> None:
        self.entries = list(entries.items() if isinstance(entries, Mapping) else entries)
        self._exact: dict[str, Any] = {}
        self._patterns: list[tuple[re.Pattern[str], Any]] = []
        for name, value in self.entries:
            if isinstance(name, re.Pattern):
                self._patterns.append((name, value))
            elif any(c in name for c in "*?["):
                self._patterns.append((re.compile(translate(name)), value))
            else:
                self._exact[name] = value
        self._cache: dict[str, Any] = {}

    def first(self, task: str) -> Any:
        """Return the value that wins for `task`, or None."""
        if task not in self._cache:
            found = self.all(task)
            self._cache[task] = found[0] if found else None
        return self._cache[task]

    def all(self, task: str) -> list[Any]:
        """Return every value for `task`, the one that wins first."""
        own = [self._exact[task]] if task in self._exact else []
        return own + [value for pattern, value in self._patterns if pattern.match(task)]


def routers(routes: Any) -> list[Table | Router]:
    """Return what `task_routes` lists in the form in which it can be asked; nothing is imported yet."""
    listed = [routes] if isinstance(routes, Mapping) else routes
    return [Table(one) if isinstance(one, Mapping | list) else _function(one) for one in listed]


def router_name(router: Router) -> str:
    """Return what to call a router in an error."""
    return str(getattr(router, "named", router))


def _function(one: Any) -> Router:
    if isinstance(one, str):
        return _Named(one)
    if isinstance(one, type):
        one = one()
    old = getattr(one, "route_for_task", None)
    if old is not None:
        return _Called(lambda name, args, kwargs, options: old(name, args, kwargs), one)
    try:
        signature = inspect.signature(one)
    except (TypeError, ValueError):  # written in C: nothing is known of it
        return _Called(one, one)
    try:
        signature.bind("", (), {}, {})
    except TypeError:
        raise SettingError(
            f"task_routes: {_title(one)} takes {signature}; a function that routes takes what this one does: "
            "`def route(name, args, kwargs, options, **more)`"
        ) from None
    return _Called(one, one)


class _Called:
    """A function of the user's, with the name it goes by."""

    def __init__(self, function: Router, named: Any) -> None:
        self._function = function
        self.named = _title(named)

    def __call__(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
        return self._function(name, args, kwargs, options)


class _Named:
    """The path of a function. It is imported when it is first asked: its module may need the app to be there."""

    def __init__(self, path: str) -> None:
        self.named = path
        self._found: Router | None = None

    def __call__(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
        if self._found is None:
            self._found = _function(self._imported())
        return self._found(name, args, kwargs, options)

    def _imported(self) -> Any:
        try:
            found = resolve_name(self.named)
        except (ImportError, AttributeError) as error:
            raise SettingError(f"task_routes: {self.named!r} cannot be imported: {error}") from error
        if not callable(found) and not hasattr(found, "route_for_task"):
            raise SettingError(f"task_routes: {self.named!r} is {type(found).__name__}, and not a function")
        return found


def _title(one: Any) -> str:
    return getattr(one, "__qualname__", None) or repr(one)
