"""The serializer port as a test suite: what a serializer must do, in sentences. Subclass it in three lines.

    class TestMySerializer(SerializerContract):
        def make_serializer(self):
            return MySerializer()

Each class below is a section of the grade card.
"""

from __future__ import annotations

import math
import random
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pytest

from ..errors import DecodeError, SerializationError
from ..serializer import Serializer
from .grades import NEEDS

#: How deep the values and documents are nested that must not bring the process down.
ABYSS = 100_000


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Item:
    name: str
    due: date
    colour: Colour = Colour.RED


class Point(msgspec.Struct):
    x: float
    y: float | None = None


class Pair(NamedTuple):
    number: int
    at: datetime


class Address(TypedDict):
    city: str
    since: date


#: What every serializer must give back as it was.
PLAIN = {
    "nothing": None,
    "booleans": [True, False],
    "small ints": [0, 1, -1, 127, 128, -128, 255, 256, 65535, 65536],
    "the edges of 64 bits": [2**63 - 1, -(2**63), 2**53 + 1, -(2**53) - 1],
    "floats": [0.1, 1e22, 1.7976931348623157e308, 5e-324, -2.5, 1 / 3],
    "ascii": "hello",
    "many scripts": "नमस्ते दुनिया, 你好, שלום, é",
    "emoji": "🛒👩‍👩‍👧 \U0010ffff",
    "control characters": "".join(map(chr, range(32))) + "\x7f\x85\xa0\u2028\u2029\ufeff",
    "quotes": "\"'\\/`<>&%{}[]#:-?!|*@",
    "text that looks like something else": [
        "null",
        "true",
        "yes",
        "1",
        "1.5",
        "2020-01-01",
        "~",
        "",
        " ",
        "\n",
        "=",
        "<<",
    ],
    "empty things": ["", [], {}, [[]], [{}], {"": {}}, {"a": []}],
    "a mapping": {"a": 1, "b": [1, {"c": None}], "नमस्ते": "x", " ": 0, "true": True},
    "a call": [[1, "two", [3.0]], {"four": 4, "five": {"six": None}}],
}

#: What must come back by its annotation.
TYPED: dict[str, tuple[Any, Any]] = {
    "datetime": (datetime, datetime(2024, 2, 29, 23, 59, 59, 999999)),
    "datetime in UTC": (datetime, datetime(1999, 12, 31, 1, 2, 3, tzinfo=UTC)),
    "datetime with an offset": (datetime, datetime(2024, 1, 1, tzinfo=timezone(-timedelta(hours=3, minutes=30)))),
    "date": (date, date(1970, 1, 1)),
    "time": (time, time(12, 30, 15, 7)),
    "timedelta": (timedelta, timedelta(days=400, seconds=3, microseconds=5)),
    "UUID": (UUID, UUID("12345678-1234-5678-1234-567812345678")),
    "Decimal": (Decimal, Decimal("1.10")),
    "Enum": (Colour, Colour.BLUE),
    "bytes": (bytes, bytes(range(256))),
    "set": (set[int], {1, 2, 3}),
    "frozenset": (frozenset[str], frozenset({"a", "b"})),
    "tuple": (tuple[int, str], (1, "a")),
    "dataclass": (Item, Item("cart", date(2024, 1, 1), Colour.BLUE)),
    "Struct": (Point, Point(1.5)),
    "NamedTuple": (Pair, Pair(1, datetime(2024, 1, 1))),
    "TypedDict": (Address, {"city": "पुणे", "since": date(2024, 1, 1)}),
    "optional, there": (datetime | None, datetime(2024, 1, 1)),
    "optional, not there": (datetime | None, None),
    "list of dataclasses": (list[Item], [Item("a", date(2024, 1, 1)), Item("b", date(2024, 1, 2))]),
    "mapping of dates": (dict[str, date], {"a": date(2024, 1, 1)}),
    "anything": (Any, [1, "a", None]),
}

#: A small document with a bit of everything, to be cut and bent.
SAMPLE = [[1, -2.5, "कार्ट", None, True], {"nested": {"list": [[], {}, "x" * 40]}, "n": 2**40}]


