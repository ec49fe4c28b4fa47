"""The wire format, byte by byte; and that whatever else lies in a queue is refused in words and never harms."""

from __future__ import annotations

import base64
import json
import pickle
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dray import ContentNotAccepted, DecodeError, Dray, Envelope, Message, SerializationError, Step
from dray.codec import MAGIC, MAX_METADATA, pack, unpack
from dray.message import Turn
from dray.testing import Driver, memory_app
from dray.testing.held_clock import HeldClock

MESSAGE = Message(
    id="018bcfe5-6800-7000-8000-000000000000",
    task="shop.add",
    queue="default",
    created=1_700_000_000.0,
    payload=b"[[1,2],{}]",
)


def parts(body: bytes) -> tuple[bytes, int, dict[str, Any], bytes]:
    """Take a body apart with nothing of dray: head, length, metadata, payload."""
    length, shift, at = 0, 0, 4
    while True:
        length |= (body[at] & 0x7F) << shift
        shift += 7
        at += 1
        if body[at - 1] < 0x80:
            break
    return body[:4], length, msgspec.msgpack.decode(body[at : at + length]), body[at + length :]


# What is written


def test_a_body_begins_with_magic_version_and_flags() -> None:
    assert pack(MESSAGE)[:4] == b"\xd7D1\x00"
    assert MAGIC == b"\xd7D1"


def test_a_message_written_by_hand_byte_by_byte_is_read() -> None:
    body = (
        b"\xd7D1"  # magic, version
        b"\x00"  # flags: msgpack
        b"\x0a"  # the metadata is 10 bytes long
        b"\x82"  # a map of two
        b"\xa2id\xa1i"  # "id": "i"
        b"\xa1t\xa1t"  # "t": "t"
        b"[[],{}]"  # the payload, untouched
    )
    assert unpack(body) == Message(id="i", task="t", payload=b"[[],{}]")
    assert parts(pack(unpack(body)))[2:] == parts(body)[2:]


def test_metadata_is_a_map_under_short_names_without_what_is_at_its_default() -> None:
    head, _, metadata, payload = parts(pack(MESSAGE))
    assert head == b"\xd7D1\x00"
    assert metadata == {"id": MESSAGE.id, "t": "shop.add", "ts": 1_700_000_000.0}
    assert payload == b"[[1,2],{}]"


def test_every_field_has_its_short_name() -> None:
    step = Step(
        task="s", payload=b"x", content_type="a/b", content_encoding="gzip", immutable=True, options={"queue": "z"},
        sensitive=("pin",),
    )  # fmt: skip
    full = Message(
        id="i", task="t", queue="q", priority=3, created=1.0, eta=2.0, expires=3.0, retries=4, handed_back=5,
        root_id="r", parent_id="p", content_type="application/x-msgpack", content_encoding="zstd", ignore_result=True,
        link=(step,), link_error=(Step(task="e", payload=b"y", link=(step,)),), headers={"h": [1, None]}, origin="1@h",
        key="c-7", ordered=True, fair=True, exchange="e", routing_key="a.b", reply_to="r", sensitive=(1, "pin"),
        idempotent=True, time_limit=6.0, soft_time_limit=7.0, turn=Turn(3, 8.0, ("rate",)), claim="unique",
        chain=(step,), fan="f-1", index=2, replaced=1, given="earlier",
        payload=b"\x00\xff",
    )  # fmt: skip
    written = {"t": "s", "b": b"x", "ct": "a/b", "ce": "gzip", "im": True, "o": {"queue": "z"}, "se": ["pin"]}
    assert parts(pack(full))[2] == {
        "id": "i", "t": "t", "q": "q", "p": 3, "ts": 1.0, "nb": 2.0, "x": 3.0, "n": 4, "hb": 5, "r": "r", "pa": "p",
        "ct": "application/x-msgpack", "ce": "zstd", "ir": True, "l": [written],
        "le": [{"t": "e", "b": b"y", "l": [written]}], "h": {"h": [1, None]}, "og": "1@h",
        "k": "c-7", "ko": True, "kf": True, "ex": "e", "rk": "a.b", "rt": "r", "se": [1, "pin"],
        "ik": True, "tl": 6.0, "sl": 7.0, "tu": [3, 8.0, ["rate"]], "cl": "unique",
        "c": [written], "f": "f-1", "fi": 2, "rp": 1, "g": "earlier",
    }  # fmt: skip
    assert unpack(pack(full)) == full
    travelling = {field.encode_name for field in msgspec.structs.fields(Message)} - {"-args", "-kwargs", "-payload"}
    assert parts(pack(full))[2].keys() == travelling  # a new field needs a line here, and in docs/envelope.md


