"""What the contract leaves to each serializer: their types, their refusals in words, pydantic, YAML's traps."""

from __future__ import annotations

import collections
import enum
import importlib
import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NewType, Protocol, TypeVar
from uuid import UUID

import msgspec
import pydantic
import pydantic.dataclasses
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dray import ConfigurationError, DecodeError, SerializationError, Serializer
from dray_serializers import plugin
from dray_serializers.json import JsonSerializer
from dray_serializers.msgpack import MsgpackSerializer
from dray_serializers.pickle import PickleSerializer
from dray_serializers.yaml import YamlSerializer

JSON = JsonSerializer()
MSGPACK = MsgpackSerializer()
PICKLE = PickleSerializer()
YAML = YamlSerializer()

every = pytest.mark.parametrize("serializer", [JSON, MSGPACK, PICKLE, YAML], ids=lambda s: s.name)
by_annotation = pytest.mark.parametrize("serializer", [JSON, MSGPACK, YAML], ids=lambda s: s.name)
some = settings(max_examples=60)

T = TypeVar("T")
UserId = NewType("UserId", UUID)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


@dataclass
class Line:
    sku: str
    price: Decimal
    count: int = 1


@dataclass
class Order:
    id: UUID
    placed: datetime
    took: timedelta
    lines: list[Line] = field(default_factory=list)
    tags: frozenset[str] = frozenset()
    note: bytes | None = None


@dataclass
class Other:
    q: int


class Event(msgspec.Struct, tag=True):
    at: datetime


class Alarm(msgspec.Struct, tag=True):
    loud: bool


class Customer(pydantic.BaseModel):
    name: str
    since: date
    number: int = pydantic.Field(0, alias="customerNumber")
    friends: list[Customer] = []

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def shout(self) -> str:
        return self.name.upper()


class Closed(pydantic.BaseModel, extra="forbid"):
    x: int

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return 2 * self.x


@pydantic.dataclasses.dataclass
class Checked:
    x: Annotated[int, pydantic.Field(gt=0)]


@dataclass
class Cart:
    owner: Customer
    size: int


class SupportsRun(Protocol):
    def run(self) -> None: ...


class Sub(str):
    """Text of a framework's own, such as Django's SafeString."""


# Round trips


texts = st.text(st.characters(exclude_categories=["Cs"]))
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@every
@some
@given(value=plain)
def test_any_plain_value_survives(serializer: Serializer, value: Any) -> None:
    assert serializer.loads(serializer.dumps(value)) == value


@by_annotation
@some
@given(
    order=st.builds(Order, lines=st.lists(st.builds(Line, sku=texts, price=st.decimals(allow_nan=False)), max_size=2))
)
def test_any_order_comes_back_by_annotation(serializer: Serializer, order: Order) -> None:
    assert serializer.loads(serializer.dumps(order), Order) == order
    assert serializer.convert(serializer.loads(serializer.dumps({"a": [order]})), dict[str, list[Order]]) == {
        "a": [order]
    }


@some
@given(number=st.integers(-(10**4000), 10**4000))
def test_json_keeps_integers_of_any_size(number: int) -> None:
    assert JSON.loads(JSON.dumps([number])) == [number]


@some
@given(data=st.binary(max_size=60))
def test_no_bytes_make_a_reader_raise_anything_but_decode_error(data: bytes) -> None:
    for serializer in (JSON, MSGPACK, YAML):
        for annotation in (None, Order, dict[int, Line]):
            try:
                serializer.loads(data, annotation)
            except DecodeError as error:
                assert str(error)


def test_pickle_gives_back_the_very_types() -> None:
    value = ((1, {2, 3}), {"line": Line("a", Decimal(1)), 4: Colour.RED})
    back = PICKLE.loads(PICKLE.dumps(value), dict[str, int])
    assert back == value
    assert type(back) is tuple