class SerializerKit:
    """How a subclass describes its serializer. Only `make_serializer` is required."""

    #: True: bytes come back as bytes even when no annotation asks for them.
    keeps_bytes: bool = False
    #: Bytes that the format cannot possibly mean anything by.
    garbage: bytes = b"\x00\xff\xc1 no document"
    #: A document nested so deeply that a careless reader exhausts the stack; empty when the format cannot nest.
    depth_bomb: bytes = b""

    def make_serializer(self) -> Serializer:
        """Return the serializer, or override the fixture `serializer`."""
        raise NotImplementedError("say how to make the serializer: def make_serializer(self): return ...")

    @pytest.fixture
    def serializer(self) -> Serializer:
        """The serializer under test."""
        return self.make_serializer()

    @pytest.fixture
    def safe_serializer(self, serializer: Serializer) -> Serializer:
        """The serializer under test, unless reading foreign bytes with it is not to be tried."""
        if not serializer.safe:
            pytest.skip(f"{NEEDS}safe")
        return serializer


def surprises(serializer: Serializer, documents: Iterable[bytes]) -> list[tuple[bytes, str]]:
    """Read every document; return those at which anything but `DecodeError` was raised, and what that was."""
    found = []
    for document in documents:
        try:
            serializer.loads(document)
        except DecodeError:
            pass
        except Exception as error:
            found.append((document, repr(error)))
    return found


def abyss() -> list[Any]:
    """Return a list in a list in a list ... deeper than any stack."""
    value: list[Any] = []
    for _ in range(ABYSS):
        value = [value]
    return value


class Values(SerializerKit):
    """plain values"""

    @pytest.mark.parametrize("what", PLAIN)
    def test_plain_values_survive(self, serializer: Serializer, what: str) -> None:
        assert serializer.loads(serializer.dumps(PLAIN[what])) == PLAIN[what]

    def test_true_one_and_text_are_told_apart(self, serializer: Serializer) -> None:
        values = [True, 1, 1.0, "1", False, 0, 0.0, "", None]
        assert [type(value) for value in serializer.loads(serializer.dumps(values))] == [type(v) for v in values]

    def test_minus_zero_keeps_its_sign(self, serializer: Serializer) -> None:
        assert math.copysign(1, serializer.loads(serializer.dumps(-0.0))) == -1

    def test_a_tuple_comes_back_as_a_sequence(self, serializer: Serializer) -> None:
        assert list(serializer.loads(serializer.dumps((1, "a")))) == [1, "a"]

    def test_the_order_of_a_mapping_is_kept(self, serializer: Serializer) -> None:
        keys = ["z", "a", "m", "b"]
        assert list(serializer.loads(serializer.dumps(dict.fromkeys(keys, 0)))) == keys

    def test_sixty_levels_survive(self, serializer: Serializer) -> None:
        value: Any = "bottom"
        for level in range(30):
            value = [{"level": level, "below": value}]
        assert serializer.loads(serializer.dumps(value)) == value

    def test_long_values_survive(self, serializer: Serializer) -> None:
        value = {"text": "कार्ट" * 20_000, "list": list(range(2_000))}
        assert serializer.loads(serializer.dumps(value)) == value

    def test_one_object_in_two_places_is_not_a_cycle(self, serializer: Serializer) -> None:
        shared = [1, 2]
        assert serializer.loads(serializer.dumps([shared, {"again": shared}])) == [[1, 2], {"again": [1, 2]}]

    def test_bytes_come_back_as_bytes(self, serializer: Serializer) -> None:
        if not self.keeps_bytes:
            pytest.skip(f"{NEEDS}keeps_bytes")
        value = [b"", b"\x00", bytes(range(256))]
        assert serializer.loads(serializer.dumps(value)) == value

    def test_writing_gives_bytes_and_leaves_the_value_alone(self, serializer: Serializer) -> None:
        value = {"a": [1, {"b": 2}]}
        assert isinstance(serializer.dumps(value), bytes)
        assert value == {"a": [1, {"b": 2}]}

    def test_a_view_of_a_larger_buffer_is_read(self, serializer: Serializer) -> None:
        data = serializer.dumps(SAMPLE)
        assert serializer.loads(memoryview(b"before" + data + b"after")[6:-5]) == SAMPLE