@pytest.mark.parametrize("size", [0, 100, 127, 128, 300, 16_383, 16_384, 100_000])
def test_the_length_is_a_varint_of_seven_bits_each_the_least_first(size: int) -> None:
    message = MESSAGE.but(headers={"x": "y" * size})
    body = pack(message)
    _, length, metadata, payload = parts(body)
    assert metadata["h"] == {"x": "y" * size}
    assert len(body) == 4 + max(1, -(-length.bit_length() // 7)) + length + len(payload)
    assert unpack(body) == message


def test_decoded_arguments_never_travel() -> None:
    body = pack(MESSAGE.but(args=(object(),), kwargs={"x": object()}))
    assert unpack(body) == MESSAGE


def test_a_payload_is_any_bytes_and_travels_untouched() -> None:
    every = bytes(range(256)) * 3
    assert unpack(pack(MESSAGE.but(payload=every))).payload == every
    assert unpack(pack(MESSAGE.but(payload=b""))).payload == b""


@pytest.mark.parametrize("headers", [{"x": object()}, {("a", "b"): object()}, {"deep": [{"x": 2**70}]}])
def test_headers_that_cannot_be_written_are_refused(headers: Any) -> None:
    with pytest.raises(SerializationError, match="header"):
        pack(MESSAGE.but(headers=headers))


# What is read


def test_unknown_metadata_of_a_newer_dray_is_passed_over() -> None:
    metadata = msgspec.msgpack.encode({"id": "i", "t": "t", "from the future": [1, {"a": None}]})
    assert unpack(b"\xd7D1\x00" + bytes([len(metadata)]) + metadata + b"p") == Message(id="i", task="t", payload=b"p")


def test_a_body_cut_off_anywhere_is_refused_and_never_half_understood(dray_app: Dray) -> None:
    body = pack(MESSAGE)
    for end in range(len(body)):
        with pytest.raises(DecodeError):
            dray_app.payloads.arguments(unpack(body[:end]))
    assert dray_app.payloads.arguments(unpack(body))[0] == [1, 2]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "not a dray message: it is empty"),
        (b"\x00", "not a dray message: it begins with"),
        (b"hello world, how are you", "not a dray message: it begins with b'hello wo'"),
        (b"\xd7D", "not a dray message"),
        (b"\xd7D2\x00\x01x", r"written by another dray \(wire version b'2', flags 0\); this one reads version b'1'"),
        (b"\xd7D1\x01\x01x", r"written by another dray \(wire version b'1', flags 1\)"),
        (b"\xd7D1\x10\x01x", "it is sealed, and neither message_security nor message_security_accept is set here"),
        (b"\xd7D1\x00", "truncated"),
        (b"\xd7D1\x00\x05abc", "truncated: the metadata should be 5 bytes and 3 are there"),
        (b"\xd7D1\x00\x80", "truncated: the length of the metadata has no end"),
        (b"\xd7D1\x00" + b"\xff" * 20, "truncated: the length of the metadata has no end"),
        (b"\xd7D1\x00\xff\xff\xff\xff\x0f" + b"x" * 50, "truncated: the metadata should be 4294967295 bytes"),
        (b"\xd7D1\x00\x00", "the metadata cannot be read"),
        (b"\xd7D1\x00\x01\xc1", "the metadata cannot be read"),
        (b"\xd7D1\x00\x01\xc0", "the metadata cannot be read"),
        (b"\xd7D1\x00\x01\x80", "the metadata cannot be read"),  # no id, no task
        (b"\xd7D1\x00\x09\x82\xa2id\x05\xa1t\xa1t", "the metadata cannot be read"),  # the id is a number
        (b"\xd7D1\x00\x0a\x82\xa2id\xa1\xff\xa1t\xa1t", "the metadata cannot be read"),  # the id is no text
    ],
)
def test_bytes_that_are_no_message_are_refused_in_words(body: bytes, complaint: str) -> None:
    with pytest.raises(DecodeError, match=complaint):
        unpack(body)