def test_msgpack_and_yaml_keep_what_json_has_no_word_for() -> None:
    value = {1: "one", None: [b"\x00"], 2.5: math.inf}
    assert MSGPACK.loads(MSGPACK.dumps(value)) == value
    assert YAML.loads(YAML.dumps(value)) == value


def test_json_writes_other_types_as_people_expect() -> None:
    value = [
        datetime(2024, 1, 1, tzinfo=UTC),
        Decimal("1.10"),
        b"hi",
        (1, 2),
        Colour.RED,
        Level.LOW,
        Line("a", Decimal(2)),
    ]
    assert JSON.dumps(value) == (
        b'["2024-01-01T00:00:00Z","1.10","aGk=",[1,2],"red",1,{"sku":"a","price":"2","count":1}]'
    )


@by_annotation
def test_subclasses_of_plain_types_are_written_as_plain(serializer: Serializer) -> None:
    class Number(int):
        def __int__(self) -> int:
            return 99

    value = [Sub("text"), Number(7), collections.OrderedDict(a=1), collections.defaultdict(list, b=[2])]
    assert serializer.loads(serializer.dumps(value)) == ["text", 7, {"a": 1}, {"b": [2]}]


@by_annotation
def test_paths_come_back_by_annotation(serializer: Serializer) -> None:
    assert serializer.loads(serializer.dumps([PurePosixPath("/tmp/a")]), list[Path]) == [Path("/tmp/a")]
    assert type(serializer.loads(serializer.dumps("x"), Sub)) is Sub


@by_annotation
def test_numeric_keys_come_back_by_annotation(serializer: Serializer) -> None:
    value = {1: {date(2024, 1, 1): 1.5}}
    assert serializer.loads(serializer.dumps(value), dict[int, dict[date, float]]) == value


# Annotations


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        ("5", int | None, None),
        (5, str, None),
        (1, bool, None),
        (1.5, int, None),
        ("red", Colour, Colour.RED),
        (1, Level, Level.LOW),
        (1, float, 1.0),
        ("1.5", Decimal, Decimal("1.5")),
        ("YQ==", bytes, b"a"),
        ("a", Literal["a", "b"], "a"),
        ("c", Literal["a", "b"], None),
        ("12345678-1234-5678-1234-567812345678", UserId, UUID("12345678-1234-5678-1234-567812345678")),
        (["2024-01-01"], Sequence[date], [date(2024, 1, 1)]),
        (["2024-01-01"], Iterable[date], [date(2024, 1, 1)]),
        ({"a": "2024-01-01"}, Mapping[str, date], {"a": date(2024, 1, 1)}),
        ({"type": "Alarm", "loud": True}, Event | Alarm, Alarm(True)),
        (4, Annotated[int, msgspec.Meta(gt=3)], 4),
        (2, Annotated[int, msgspec.Meta(gt=3)], None),
        (1, range, None),
    ],
)
def test_conversion_is_strict_where_guessing_would_hide_a_mistake(value: Any, annotation: Any, expected: Any) -> None:
    if expected is None:
        with pytest.raises(DecodeError):
            JSON.convert(value, annotation)
    else:
        back = JSON.convert(value, annotation)
        assert back == expected
        assert type(back) is type(expected)


@pytest.mark.parametrize(
    "annotation",
    [
        Line | Other,
        str | datetime,
        list[int] | tuple[int, ...],
        Callable[[int], int],
        Callable,
        Iterator[date],
        SupportsRun,
        SupportsRun | None,
        type[int],
        T,
        Annotated[Line | Other, {"unhashable": True}],
        Any,
        object,
    ],
    ids=str,
)
@pytest.mark.parametrize("value", [[1], {"q": 1}], ids=str)
def test_an_annotation_nobody_can_read_leaves_the_value_as_it_is(annotation: Any, value: Any) -> None:
    assert JSON.convert(value, annotation) == value


