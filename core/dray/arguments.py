"""A task's parameters: whether a call fits them, and what its arguments are to be turned into.

check, where a task is sent -> decode, where it is run. Both are on the path of every message, so what the signature
alone can tell is worked out once.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections import abc
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from .errors import ArgumentsError, DecodeError, TaskOptionError
from .serializer import Serializer
from .urls import nearest

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

#: Annotations that ask for nothing which a serializer does not give back anyway.
_PLAIN = frozenset({Any, object, str, int, float, bool, None, type(None), list, dict})
#: Generic types that are plain when all they are made of is.
_PLAIN_GENERICS = frozenset({typing.Union, types.UnionType, list, abc.Iterable, abc.Collection, abc.Sequence})
#: The same for mappings, whose keys some formats turn into text.
_PLAIN_MAPPINGS = frozenset({dict, abc.Mapping, abc.MutableMapping})


#: In `Parameters.marks`: every argument.
EVERY = "*"


class Sensitive:
    """Marks a parameter whose arguments are not for other people's eyes: `password: Annotated[str, Sensitive]`.

    Where dray shows arguments - logs, `repr`, events, listings, errors, stored calls - it shows `***` for these. The
    task itself, its middleware and its hooks get them as they are. They are not encrypted: see `message_security`.
    """


class _Rest(NamedTuple):
    """What a call must and may still give by name once it has given some arguments by position."""

    required: frozenset[str]
    allowed: frozenset[str]


class _Plan(NamedTuple):
    """What each argument is to be turned into; Any where nothing is to be done."""

    by_position: tuple[tuple[int, str, Any], ...]
    by_name: Mapping[str, Any]
    #: For those that `*args` and `**kwargs` take up.
    more_positions: Any
    more_names: Any


class Parameters:
    """The parameters of one task's function. Immutable, and safe to share between threads."""

    @classmethod
    def of(
        cls, function: Callable[..., Any], *, bound: bool = False, name: str = "", sensitive: Collection[str] = ()
    ) -> Parameters:
        """Read the parameters of `function`; with `bound`, all but the first, which is the task itself.

        `name` is what errors call it, by default `module.function`. `sensitive` names parameters whose arguments are
        not shown, beside those that are annotated so. A callable that does not tell its signature counts
        as one that takes anything. Annotations are looked at when they are needed first, so they may name what is
        defined later; one that names nothing at all counts as Any.
        """
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            signature = inspect.signature(_takes_anything)
        shown = name or _name_of(function)
        return cls(shown, function, _without_first(shown, signature) if bound else signature, frozenset(sensitive))

    def __init__(
        self, name: str, function: Callable[..., Any], signature: inspect.Signature, sensitive: frozenset[str]
    ) -> None:
        self._name = name
        self._named_sensitive = sensitive
        self._function = function
        self._signature = signature
        every = list(signature.parameters.values())
        self._positional = [p for p in every if p.kind in _POSITIONAL]
        #: The name of `*args`, if there is one.
        self._more = next((p.name for p in every if p.kind is p.VAR_POSITIONAL), "")
        self._only_named = [p for p in every if p.kind is p.KEYWORD_ONLY]
        self._takes_any_name = any(p.kind is p.VAR_KEYWORD for p in every)
        #: By the number of arguments given by position. None: such a call can never be complete.
        self._rests = [_rest(self._positional[given:] + self._only_named) for given in range(len(self._positional) + 1)]
        #: How many positional arguments make a complete call that names none.
        complete = [given for given, rest in enumerate(self._rests) if rest is not None and not rest.required]
        self._fewest = complete[0] if complete else sys.maxsize
        self._most = sys.maxsize if self._more else len(self._positional)

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Return when the function can be called so; else raise `ArgumentsError` saying what does not fit.

        Only the shape of the call is looked at, never the types of the values.
        """
        given = len(args)
        if not kwargs:
            if self._fewest <= given <= self._most:
                return
        elif given < len(self._rests):
            rest = self._rests[given]
            if rest is not None and rest.required <= kwargs.keys() <= rest.allowed:
                return
        if complaint := self._complaint(args, kwargs):
            raise ArgumentsError(f"{self.text} {complaint}")

    def takes(self, count: int) -> bool:
        """Return whether the function can be called with so many positional arguments, and no others."""
        return self._fewest <= count <= self._most

    def bind(
        self, args: Sequence[Any], kwargs: dict[str, Any], serializer: Serializer
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments as the function is to be called with: `check` and `decode`, for every run."""
        given = tuple(args)
        if kwargs or not self._fewest <= len(given) <= self._most:
            self.check(given, kwargs)
        if self._plan is None:
            return given, kwargs
        return self.decode(given, kwargs, serializer)

    def decode(
        self, args: Sequence[Any], kwargs: dict[str, Any], serializer: Serializer
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments as the annotations ask for them; `serializer` is the one that read them.

        Raises `DecodeError`, naming the parameter, when a value does not fit. Arguments whose annotation asks for
        nothing special are not looked at and cost nothing. `args` and `kwargs` themselves are left as they are.
        """
        plan = self._plan
        if plan is None or serializer.exact:
            return tuple(args), kwargs
        values = list(args)
        for index, name, annotation in plan.by_position:
            if index < len(values):
                values[index] = self._converted(name, values[index], annotation, serializer)
        for index in range(more := len(self._positional), len(values)):
            name = f"{self._more}[{index - more}]"
            values[index] = self._converted(name, values[index], plan.more_positions, serializer)
        named = {
            name: self._converted(name, value, plan.by_name.get(name, plan.more_names), serializer)
            for name, value in kwargs.items()
        }
        return tuple(values), named

    @cached_property
    def marks(self) -> tuple[int | str, ...]:
        """Which arguments of a call are sensitive: by position, by name; or `EVERY` when *args or **kwargs is marked.

        The same for every call, so that it can travel with one to where the function is not known.
        """
        found: list[int | str] = sorted(self._named_sensitive - self._signature.parameters.keys())
        if found and self._more:
            return (EVERY,)  # It may stand anywhere in *args.
        for position, parameter in enumerate(self._signature.parameters.values()):
            if parameter.name not in self._named_sensitive and not self._is_marked(parameter.annotation):
                continue
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                return (EVERY,)
            found += [position] if parameter.kind in _POSITIONAL else []
            found += [parameter.name] if parameter.kind in _BY_NAME else []
        return tuple(found)

    def named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]] | None:
        """Return the name that each positional argument has here, and all arguments by name, those of *args together.

        None if they do not fit. Arguments that are missing do not matter.
        """
        names = [p.name for p in self._positional[: len(args)]]
        found = dict(zip(names, args, strict=False))
        if more := args[len(names) :]:
            if not self._more:
                return None
            found[self._more] = tuple(more)
            names += [self._more] * len(more)
        return (names, {**found, **kwargs}) if kwargs.keys().isdisjoint(names) else None

    def whole(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return all arguments by name, those that were left out as well, so that equal calls are told as equal.

        Raises `ArgumentsError` if they do not fit.
        """
        found = self.named(args, kwargs)
        if found is None:
            raise ArgumentsError(f"{self.text} {self._complaint(tuple(args), kwargs)}")
        left_out = {p.name: p.default for p in self._signature.parameters.values() if p.default is not p.empty}
        return {**left_out, **found[1]}

    @property
    def names(self) -> list[str]:
        """The names of all parameters."""
        return list(self._signature.parameters)

    @property
    def takes_any_name(self) -> bool:
        """Whether there is a `**kwargs`."""
        return self._takes_any_name

    def check_sensitive(self) -> None:
        """Raise `TaskOptionError` if a parameter was named as sensitive and there is none of that name."""
        for name in sorted(self._named_sensitive - self._signature.parameters.keys()):
            if not self._takes_any_name:
                known = nearest(name, self._signature.parameters)
                raise TaskOptionError(f"{self.text}: sensitive names a parameter {name!r} that it does not have{known}")

    @cached_property
    def returns(self) -> Any:
        """What the function is annotated to return (for `async def`: what awaiting it gives), or Any."""
        return self._resolved(self._signature.return_annotation)

    @cached_property
    def text(self) -> str:
        """The function as people would write it: `shop.add(x: int, y: int = 1)`."""
        shown = [p.replace(annotation=_verbatim(p.annotation)) for p in self._signature.parameters.values()]
        return f"{self._name}{inspect.Signature(shown)}"

    def __repr__(self) -> str:
        return f"<Parameters of {self.text}>"

    def _complaint(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Say what is wrong with a call; empty when it fits.

        `Signature.bind` is of no use here: before Python 3.13 it refuses some calls that Python takes.
        """
        taken, left = self._positional[: len(args)], self._positional[len(args) :] + self._only_named
        if len(args) > len(self._positional) and not self._more:
            return f"takes {_count(len(self._positional), 'positional argument')} and got {len(args)}"
        if twice := [p.name for p in taken if p.kind in _BY_NAME and p.name in kwargs]:
            return f"got two values for {_listed(twice)}"
        if odd := [name for name in kwargs if not isinstance(name, str)]:
            return f"got an argument whose name is not text: {_listed(odd)}"
        names = [p.name for p in self._positional + self._only_named if p.kind in _BY_NAME]
        unknown = [name for name in kwargs if name not in names]
        if unknown and not self._takes_any_name:
            return f"has no parameter {_listed(unknown)}{nearest(unknown[0], names)}"
        required = [p for p in left if p.default is p.empty]
        missing = [p.name for p in required if p.kind is p.POSITIONAL_ONLY or p.name not in kwargs]
        return f"got no value for {_listed(missing)}" if missing else ""

    def _converted(self, name: str, value: Any, annotation: Any, serializer: Serializer) -> Any:
        if annotation is Any:
            return value
        try:
            return serializer.convert(value, annotation)
        except DecodeError as error:
            # What is wrong with a value may well show the value.
            reason = "it is sensitive, and so is what is wrong with it" if self._hides(name) else error
            raise DecodeError(f"{self.text}: the value of {name!r} does not fit: {reason}") from None

    def _hides(self, name: str) -> bool:
        return EVERY in self.marks or name in self.marks or name in self._sensitive_positions

    @cached_property
    def _sensitive_positions(self) -> frozenset[str]:
        """The names of the parameters that are marked by position: those that cannot be given by name among them."""
        return frozenset(p.name for position, p in enumerate(self._positional) if position in self.marks)

    def _is_marked(self, annotation: Any) -> bool:
        resolved = self._resolved(annotation)
        if resolved is Any and isinstance(annotation, str):
            # It names something that is not there, at run time; the mark must not get lost with it.
            return Sensitive.__name__ in annotation
        return _mentions_sensitive(resolved)

    @cached_property
    def _plan(self) -> _Plan | None:
        """How to decode the arguments; None when none of them asks for anything."""
        wanted = {p.name: self._wanted(p) for p in self._signature.parameters.values()}
        if all(annotation is Any for annotation in wanted.values()):
            return None
        kinds = {p.kind: wanted[p.name] for p in self._signature.parameters.values()}
        return _Plan(
            tuple((i, p.name, wanted[p.name]) for i, p in enumerate(self._positional) if wanted[p.name] is not Any),
            {p.name: wanted[p.name] for p in self._signature.parameters.values() if p.kind in _BY_NAME},
            kinds.get(inspect.Parameter.VAR_POSITIONAL, Any),
            kinds.get(inspect.Parameter.VAR_KEYWORD, Any),
        )

    def _wanted(self, parameter: inspect.Parameter) -> Any:
        annotation = _unmarked(self._resolved(parameter.annotation))
        if _is_plain(annotation):
            return Any
        # `when: datetime = None` is written often enough, and means `datetime | None`.
        return typing.Optional[annotation] if parameter.default is None else annotation  # noqa: UP045

    def _resolved(self, annotation: Any) -> Any:
        """Return an annotation with its names looked up; Any when there is none or a name cannot be found."""
        if annotation is inspect.Parameter.empty:
            return Any
        holder = types.SimpleNamespace(__annotations__={"it": annotation})
        try:
            # Each by itself, so that one that names nothing does not take the others with it.
            return typing.get_type_hints(holder, *self._namespaces, include_extras=True)["it"]
        except Exception:
            return Any

    @cached_property
    def _namespaces(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Where the names in the annotations are looked up: globals, and type parameters."""
        function: Any = self._function
        while isinstance(function, functools.partial):
            function = function.func
        function = inspect.unwrap(function)
        called = function if hasattr(function, "__globals__") else type(function).__call__
        module = sys.modules.get(getattr(function, "__module__", None) or "")
        found = getattr(called, "__globals__", None) or vars(module or types)
        return found, {parameter.__name__: parameter for parameter in getattr(function, "__type_params__", ())}


def _rest(left: Iterable[inspect.Parameter]) -> _Rest | None:
    required = [p for p in left if p.default is p.empty]
    if any(p.kind is p.POSITIONAL_ONLY for p in required):
        return None
    return _Rest(frozenset(p.name for p in required), frozenset(p.name for p in left if p.kind in _BY_NAME))


def _is_plain(annotation: Any) -> bool:
    """Whether a value for this annotation can be used as any serializer gives it back."""
    if isinstance(annotation, abc.Hashable) and annotation in _PLAIN:
        return True
    if isinstance(annotation, typing.TypeVar):
        return True
    if isinstance(annotation, typing.NewType):
        return _is_plain(annotation.__supertype__)
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in _PLAIN_MAPPINGS:
        return not parts or (parts[0] in (str, Any, object) and _is_plain(parts[1]))
    return origin in _PLAIN_GENERICS and all(map(_is_plain, parts))


def _mentions_sensitive(annotation: Any) -> bool:
    """Return whether an annotation is marked, or anything that it is made of."""
    if any(mark is Sensitive or isinstance(mark, Sensitive) for mark in getattr(annotation, "__metadata__", ())):
        return True
    # A `type` statement hides what it stands for.
    parts = (*typing.get_args(annotation), getattr(annotation, "__value__", None))
    return any(_mentions_sensitive(part) for part in parts if part is not None)


def _unmarked(annotation: Any) -> Any:
    """Return an annotation without the mark, which tells a serializer nothing."""
    if typing.get_origin(annotation) is typing.Annotated:
        kept = [m for m in annotation.__metadata__ if m is not Sensitive and not isinstance(m, Sensitive)]
        inner = _unmarked(annotation.__origin__)
        return functools.reduce(lambda kind, mark: typing.Annotated[kind, mark], kept, inner)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.Union[tuple(map(_unmarked, typing.get_args(annotation)))]  # noqa: UP007
    return annotation


def _without_first(name: str, signature: inspect.Signature) -> inspect.Signature:
    every = list(signature.parameters.values())
    if not every or every[0].kind not in (*_POSITIONAL, inspect.Parameter.VAR_POSITIONAL):
        raise TaskOptionError(f"{name}{signature} is bound (bind=True) and has no first parameter to take the task")
    return signature.replace(parameters=every if every[0].kind is inspect.Parameter.VAR_POSITIONAL else every[1:])


def _takes_anything(*args: Any, **kwargs: Any) -> None:
    """Stands for callables that do not tell their signature."""


def _name_of(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{function.__module__}.{name}" if getattr(function, "__module__", None) else name


class _Verbatim:
    """An annotation that prints as it was written, without the quotes that make it text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _verbatim(annotation: Any) -> Any:
    return _Verbatim(annotation) if isinstance(annotation, str) else annotation


def _listed(names: Sequence[str]) -> str:
    *most, last = map(repr, names)
    return f"{', '.join(most)} and {last}" if most else last


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")