def test_metadata_that_claims_to_be_huge_is_refused_before_it_is_read() -> None:
    length = MAX_METADATA + 1
    varint = bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14])
    with pytest.raises(DecodeError, match="1048577"):
        unpack(b"\xd7D1\x00" + varint + b"\x00" * (length + 10))


def test_metadata_nested_very_deeply_is_refused() -> None:
    metadata = b"\x83\xa2id\xa1i\xa1t\xa1t\xa1h\x81\xa1x" + b"\x91" * 100_000 + b"\xc0"
    length = len(metadata)
    varint = bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14])
    with pytest.raises(DecodeError):
        unpack(b"\xd7D1\x00" + varint + metadata)


def celery(body: bytes) -> bytes:
    """A message of Celery's as it lies in Redis."""
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"lang": "py", "task": "shop.add", "id": "1"},
            "properties": {"delivery_tag": "x", "delivery_info": {"routing_key": "celery"}},
        }
    ).encode()


EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
CELERYS = {
    "in Redis": celery(b"[[1, 2], {}, {}]"),
    "in Redis, with spaces around it": b"  " + celery(b"[[1, 2], {}, {}]") + b"\n",
    "in SQS": base64.b64encode(celery(b"[[1, 2], {}, {}]")),
    "in a queue of RabbitMQ": b'[[2, 3], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]',
    "by a client that embeds nothing": b"[[2, 3], {}, {}]",
    "by a client that embeds null": b"[[2, 3], {}, null]",
    "in msgpack": b"\x93\x92\x02\x03\x80\x84\xa9callbacks\xc0\xa8errbacks\xc0\xa5chain\xc0\xa5chord\xc0",
    "in msgpack, embedding nothing": b"\x93\x92\x02\x03\x80\x80",
    "in yaml": b"- [2, 3]\n- {}\n- {callbacks: null, chain: null, chord: null, errbacks: null}\n",
    "in a pickle": pickle.dumps(([2, 3], {}, EMBED), protocol=4),
    "of protocol 1": b'{"task": "shop.add", "id": "1", "args": [2, 3], "kwargs": {}, "retries": 0, "eta": null}',
    "larger than is looked into": celery(b"x" * 2_000_000),
}


@pytest.mark.parametrize("body", CELERYS.values(), ids=CELERYS)
def test_a_message_of_celerys_is_recognised(body: bytes) -> None:
    with pytest.raises(DecodeError, match="^this is a Celery message: dray and Celery take their messages from queues"):
        unpack(body)


@pytest.mark.parametrize(
    "body",
    [
        b"[[2, 3], {}]", b"[1, 2, 3]", b"[[1], [2], [3]]", b'{"body": "x"}', b'{"task": "a", "id": "b"}', b"null",
        base64.b64encode(b'{"actor_name": "add", "args": []}'), b"[" * 100_000, b'{"a":' * 100_000, b"{\xff}",
        pickle.dumps({"task": "a"}), b"\x93\x92\x02\x03\x80", b"Y2FydA==", b"Y2FydA",
    ],
)  # fmt: skip
def test_what_only_resembles_a_message_of_celerys_is_not_taken_for_one(body: bytes) -> None:
    with pytest.raises(DecodeError, match="^not a dray message: it begins with"):
        unpack(body)