def test_a_misfit_says_where_it_is_without_naming_the_machinery() -> None:
    with pytest.raises(DecodeError, match=r"^Expected `int`, got `str` - at `\$\.lines\[1\]\.count`$"):
        JSON.convert({**_order(), "lines": [_line(), {**_line(), "count": "2"}]}, Order)
    with pytest.raises(DecodeError, match=r"^Invalid UUID$"):
        JSON.convert("x", UUID)


def _order() -> dict[str, Any]:
    return {"id": "12345678-1234-5678-1234-567812345678", "placed": "2024-01-01T00:00:00", "took": "PT1S"}


def _line() -> dict[str, Any]:
    return {"sku": "a", "price": "1"}


def test_an_object_of_the_annotated_class_is_taken_as_it_is() -> None:
    class Handle:
        pass

    handle = Handle()
    assert JSON.convert([handle], list[Handle]) == [handle]
    with pytest.raises(DecodeError, match="Expected `Handle`, got `dict`"):
        JSON.convert([{}], list[Handle])


@every
def test_what_is_nested_too_deeply_to_convert_is_a_decode_error(serializer: Serializer) -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    if serializer.exact:
        assert serializer.convert(value, list[Any]) is value
    else:
        with pytest.raises(DecodeError):
            serializer.convert({"id": value}, Order)


# Refusals in words


class Owner:
    pass


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (((Order,), {}), r"args\[0\]: type is not something json can write; pass its name"),
        (
            ((), {"user": Owner()}),
            r'kwargs\["user"\]: .*Owner is not something json can write; pass its id, or its data',
        ),
        ((({"owner": Owner()},), {}), r'args\[0\]\["owner"\]: .*Owner is not'),
        (((Other(Owner()),), {}), r"args\[0\]\.q: .*Owner is not"),  # type: ignore[arg-type]
        ((([1, Event(Owner())],), {}), r"args\[0\]\[1\]\.at: .*Owner is not"),  # type: ignore[arg-type]
        ({"a": ({Owner()},)}, r'\["a"\]\[0\]\[\.\.\.\]: .*Owner is not'),
        (Owner(), r"^the value: .*Owner is not something json can write"),
        ((i for i in ()), r"generator is not something json can write; make a list of it first"),
        (iter([]), r"list_iterator is not something json can write; make a list of it first"),
        ([len], r"\[0\]: builtin_function_or_method is not something json can write; pass its name"),
        ([math.nan], r"\[0\]: json cannot write this float: JSON has no NaN and no infinity; send None or text"),
        ({"a": "\ud800"}, r"\[\"a\"\]: the text holds a lone surrogate \('\\ud800'\)"),
        ({"\ud800": 1}, r"the value: a key of the dict, '\\ud800', holds a lone surrogate"),
        (
            [{None: 1}],
            r"\[0\]: a key of the dict, None, of type NoneType, is not something json can write; use text keys",
        ),
        ({(1, 2): 1}, r"a key of the dict, \(1, 2\), of type tuple"),
        ({1: Owner()}, r"^\[1\]: .*Owner is not"),
        (1j, r"^the value: complex is not something json can write"),
    ],
)
def test_json_says_what_it_cannot_write_and_where(value: Any, sentence: str) -> None:
    with pytest.raises(SerializationError, match=sentence):
        JSON.dumps(value)


def test_an_int_longer_than_python_prints_is_refused() -> None:
    with pytest.raises(SerializationError, match=r"^\[0\]: json cannot write this int: .*4300"):
        JSON.dumps([10**5000])


def test_an_open_file_is_refused_with_what_to_pass_instead() -> None:
    with open(__file__) as file, pytest.raises(SerializationError, match="pass its path or what is in it"):
        JSON.dumps([file])


@every
def test_a_coroutine_is_refused_with_await_it_first(serializer: Serializer) -> None:
    async def fetch() -> int:
        return 1

    call = fetch()
    try:
        with pytest.raises(SerializationError, match=r"args\[0\]: coroutine is not .*; await it first"):
            serializer.dumps(((call,), {}))
    finally:
        call.close()