class Types(SerializerKit):
    """annotated types"""

    @pytest.mark.parametrize("what", TYPED)
    def test_values_come_back_as_annotated(self, serializer: Serializer, what: str) -> None:
        annotation, value = TYPED[what]
        back = serializer.loads(serializer.dumps(value), annotation)
        assert back == value
        assert type(back) is type(value)

    @pytest.mark.parametrize("what", TYPED)
    def test_converting_afterwards_gives_the_same(self, serializer: Serializer, what: str) -> None:
        annotation, value = TYPED[what]
        back = serializer.loads(serializer.dumps(value))
        assert (back if serializer.exact else serializer.convert(back, annotation)) == value

    @pytest.mark.parametrize(
        ("value", "annotation"),
        [("tomorrow", datetime), ("x", UUID), ("green", Colour), ([1], dict[str, int]), ({}, Item), (["1"], list[int])],
        ids=["datetime", "UUID", "Enum", "dict", "dataclass", "item"],
    )
    def test_what_does_not_fit_is_a_decode_error(self, serializer: Serializer, value: Any, annotation: Any) -> None:
        if serializer.exact:
            pytest.skip(f"{NEEDS}not exact")
        data = serializer.dumps(value)
        with pytest.raises(DecodeError):
            serializer.loads(data, annotation)
        with pytest.raises(DecodeError):
            serializer.convert(serializer.loads(data), annotation)

    @pytest.mark.parametrize("annotation", ["a name", 5, object()], ids=["text", "number", "object"])
    def test_what_is_no_type_leaves_the_value_as_it_is(self, serializer: Serializer, annotation: Any) -> None:
        assert serializer.loads(serializer.dumps([1]), annotation) == [1]

    def test_number_keys_come_back_by_annotation_or_are_refused(self, serializer: Serializer) -> None:
        try:
            data = serializer.dumps({1: "one", -2: "two"})
        except SerializationError:
            return
        assert serializer.loads(data, dict[int, str]) == {1: "one", -2: "two"}


class Refusals(SerializerKit):
    """what cannot be written"""

    def test_an_object_of_a_private_class_is_refused_by_name(self, serializer: Serializer) -> None:
        class Owner:
            """Like an ORM's object: nothing but its class is known."""

        with pytest.raises(SerializationError, match="Owner"):
            serializer.dumps(Owner())

    @pytest.mark.parametrize(
        ("value", "kind"),
        [(lambda: 1, "function"), ((i for i in ""), "generator"), (threading.Lock(), "lock"), (sys, "module")],
        ids=["function", "generator", "lock", "module"],
    )
    def test_what_is_not_data_is_refused_by_type(self, serializer: Serializer, value: Any, kind: str) -> None:
        with pytest.raises(SerializationError, match=kind):
            serializer.dumps(value)

    def test_a_coroutine_is_refused(self, serializer: Serializer) -> None:
        async def fetch() -> int:
            return 1

        call = fetch()
        try:
            with pytest.raises(SerializationError, match="coroutine"):
                serializer.dumps([call])
        finally:
            call.close()

    def test_the_refusal_says_where_the_culprit_is(self, serializer: Serializer) -> None:
        with pytest.raises(SerializationError, match=r"owner.*function"):
            serializer.dumps(((1, {"items": [1, {"owner": lambda: 1}]}), {"other": 2}))

    def test_it_goes_on_after_a_refusal(self, serializer: Serializer) -> None:
        with pytest.raises(SerializationError):
            serializer.dumps(lambda: 1)
        assert serializer.loads(serializer.dumps(SAMPLE)) == SAMPLE

    def test_a_lone_surrogate_is_refused_or_survives(self, serializer: Serializer) -> None:
        for value in ("\ud800", "a\udfffb", ["\ud83d"], {"\udc00": 1}):
            try:
                data = serializer.dumps(value)
            except SerializationError:
                continue
            assert serializer.loads(data) == value

    def test_a_great_int_is_refused_or_survives_whole(self, serializer: Serializer) -> None:
        for value in (2**63, 2**64, -(2**63) - 1, 10**30, 10**5000):
            try:
                data = serializer.dumps(value)
            except SerializationError:
                continue
            assert serializer.loads(data) == value

    def test_what_is_not_a_number_is_refused_or_survives(self, serializer: Serializer) -> None:
        for value in (math.nan, math.inf, -math.inf):
            try:
                data = serializer.dumps([1, value])
            except SerializationError:
                continue
            assert repr(serializer.loads(data)) == repr([1, value])

    def test_a_value_that_contains_itself_is_refused_or_survives(self, serializer: Serializer) -> None:
        value: list[Any] = [1]
        value.append(value)
        try:
            data = serializer.dumps(value)
        except SerializationError:
            return
        back = serializer.loads(data)
        assert back[1] is back

    def test_a_value_nested_too_deeply_is_refused_or_can_be_read(self, serializer: Serializer) -> None:
        try:
            data = serializer.dumps(abyss())
        except SerializationError:
            return
        assert isinstance(serializer.loads(data), list)