# Arguments


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"[[1]]", b"{}", b"[1,2]", b"[{},[]]", b'["ab",{}]', b"[[],{},{}]", b"5", b"\xff"]
)
def test_a_payload_that_is_no_pair_of_arguments_is_refused(dray_app: Dray, payload: bytes) -> None:
    with pytest.raises(DecodeError):
        dray_app.payloads.arguments(MESSAGE.but(payload=payload))


class Bomb:
    """What a planted pickle would do."""

    exploded = False

    def __reduce__(self) -> Any:
        return setattr, (Bomb, "exploded", True)


@pytest.mark.parametrize(
    "content_type", ["application/x-python-serialize", "application/python-pickle", "text/evil", ""]
)
def test_a_content_type_that_is_not_accepted_is_not_decoded(dray_app: Dray, content_type: str) -> None:
    planted = MESSAGE.but(content_type=content_type, payload=pickle.dumps(([Bomb()], {})))
    with pytest.raises(ContentNotAccepted, match=r"is not accepted \(accept_content: json, msgpack\)"):
        dray_app.payloads.arguments(planted)
    assert not Bomb.exploded


def test_a_pickle_that_says_it_is_json_is_read_as_json(dray_app: Dray) -> None:
    with pytest.raises(DecodeError):
        dray_app.payloads.arguments(MESSAGE.but(payload=pickle.dumps(([Bomb()], {}))))
    assert not Bomb.exploded


@pytest.mark.dray(task_max_message_bytes=1000)
@pytest.mark.parametrize("encoding", ["", "gzip", "zstd"])
def test_a_payload_larger_than_allowed_is_refused_packed_or_not(dray_app: Dray, encoding: str) -> None:
    payload = json.dumps([["x" * 1_000_000], {}]).encode()
    if encoding:
        payload = dray_app.payloads.compressor(encoding).compress(payload)
    with pytest.raises(DecodeError, match="task_max_message_bytes|larger|more than"):
        dray_app.payloads.arguments(MESSAGE.but(payload=payload, content_encoding=encoding))


# Through a worker: each of these is buried with its reason and its bytes, and the next message runs


def _call(**changes: Any) -> bytes:
    return pack(MESSAGE.but(task="add", **changes))


#: What lies in the queue, and what its dead letter says.
PLANTED: dict[str, tuple[Callable[[], bytes], str]] = {
    "garbage": (lambda: b"\x00\xffgarbage", "unreadable: not a dray message"),
    "empty": (lambda: b"", "unreadable: not a dray message: it is empty"),
    "another version": (lambda: b"\xd7D9\x00\x00", "unreadable: written by another dray"),
    "truncated": (lambda: pack(MESSAGE)[:20], "unreadable: truncated"),
    "no text": (lambda: b"\xd7D1\x00\x0a\x82\xa2id\xa1\xff\xa1t\xa1t", "unreadable: the metadata cannot be read"),
    "celery": (lambda: celery(b"[]"), "unreadable: this is a Celery message"),
    "celery on SQS": (lambda: base64.b64encode(celery(b"[]")), "unreadable: this is a Celery message"),
    "celery on RabbitMQ": (lambda: CELERYS["in a queue of RabbitMQ"], "unreadable: this is a Celery message"),
    "unknown task": (lambda: pack(MESSAGE.but(task="no.such.task")), "unknown task 'no.such.task'"),
    "no json": (lambda: _call(payload=b"not json"), "its arguments cannot be used"),
    "missing argument": (lambda: _call(payload=b"[[],{}]"), "its arguments cannot be used.*got no value for 'x'"),
    "content type": (lambda: _call(content_type="text/evil"), "not decoded: content type 'text/evil'"),
    "encoding": (lambda: _call(content_encoding="rot13"), "rot13"),
    "broken gzip": (lambda: _call(content_encoding="gzip"), "its arguments cannot be used"),
    "deep json": (
        lambda: _call(payload=b"[[" + b"[" * 100_000 + b"]" * 100_000 + b"],{}]"),
        "its arguments cannot be used.*nested too deeply",
    ),
    "20 MB": (lambda: _call(payload=b"x" * 20_000_000), "more than task_max_message_bytes allows"),
    "pickle": (
        lambda: _call(content_type="application/x-python-serialize", payload=pickle.dumps(([Bomb()], {}))),
        "is not accepted",
    ),
}