@by_annotation
def test_a_value_that_contains_itself_is_refused_with_the_path_to_it(serializer: Serializer) -> None:
    value: dict[str, Any] = {"children": []}
    value["children"].append({"parent": value})
    with pytest.raises(SerializationError, match=r'kwargs\["tree"\].*: the (dict|list) contains itself'):
        serializer.dumps(((), {"tree": value}))


@every
def test_a_value_nested_too_deeply_is_refused_in_words(serializer: Serializer) -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(SerializationError, match=f"nested too deeply for {serializer.name}"):
        serializer.dumps(((), {"x": value}))


def test_msgpack_says_which_int_is_too_large() -> None:
    with pytest.raises(SerializationError, match=r"args\[1\]: msgpack cannot write this int"):
        MSGPACK.dumps(((1, 2**64), {}))


def test_a_property_that_raises_does_not_hide_the_refusal() -> None:
    class Lazy:
        @property
        def name(self) -> str:
            raise RuntimeError("the session is closed")

    with pytest.raises(SerializationError, match="Lazy is not something pickle can write"):
        PICKLE.dumps([Lazy()])


# NaN in JSON


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -math.nan], ids=str)
@pytest.mark.parametrize(
    "around",
    [
        lambda n: n,
        lambda n: [None, {"a": (1, n)}],
        lambda n: {"big": 2**70, "n": n},
        lambda n: Order(UUID(int=1), datetime(2024, 1, 1), timedelta(1), [Line("a", n)]),
        lambda n: [{n}],
    ],
    ids=["alone", "nested", "beside a great int", "in a dataclass", "in a set"],
)
def test_json_refuses_what_is_not_a_number_wherever_it_hides(number: float, around: Callable[[float], Any]) -> None:
    with pytest.raises(SerializationError, match="JSON has no NaN"):
        JSON.dumps(around(number))


@pytest.mark.parametrize(
    "value",
    [None, [None, 1.5], "null", {"null": b"\xcb\x7f\xf8" * 3, "none": None}, [0xCB7FF8000000, None], [None, 2**90]],
    ids=repr,
)
def test_what_only_looks_like_nan_is_written(value: Any) -> None:
    back = JSON.loads(JSON.dumps(value), dict[str, bytes | None] if isinstance(value, dict) else None)
    assert back == value


# pydantic


def test_pydantic_models_come_back_by_annotation_under_their_field_names() -> None:
    ada = Customer(name="Ada", since=date(1843, 1, 1), customerNumber=7)
    bob = Customer(name="Bob", since=date(2024, 1, 1), friends=[ada])
    for serializer in (JSON, MSGPACK, YAML):
        data = serializer.dumps([bob])
        assert serializer.loads(data)[0]["friends"][0]["number"] == 7
        assert serializer.loads(data, list[Customer]) == [bob]


def test_pydantic_models_are_read_under_their_aliases_too() -> None:
    assert JSON.convert({"name": "Ada", "since": "1843-01-01", "customerNumber": 7}, Customer).number == 7


def test_computed_fields_do_not_stop_a_model_that_forbids_extras() -> None:
    assert JSON.loads(JSON.dumps(Closed(x=2)), Closed | None) == Closed(x=2)


def test_models_inside_dataclasses_and_unions_are_read() -> None:
    ada = Customer(name="Ada", since=date(1843, 1, 1))
    assert JSON.loads(JSON.dumps(Cart(ada, 2)), Cart) == Cart(ada, 2)
    assert JSON.loads(JSON.dumps(ada), Customer | int) == ada
    assert JSON.loads(JSON.dumps(5), Customer | int) == 5


