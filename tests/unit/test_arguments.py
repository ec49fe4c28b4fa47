"""Calls against signatures: what fits, what is said when it does not, and what arguments are turned into."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any, NewType, Optional, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dray import ArgumentsError, DecodeError, Serializer
from dray.arguments import Parameters
from dray.errors import TaskOptionError
from dray_serializers.json import JsonSerializer
from dray_serializers.pickle import PickleSerializer

if TYPE_CHECKING:
    from nowhere import Imaginary  # type: ignore[import-not-found]

JSON, PICKLE = JsonSerializer(), PickleSerializer()

T = TypeVar("T")
Name = NewType("Name", str)
Day = NewType("Day", date)


class Recording(Serializer):
    """Says which conversions it was asked for."""

    name = "recording"
    content_type = "application/x-recording"

    def __init__(self) -> None:
        self.asked: list[tuple[Any, Any]] = []

    def dumps(self, value: Any) -> bytes:
        raise NotImplementedError

    def loads(self, data: bytes | memoryview, type: Any = None) -> Any:
        raise NotImplementedError

    def convert(self, value: Any, type: Any) -> Any:
        self.asked.append((value, type))
        return value


def add(x: int, y: int) -> int:
    return x + y


def greet(name: str, greeting: str = "hello", *, loud: bool = False) -> str:
    return greeting + name


def everything(a: date, /, b: date, *more: date, c: date, d: int = 0, **rest: date) -> None: ...


def ship(order: Order, when: datetime | None = None, priority: int = 0) -> list[Order]: ...


@dataclass
class Order:
    """Defined after the function that names it, as happens in any module."""

    id: int
    placed: date


# check


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (add, (1, 2), {}),
        (add, (1,), {"y": 2}),
        (add, (), {"x": 1, "y": 2}),
        (greet, ("a",), {}),
        (greet, ("a", "b"), {"loud": True}),
        (greet, (), {"name": "a"}),
        (everything, (1, 2), {"c": 3}),
        (everything, (1,), {"b": 2, "c": 3, "z": 4, "a": 5}),
        (everything, (1, 2, 3, 4), {"c": 3, "d": 4}),
        (lambda: None, (), {}),
        (lambda *a: None, (1, 2, 3), {}),
        (lambda **k: None, (), {"x": 1}),
    ],
)
def test_a_call_that_fits_passes(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    Parameters.of(function).check(args, kwargs)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "sentence"),
    [
        (add, (1,), {}, "add(x: int, y: int) got no value for 'y'"),
        (add, (), {}, "add(x: int, y: int) got no value for 'x' and 'y'"),
        (add, (1, 2, 3), {}, "add(x: int, y: int) takes 2 positional arguments and got 3"),
        (add, (1, 2), {"z": 3}, "add(x: int, y: int) has no parameter 'z'"),
        (add, (1,), {"yy": 3}, "add(x: int, y: int) has no parameter 'yy'; did you mean 'y'?"),
        (add, (1, 2), {"x": 3}, "add(x: int, y: int) got two values for 'x'"),
        (add, (1,), {1: 2}, "add(x: int, y: int) got an argument whose name is not text: 1"),
        (greet, ("a",), {"lout": True}, "has no parameter 'lout'; did you mean 'loud'?"),
        (greet, ("a", "b", True), {}, "takes 2 positional arguments and got 3"),
        (everything, (), {"a": 1, "b": 2, "c": 3}, "got no value for 'a'"),
        (everything, (1, 2), {}, "got no value for 'c'"),
        (everything, (1, 2), {"b": 2, "c": 3}, "got two values for 'b'"),
        (lambda: None, (1,), {}, "takes 0 positional arguments and got 1"),
        (lambda x: None, (1, 2), {}, "takes 1 positional argument and got 2"),
    ],
)
def test_a_call_that_does_not_fit_is_told_why(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[Any, Any], sentence: str
) -> None:
    with pytest.raises(ArgumentsError) as caught:
        Parameters.of(function).check(args, kwargs)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(f"{function.__module__}.{function.__qualname__}(")
    assert isinstance(caught.value, TypeError)


kinds = st.sampled_from(list(inspect._ParameterKind))
names = st.sampled_from("abcdef")


@st.composite
def signatures(draw: st.DrawFn) -> inspect.Signature:
    """Any legal signature of up to six parameters."""
    chosen = sorted(draw(st.lists(kinds, max_size=6)))
    parameters, optional = [], False
    for name, kind in zip("abcdef", chosen, strict=False):
        single = kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        if single and any(p.kind is kind for p in parameters):
            continue
        has_default = not single and draw(st.booleans())
        if kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
            has_default = optional = optional or has_default
        parameters.append(inspect.Parameter(name, kind, default=0 if has_default else inspect.Parameter.empty))
    return inspect.Signature(parameters)


@settings(max_examples=400)
@given(
    signature=signatures(), args=st.lists(st.just(1), max_size=5), kwargs=st.dictionaries(names, st.just(1), max_size=4)
)
def test_exactly_the_calls_that_python_would_take_pass(
    signature: inspect.Signature, args: list[int], kwargs: dict[str, int]
) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def function{signature}: ...", namespace)
    function = namespace["function"]
    try:
        function(*args, **kwargs)
    except TypeError:
        with pytest.raises(ArgumentsError, match=r"has no|got no|got two|takes"):
            Parameters.of(function).check(tuple(args), kwargs)
    else:
        Parameters.of(function).check(tuple(args), kwargs)


def test_types_are_not_looked_at_when_sending() -> None:
    Parameters.of(add).check(("one", None), {})


# bound


def test_a_bound_task_does_not_count_its_first_parameter() -> None:
    def task(self: Any, x: int) -> None: ...

    parameters = Parameters.of(task, bound=True, name="shop.task")
    parameters.check((1,), {})
    assert parameters.text == "shop.task(x: int)"
    with pytest.raises(ArgumentsError, match=r"shop\.task\(x: int\) takes 1 positional argument and got 2"):
        parameters.check((1, 2), {})


def test_a_bound_task_may_take_itself_by_star() -> None:
    Parameters.of(lambda *args: None, bound=True).check((1, 2), {})


@pytest.mark.parametrize("function", [lambda: None, lambda **k: None, lambda *, x: None])
def test_a_bound_task_that_cannot_take_itself_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(TaskOptionError, match="no first parameter"):
        Parameters.of(function, bound=True)


# decode


def test_arguments_are_turned_into_what_the_annotations_say() -> None:
    order = {"id": 1, "placed": "2024-01-01"}
    args, kwargs = Parameters.of(ship).decode([order], {"when": "2024-01-02T00:00:00"}, JSON)
    assert args == (Order(1, date(2024, 1, 1)),)
    assert kwargs == {"when": datetime(2024, 1, 2)}


def test_what_was_given_is_left_as_it_was() -> None:
    args, kwargs = [{"id": 1, "placed": "2024-01-01"}], {"when": "2024-01-02T00:00:00"}
    Parameters.of(ship).decode(args, kwargs, JSON)
    assert (args, kwargs) == ([{"id": 1, "placed": "2024-01-01"}], {"when": "2024-01-02T00:00:00"})


def test_every_kind_of_parameter_is_converted() -> None:
    day = date(2024, 1, 1)
    args, kwargs = Parameters.of(everything).decode(
        ["2024-01-01"] * 4, {"c": "2024-01-01", "d": 5, "z": "2024-01-01"}, JSON
    )
    assert args == (day, day, day, day)
    assert kwargs == {"c": day, "d": 5, "z": day}


@pytest.mark.parametrize(
    ("args", "kwargs", "name"),
    [
        ([1, "2024-01-01"], {}, "'a'"),
        (["2024-01-01", "x"], {}, "'b'"),
        (["2024-01-01", "2024-01-01", "2024-01-01", "x"], {}, r"'more\[1\]'"),
        (["2024-01-01"], {"b": "x"}, "'b'"),
        (["2024-01-01"], {"c": []}, "'c'"),
        (["2024-01-01"], {"z": 3}, "'z'"),
    ],
)
def test_a_value_that_does_not_fit_is_named(args: list[Any], kwargs: dict[str, Any], name: str) -> None:
    with pytest.raises(DecodeError, match=rf"everything\(.*\): the value of {name} does not fit: "):
        Parameters.of(everything).decode(args, kwargs, JSON)


def test_an_exact_serializer_is_asked_for_nothing() -> None:
    order = Order(1, date(2024, 1, 1))
    assert Parameters.of(ship).decode([order], {"when": None}, PICKLE) == ((order,), {"when": None})


@pytest.mark.parametrize(
    "annotation",
    [
        inspect.Parameter.empty,
        Any,
        object,
        int,
        str,
        bool,
        float,
        None,
        list,
        dict,
        int | None,
        Optional[str],  # noqa: UP045
        list[int],
        list[dict[str, list[str]]],
        dict[str, Any],
        dict[Any, int],
        Sequence[int],
        Iterable[str],
        Mapping[str, int],
        T,
        Name,
        "int | str",
        "Imaginary",
        "list[Imaginary]",
        "this is no annotation",
    ],
    ids=str,
)
def test_annotations_that_ask_for_nothing_cost_nothing(annotation: Any) -> None:
    serializer = Recording()
    parameters = Parameters.of(_with(annotation))
    value = object()
    args, kwargs = parameters.decode([value], given := {"more": value}, serializer)
    assert serializer.asked == []
    assert args == (value,)
    assert kwargs is given


@pytest.mark.parametrize(
    "annotation",
    [
        date,
        bytes,
        set,
        tuple,
        list[date],
        dict[int, str],
        dict[str, date],
        date | None,
        Day,
        Annotated[int, "positive"],
        Order,
    ],
    ids=str,
)
def test_other_annotations_are_asked_for(annotation: Any) -> None:
    serializer = Recording()
    Parameters.of(_with(annotation)).decode([1], {}, serializer)
    assert serializer.asked == [(1, annotation)]


def _with(annotation: Any) -> Callable[..., Any]:
    def function(x, **rest):  # type: ignore[no-untyped-def]
        return x

    function.__annotations__ = {} if annotation is inspect.Parameter.empty else {"x": annotation}
    return function


def test_a_default_of_none_makes_an_annotation_optional() -> None:
    def task(when: date = None) -> None: ...  # type: ignore[assignment]

    assert Parameters.of(task).decode([None], {}, JSON) == ((None,), {})
    assert Parameters.of(task).decode(["2024-01-01"], {}, JSON) == ((date(2024, 1, 1),), {})


def test_an_annotation_that_names_nothing_does_not_take_the_others_with_it() -> None:
    def task(x: Imaginary, day: date) -> Imaginary: ...

    parameters = Parameters.of(task)
    assert parameters.decode([{"a": 1}, "2024-01-01"], {}, JSON) == (({"a": 1}, date(2024, 1, 1)), {})
    assert parameters.returns is Any


def test_an_annotation_that_is_no_type_is_no_obstacle() -> None:
    assert Parameters.of(_with({"unhashable": 1})).decode([1], {}, JSON) == ((1,), {})
    assert Parameters.of(_with(5)).decode([1], {}, JSON) == ((1,), {})


def test_more_arguments_than_parameters_are_passed_on_for_python_to_refuse() -> None:
    assert Parameters.of(ship).decode([{"id": 1, "placed": "2024-01-01"}, None, 1, "extra"], {}, JSON)[0][3] == "extra"


# returns, text


def test_the_return_annotation_is_known() -> None:
    async def fetch() -> list[date]:
        return []

    assert Parameters.of(ship).returns == list[Order]
    assert Parameters.of(fetch).returns == list[date]
    assert Parameters.of(everything).returns is type(None)
    assert Parameters.of(lambda: None).returns is Any


def test_text_shows_annotations_as_written_and_defaults() -> None:
    def task(a, /, b: int = 1, *more: Imaginary, c: dict[str, Order] | None = None, **rest: Any) -> int: ...  # type: ignore[no-untyped-def]

    text = "(a, /, b: int = 1, *more: Imaginary, c: dict[str, Order] | None = None, **rest: Any)"
    assert Parameters.of(task, name="shop.task").text == f"shop.task{text}"
    assert repr(Parameters.of(add, name="add")) == "<Parameters of add(x: int, y: int)>"


# Callables of all kinds


class Sender:
    def __call__(self, day: date) -> date:
        return day

    def send(self, day: date) -> None: ...

    @classmethod
    def make(cls, day: date) -> None: ...

    @staticmethod
    def plain(day: date) -> None: ...


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def two(x: int, day: date) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        Sender(),
        Sender().send,
        Sender.make,
        Sender.plain,
        decorated(Sender.plain),
        functools.partial(two, 1),
        functools.partial(decorated(two), 1),
        functools.lru_cache(Sender.plain),
    ],
    ids=[
        "object",
        "method",
        "classmethod",
        "staticmethod",
        "decorated",
        "partial",
        "partial of decorated",
        "lru_cache",
    ],
)
def test_any_callable_is_read(function: Callable[..., Any]) -> None:
    parameters = Parameters.of(function)
    parameters.check(("2024-01-01",), {})
    with pytest.raises(ArgumentsError, match="got no value for 'day'"):
        parameters.check((), {})
    assert parameters.decode(["2024-01-01"], {}, JSON) == ((date(2024, 1, 1),), {})
    assert "(day: date)" in parameters.text


@pytest.mark.parametrize("function", [dict, type], ids=["dict", "type"])
def test_a_callable_that_does_not_tell_its_signature_takes_anything(function: Callable[..., Any]) -> None:
    parameters = Parameters.of(function)
    parameters.check((1, 2, 3), {"x": 4})
    assert parameters.decode([1], {"x": 2}, JSON) == ((1,), {"x": 2})
    assert parameters.returns in (Any, type(None))