@pytest.mark.parametrize(("make", "reason"), PLANTED.values(), ids=PLANTED)
def test_what_cannot_be_run_is_buried_whole_with_its_reason(
    dray_app: Dray, dray_worker: Driver, make: Callable[[], bytes], reason: str
) -> None:
    task = dray_app.task(name="add")(lambda x, y=1: x + y)
    body = make()
    dray_app.broker.publish([Envelope(id="bad", queue="default", body=body)])
    good = task.delay(1)
    dray_worker.run_until_idle()
    (letter,) = dray_app.broker.dead("default", 10)
    assert re.search(reason, letter.reason), letter.reason
    assert letter.body == body
    assert good.get() == 2
    assert not Bomb.exploded


# For any message at all

text = st.text(st.characters(codec="utf-8"), max_size=20)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
instants = st.none() | st.floats(0, 1e11)


def step(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.builds(
        Step,
        task=text,
        payload=st.binary(max_size=20),
        immutable=st.booleans(),
        options=st.dictionaries(text, plain, max_size=3),
        link=inner.map(tuple),
    )


steps = st.recursive(st.just([]), lambda inner: st.lists(step(inner), max_size=2), max_leaves=4).map(tuple)
messages = st.builds(
    Message,
    id=text,
    task=text,
    queue=text,
    priority=st.integers(0, 9),
    created=st.floats(0, 1e11),
    eta=instants,
    expires=instants,
    retries=st.integers(0, 2**31),
    handed_back=st.integers(0, 2**31),
    root_id=st.none() | text,
    parent_id=st.none() | text,
    content_type=text,
    content_encoding=text,
    ignore_result=st.booleans(),
    link=steps,
    link_error=steps,
    headers=st.dictionaries(text, plain, max_size=3),
    origin=text,
    key=st.none() | text,
    ordered=st.booleans(),
    fair=st.booleans(),
    exchange=text,
    routing_key=text,
    reply_to=text,
    idempotent=st.booleans(),
    sensitive=st.lists(text | st.integers(0, 9), max_size=2).map(tuple),
    payload=st.binary(max_size=200),
)


@given(messages)
def test_whatever_is_packed_is_unpacked_the_same(message: Message) -> None:
    assert unpack(pack(message)) == message


@given(st.binary(max_size=300))
@example(b"\xd7D1\x00\x80\x80\x80\x80\x80\x80")
def test_any_bytes_are_a_message_or_a_decode_error(body: bytes) -> None:
    for candidate in (body, b"\xd7D1\x00" + body):
        try:
            assert isinstance(unpack(candidate), Message)
        except DecodeError:
            pass


@given(messages, st.data())
def test_a_message_with_one_byte_changed_is_a_message_or_a_decode_error(message: Message, data: st.DataObject) -> None:
    body = bytearray(pack(message))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] = data.draw(st.integers(0, 255))
    try:
        assert isinstance(unpack(bytes(body)), Message)
    except DecodeError:
        pass


@settings(max_examples=50)
@given(st.lists(plain, max_size=4), st.dictionaries(text, plain, max_size=3), st.sampled_from(["json", "msgpack"]))
def test_arguments_come_out_as_they_went_in(args: list[Any], kwargs: dict[str, Any], serializer: str) -> None:
    encoded = APP.payloads.encode(MESSAGE.but(args=tuple(args), kwargs=kwargs), serializer, None)
    found_args, found_kwargs, reader = APP.payloads.arguments(unpack(pack(encoded)))
    assert (found_args, found_kwargs, reader.name) == (args, kwargs, serializer)


APP = memory_app(HeldClock())