def test_a_misfit_of_a_model_is_told_in_one_line_and_without_the_value() -> None:
    with pytest.raises(DecodeError) as caught:
        JSON.convert([{"name": "Ada", "since": "secret"}], list[Customer])
    assert str(caught.value).startswith("since: Input should be a valid date")
    assert str(caught.value).endswith("at `$[0]`")
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_what_only_pydantic_understands_is_read_by_pydantic() -> None:
    assert JSON.convert({"x": 5}, Checked) == Checked(5)
    assert JSON.convert("a", Annotated[str, pydantic.AfterValidator(str.upper)]) == "A"
    assert str(JSON.convert("http://a.example", pydantic.HttpUrl)) == "http://a.example/"
    for value, annotation in (
        (0, Annotated[int, pydantic.Field(gt=0)]),
        ({"x": 0}, list[Checked]),
        ({"x": 0}, Checked),
    ):
        with pytest.raises(DecodeError):
            JSON.convert(value, annotation)


def test_a_model_that_holds_what_cannot_be_written_is_refused() -> None:
    class Loose(pydantic.BaseModel, arbitrary_types_allowed=True):
        owner: Owner

    with pytest.raises(SerializationError, match=r"args\[0\]: json cannot write this .*Loose: .*Owner"):
        JSON.dumps(((Loose(owner=Owner()),), {}))


def test_a_validator_that_breaks_is_a_decode_error() -> None:
    class Broken(pydantic.BaseModel):
        x: int

        @pydantic.field_validator("x")
        @classmethod
        def check(cls, x: int) -> int:
            raise KeyError("oops")

    with pytest.raises(DecodeError, match="KeyError"):
        JSON.convert({"x": 1}, Broken)


# YAML


def test_yaml_reads_no_tag_that_would_run_code() -> None:
    with pytest.raises(DecodeError, match="constructor"):
        YAML.loads(b"!!python/object/apply:os.getcwd []")


@pytest.mark.parametrize("document", [b"a: &x [1]\nb: *x\n", b"&x [*x]", b"a: &x {k: 1}\nb:\n  <<: *x\n"])
def test_yaml_reads_no_aliases(document: bytes) -> None:
    with pytest.raises(DecodeError, match="aliases are not read"):
        YAML.loads(document)


@pytest.mark.parametrize(
    "document", [b"!!int ''", b"2024-13-45", b"!!timestamp x", b"a: 1\n---\nb: 2", b"{[]: 1}", b"\xff"]
)
def test_yaml_that_makes_no_sense_is_a_decode_error(document: bytes) -> None:
    with pytest.raises(DecodeError, match="not readable as YAML"):
        YAML.loads(document)


def test_yaml_written_by_hand_is_read() -> None:
    assert YAML.loads("- [कार्ट, 2]\n- {when: 2024-01-01}\n".encode()) == [["कार्ट", 2], {"when": date(2024, 1, 1)}]


def test_yaml_shows_text_as_it_is() -> None:
    assert YAML.dumps({"city": "पुणे"}).decode() == "city: पुणे\n"


def test_without_pyyaml_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'dray\[yaml\]'"):
        YamlSerializer()


# The plugin


def test_every_registered_name_leads_to_the_class_of_that_name() -> None:
    found: dict[str, str] = {}
    plugin.register_serializers(found.__setitem__)
    plugin.register_codecs(found.__setitem__)
    plugin.register_seals(found.__setitem__)
    assert sorted(found) == [
        "aes-gcm", "brotli", "ed25519", "gzip", "hmac", "json", "msgpack", "pickle", "yaml", "zstd"
    ]  # fmt: skip
    for name, target in found.items():
        module, _, cls = target.partition(":")
        assert getattr(importlib.import_module(module), cls).name == name


def test_only_pickle_is_unsafe() -> None:
    assert [s.name for s in (JSON, MSGPACK, PICKLE, YAML) if not s.safe] == ["pickle"]


def test_the_json_serializer_imports_no_library_that_it_may_not_need() -> None:
    script = (
        "import sys, dray_serializers.json as j; s = j.JsonSerializer();"
        "s.loads(s.dumps([None, 1.5]), list[float | None]);"
        "print(sorted({'pydantic', 'yaml', 'zstandard'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
