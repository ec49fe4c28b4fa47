"""What a redis:// URL means, without a server: hosts, TLS, databases, options, and what is refused in words."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dray import Dray, Due, Envelope, Url, UrlError
from dray_backends.redis import RedisBackend
from dray_backends.redis_store import RedisStore
from dray_backends.redis_store_format import entries_from, member_of
from dray_brokers.redis import RedisBroker
from dray_brokers.redis_connection import RedisPlace
from dray_brokers.redis_records import (
    framed,
    id_from_bytes,
    id_to_bytes,
    ids_to_bytes,
    mask_from_bytes,
    mask_of,
    mask_to_bytes,
    quoted,
    to_publish,
    unpacked,
)
from dray_brokers.redis_wires import packed

SCHEMES = ["redis", "rediss", "unix", "redis+sentinel", "redis+cluster", "valkey", "valkeys", "valkey+cluster"]


def place(text: str) -> RedisPlace:
    return RedisPlace(Url.parse(text))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_is_a_broker_a_result_backend_and_a_store(scheme: str) -> None:
    plugins = Dray("shop").plugins
    assert plugins.find("brokers", scheme) is RedisBroker
    assert plugins.find("backends", scheme) is RedisBackend
    assert plugins.find("stores", scheme) is RedisStore


@pytest.mark.parametrize("shards", [0, -1, 257])
def test_a_store_has_from_1_to_256_shards(shards: int) -> None:
    with pytest.raises(UrlError, match="shards is a number from 1 to 256"):
        RedisStore(Url.parse(f"redis://localhost?shards={shards}"))


def test_one_url_will_do_for_broker_results_and_store() -> None:
    url = Url.parse("redis+cluster://a,b?prefix=shop&shards=32&wait_replicas=1")
    assert [kind(url).url for kind in (RedisBroker, RedisBackend, RedisStore)] == [url] * 3


@given(st.text(), st.text(), st.text(), st.text())
def test_entries_of_an_index_sort_as_their_members_do(part: str, key: str, other_part: str, other_key: str) -> None:
    one, other = Due(1.0, part, key), Due(1.0, other_part, other_key)
    assert (one < other) == (member_of(one).encode() < member_of(other).encode())
    assert entries_from([b"1", member_of(one).encode()]) == [one]


@pytest.mark.parametrize(
    ("text", "kind", "hosts", "db"),
    [
        ("redis://", "", [("localhost", 6379)], 0),
        ("redis://cache:6400/3", "", [("cache", 6400)], 3),
        ("valkey://cache", "", [("cache", 6379)], 0),
        ("redis://[::1]:6400", "", [("::1", 6400)], 0),
        ("unix:///run/redis.sock?db=2", "unix", [], 2),
        ("redis+sentinel://a,b:26400/shop/1", "sentinel", [("a", 26379), ("b", 26400)], 1),
        ("redis+sentinel://a/shop", "sentinel", [("a", 26379)], 0),
        ("redis+cluster://a:7000,b:7001", "cluster", [("a", 7000), ("b", 7001)], 0),
        ("rediss+cluster://a", "cluster", [("a", 6379)], 0),
    ],
)
def test_hosts_and_databases_are_read_from_the_url(text: str, kind: str, hosts: list[tuple[str, int]], db: int) -> None:
    found = place(text)
    assert (found.kind, found.hosts, found.db) == (kind, hosts, db)


def test_the_sentinel_service_stands_in_the_path() -> None:
    assert place("redis+sentinel://a,b/shop/1").service == "shop"


@pytest.mark.parametrize("scheme", ["rediss", "valkeys", "rediss+sentinel", "rediss+cluster"])
def test_a_second_s_means_tls_with_all_checks(scheme: str) -> None:
    settings = place(f"{scheme}://host/{'service' if 'sentinel' in scheme else ''}?ssl_ca_certs=/ca.pem").settings()
    chosen = {name: settings[name] for name in ("ssl", "ssl_ca_certs", "ssl_cert_reqs", "ssl_check_hostname")}
    assert chosen == {"ssl": True, "ssl_ca_certs": "/ca.pem", "ssl_cert_reqs": "required", "ssl_check_hostname": True}


def test_a_certificate_nobody_checks_needs_no_host_name() -> None:
    assert place("rediss://host?ssl_cert_reqs=none").settings()["ssl_check_hostname"] is False


def test_nothing_is_left_to_the_defaults_of_the_driver() -> None:
    settings = place("redis://me:secret@host?socket_timeout=7&connect_timeout=2&client_name=shop&protocol=3").settings()
    expected: dict[str, Any] = {
        "username": "me",
        "password": "secret",
        "socket_timeout": 7.0,
        "socket_connect_timeout": 2.0,
        "client_name": "shop",
        "protocol": 3,
    }
    assert {name: settings[name] for name in expected} == expected
    assert settings["retry"]._retries == 0


def test_the_time_to_connect_is_shared_by_all_hosts() -> None:
    assert place("redis+sentinel://a,b,c,d/shop?connect_timeout=2").settings()["socket_connect_timeout"] == 0.5


def test_a_line_that_blocks_waits_longer_for_its_answer() -> None:
    assert place("redis://host?socket_timeout=3").settings(4.0)["socket_timeout"] == 4.0
    assert place("redis://host?socket_timeout=3&wait_replicas=1&wait_timeout=2").settings()["socket_timeout"] == 5.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("redis://host/shop", "the path is the number of a database"),
        ("redis://host/a/0", "the path is the number of a database"),
        ("redis://host/1?db=2", "two databases"),
        ("redis://a,b/0", "redis+sentinel:// or redis+cluster://"),
        ("unix://host/run/redis.sock", "three slashes"),
        ("unix://", "three slashes"),
        ("redis+sentinel://a,b", "does not name the service"),
        ("redis+cluster://a/1", "no numbered databases"),
        ("redis://host?ssl_ca_certs=/ca.pem", "write rediss://"),
        ("valkey://host?ssl_ca_certs=/ca.pem", "write valkeys://"),
        ("redis://host?sentinel_password=x", "for redis+sentinel:// only"),
        ("redis://host?prefix=", "prefix"),
        ("redis://host?prefix=a*", "prefix"),
        ("redis://host?prefixx=a", "did you mean 'prefix'"),
        ("redis://host?socket_timeout=soon", "socket_timeout"),
        ("redis://host?socket_timeout=0", "socket_timeout"),
        ("redis://host?protocol=4", "protocol"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(text: str, says: str) -> None:
    with pytest.raises(UrlError) as refusal:
        place(text)
    assert says in str(refusal.value)


def test_no_password_is_ever_shown() -> None:
    with pytest.raises(UrlError) as refusal:
        place("redis+sentinel://:secret@a?sentinel_password=hidden")
    assert "secret" not in str(refusal.value)
    assert "hidden" not in str(refusal.value)


@pytest.mark.parametrize(
    "id",
    [
        "01a1fc7d-96d2-7dad-8ab1-be8f45223677",
        "01A1FC7D-96D2-7DAD-8AB1-BE8F45223677",
        "01a1fc7d96d27dad-8ab1-be8f-45223677-",
        "01a1fc7d-96d2-7dad-8ab1-be8f4522367 ",
        "01a1fc7d 96d2 7dad 8ab1 be8f45223677",
        "\x00 looks like a UUID",
        "\x01",
        "\x02abcd",
        "naïve-ключ-鍵-🛒",
        "\udc80 alone",
        "",
        "x" * 128,
    ],
)
def test_every_id_comes_back_as_it_was(id: str) -> None:
    assert id_from_bytes(id_to_bytes(id)) == id


UUIDS = ["01a1fc7d-96d2-7dad-8ab1-be8f45223677", "01a1fc7d-96d2-7dad-8ab1-be8f45223678"]


def test_a_uuid_takes_seventeen_bytes() -> None:
    assert len(id_to_bytes(UUIDS[0])) == 17


@pytest.mark.parametrize(
    "ids",
    [
        [],
        UUIDS[:1],
        UUIDS,
        [*UUIDS, "other"],
        [UUIDS[0], UUIDS[1].upper()],
        # Of the length of two UUIDs together, with everything where it would be in those.
        [UUIDS[0] + UUIDS[1][:1], UUIDS[1][1:]],
        [UUIDS[0][:-1] + "g", UUIDS[1]],
        [UUIDS[0][:-1] + "\u0665", UUIDS[1]],
        [UUIDS[0][:-2] + " a", UUIDS[1]],
        ["-" * 36, "0" * 36],
    ],
)
def test_many_ids_are_stored_as_one_by_one(ids: list[str]) -> None:
    assert ids_to_bytes(ids) == [id_to_bytes(id) for id in ids]


def test_a_command_is_packed_part_by_part() -> None:
    packed_here = packed(("ZADD", "ключ", 3, 0.5, b"\x00\r\n"))
    assert packed_here == b"*5\r\n$4\r\nZADD\r\n$8\r\n%b\r\n$1\r\n3\r\n$3\r\n0.5\r\n$3\r\n\x00\r\n\r\n" % (
        "ключ".encode()
    )


def test_no_two_ids_are_stored_alike() -> None:
    ids = ["a", "\x00a", "\x01a", "\x02a", "\x01\x00a", "\x01\x01a", "01a1fc7d-96d2-7dad-8ab1-be8f45223677"]
    assert len({id_to_bytes(id) for id in ids}) == len(ids)


def test_a_frame_carries_any_bytes() -> None:
    assert framed([b"", b"\x00", b"abc"]) == struct.pack(">4I", 3, 0, 1, 3) + b"\x00abc"
    assert framed([]) == struct.pack(">I", 0)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 70_000])
def test_what_a_script_packs_is_unpacked(count: int) -> None:
    parts = [f"text {n}" for n in range(count)]
    assert unpacked(msgspec.msgpack.encode(parts)) == [part.encode() for part in parts]


def test_texts_of_every_length_are_unpacked() -> None:
    parts = ["x" * length for length in (0, 1, 31, 32, 255, 256, 65535, 65536, 70_000)]
    assert unpacked(msgspec.msgpack.encode(parts)) == [part.encode() for part in parts]


@pytest.mark.parametrize("numbers", [[0], [31], [32], [5, 0, 999], range(1000)])
def test_a_mask_is_whole_words_of_the_bits_it_is_made_of(numbers: Sequence[int]) -> None:
    written = mask_to_bytes(mask_of(numbers))
    assert len(written) == 4 * (max(numbers) // 32 + 1)
    mask = mask_from_bytes(written)
    assert [n for n in range(8 * len(written)) if mask >> n & 1] == sorted(numbers)


def test_a_message_costs_its_body_its_id_and_thirty_bytes_on_the_way() -> None:
    envelope = Envelope(id=UUIDS[0], queue="q", body=b"x" * 100)
    assert sum(map(len, to_publish([envelope], 1.5e9))) <= 100 + 17 + 30


@pytest.mark.parametrize("queue", ["}", "{", "{}", "a}b{c", "%7B", ""])
def test_the_name_of_a_queue_cannot_move_its_keys_to_another_slot(queue: str) -> None:
    assert quoted(queue)
    assert not set("{}") & set(quoted(queue))


def test_queues_that_look_alike_when_quoted_are_not_the_same() -> None:
    names = ["{", "%7B", "%257B", "%", "", "%25"]
    assert len({quoted(name) for name in names}) == len(names)