class BadBytes(SerializerKit):
    """bytes that cannot be read"""

    def test_garbage_is_a_decode_error(self, serializer: Serializer) -> None:
        with pytest.raises(DecodeError):
            serializer.loads(self.garbage)

    def test_a_document_cut_anywhere_raises_nothing_but_decode_error(self, serializer: Serializer) -> None:
        data = serializer.dumps(SAMPLE)
        assert surprises(serializer, (data[:end] for end in range(len(data)))) == []

    def test_a_document_with_a_wrong_byte_raises_nothing_but_decode_error(self, safe_serializer: Serializer) -> None:
        data = safe_serializer.dumps(SAMPLE)
        chance = random.Random(1)
        bent = (
            data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]
            for place in range(len(data))
            for _ in "abc"
        )
        assert surprises(safe_serializer, bent) == []

    def test_random_bytes_raise_nothing_but_decode_error(self, safe_serializer: Serializer) -> None:
        chance = random.Random(2)
        noise = (chance.randbytes(chance.randrange(1, 40)) for _ in range(2_000))
        assert surprises(safe_serializer, noise) == []

    def test_random_text_raises_nothing_but_decode_error(self, safe_serializer: Serializer) -> None:
        chance = random.Random(3)
        noise = ("".join(chance.choices('[]{}":,-?&*!|>%@0123e.+nulltrue\\ \n', k=12)).encode() for _ in range(2_000))
        assert surprises(safe_serializer, noise) == []

    def test_garbage_is_a_decode_error_whatever_type_is_asked_for(self, serializer: Serializer) -> None:
        for annotation, _ in TYPED.values():
            with pytest.raises(DecodeError):
                serializer.loads(self.garbage, annotation)

    def test_a_document_nested_too_deeply_is_a_decode_error(self, serializer: Serializer) -> None:
        if not self.depth_bomb:
            pytest.skip(f"{NEEDS}depth_bomb")
        with pytest.raises(DecodeError):
            serializer.loads(self.depth_bomb)


class Identity(SerializerKit):
    """name, content type and threads"""

    def test_its_name_is_one_short_word(self, serializer: Serializer) -> None:
        assert serializer.name == serializer.name.lower().strip()
        assert 0 < len(serializer.name) <= 40
        assert not set(serializer.name) & set("/ \t\n,;")

    def test_its_content_type_is_a_mime_type(self, serializer: Serializer) -> None:
        kind, slash, subtype = serializer.content_type.partition("/")
        assert slash and kind and subtype
        assert serializer.content_type.isascii() and serializer.content_type == serializer.content_type.lower()
        assert not set(serializer.content_type) & set(" \t\n;,")

    def test_what_it_says_of_itself_is_said_by_the_class(self, serializer: Serializer) -> None:
        said = [getattr(type(serializer), name) for name in ("name", "content_type", "exact", "safe")]
        assert said == [serializer.name, serializer.content_type, serializer.exact, serializer.safe]

    def test_a_safe_one_refuses_objects_that_only_running_code_could_rebuild(self, safe_serializer: Serializer) -> None:
        assert random.Random(4).__reduce__()
        with pytest.raises(SerializationError, match="Random"):
            safe_serializer.dumps(random.Random(4))

    def test_eight_threads_share_one_instance(self, serializer: Serializer) -> None:
        start = threading.Barrier(8)

        def work(number: int) -> bool:
            value = {"number": number, "when": datetime(2024, 1, 1), "list": list(range(number))}
            start.wait()
            return all(
                serializer.loads(serializer.dumps(value), dict[str, Any])["list"] == value["list"] for _ in range(20)
            )

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(8)))


class SerializerContract(Values, Types, Refusals, BadBytes, Identity):
    """The whole kit."""
