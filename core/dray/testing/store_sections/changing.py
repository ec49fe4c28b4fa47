"""Changes: what is written is there, as a whole, whatever its names and bytes are."""

from __future__ import annotations

import pytest

from ...store import (
    MAX_KEYS,
    MAX_NAME,
    MAX_VALUE,
    Absent,
    Add,
    Change,
    Changed,
    Delete,
    Due,
    Equals,
    Index,
    Present,
    Put,
    Store,
    Unindex,
)
from .kit import LONG, StoreKit, made, needs

MEGABYTE = 1024 * 1024


class Changing(StoreKit):
    """changes"""

    def test_what_is_put_is_read(self, store: Store) -> None:
        assert made(store, Change("p", writes=(Put("a", b"1"), Put("b", b"")))).applied
        assert store.get("p", "a", "b", "c") == {"a": b"1", "b": b""}

    def test_the_last_put_stays(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("a", b"1"),)))
        made(store, Change("p", writes=(Put("a", b"2"), Put("a", b"3"))))
        assert store.get("p", "a") == {"a": b"3"}

    def test_what_is_deleted_is_gone_and_a_missing_key_is_no_error(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("a", b"1"), Put("b", b"2"))))
        assert made(store, Change("p", writes=(Delete("a"), Delete("unknown")))).applied
        assert store.get("p", "a", "b") == {"b": b"2"}

    def test_writes_are_made_in_their_order(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("a", b"1"), Delete("a"), Put("b", b"x"), Delete("b"), Put("b", b"2"))))
        assert store.get("p", "a", "b") == {"b": b"2"}

    def test_partitions_are_apart(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("a", b"1"),)))
        made(store, Change("q", writes=(Put("a", b"2"),)))
        assert (store.get("p", "a"), store.get("q", "a"), store.get("r", "a")) == ({"a": b"1"}, {"a": b"2"}, {})

    def test_a_change_tells_what_the_keys_stand_for_after_it(self, store: Store) -> None:
        done = made(store, Change("p", writes=(Put("a", b"1"), Add("n", 3)), reads=("a", "n", "unknown")))
        assert done == Changed(True, {"a": b"1", "n": b"3"})

    def test_a_refused_change_tells_what_they_stand_for(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("a", b"1"),)))
        done = made(store, Change("p", (Absent("a"),), (Put("a", b"2"), Put("b", b"2")), ("a", "b")))
        assert done == Changed(False, {"a": b"1"})

    def test_nothing_asked_nothing_done(self, store: Store) -> None:
        assert list(store.commit([])) == []
        assert made(store, Change("p")) == Changed(True, {})
        assert store.scan("p") == []

    def test_a_batch_is_made_in_order_and_answered_in_order(self, store: Store) -> None:
        done = store.commit(
            [
                Change("p", writes=(Put("a", b"1"),)),
                Change("q", (Present("a"),), (Put("a", b"2"),)),
                Change("p", (Equals("a", b"1"),), (Put("a", b"3"),), ("a",)),
                Change("p", reads=("a",)),
            ]
        )
        assert list(done) == [
            Changed(True, {}),
            Changed(False, {}),
            Changed(True, {"a": b"3"}),
            Changed(True, {"a": b"3"}),
        ]

    def test_two_thousand_changes_are_made_in_one_call(self, store: Store) -> None:
        done = store.commit([Change(f"p{n % 7}", writes=(Put(f"k{n}", b"v"), Add("n"))) for n in range(2000)])
        assert [change.applied for change in done] == [True] * 2000
        assert sum(int(store.get(f"p{n}", "n")["n"]) for n in range(7)) == 2000

    def test_a_change_names_as_many_keys_and_entries_as_the_store_says(self, store: Store) -> None:
        most = store.capabilities.max_keys
        assert most >= MAX_KEYS
        keys = tuple(f"k{n}" for n in range(most))
        asked = Change("p", tuple(map(Absent, keys)), tuple(Put(key, key.encode()) for key in keys), keys)
        everything = {key: key.encode() for key in keys}
        assert made(store, asked) == Changed(True, everything)
        assert made(store, asked) == Changed(False, everything)
        for at in (1.0, 2.0):  # entered, and then moved
            assert made(store, Change("p", writes=tuple(Index("i", key, at) for key in keys), ttl=LONG)).applied
            assert {entry.at for entry in store.due("i", 9.0, most + 1)} == {at}
        gone = [*map(Delete, keys[::2])], [Unindex("i", key) for key in keys[1::2]]
        assert made(store, Change("p", writes=(*gone[0], *gone[1]))).applied
        assert {entry.key for entry in store.due("i", 9.0, most + 1)} == set(keys[::2])
        assert store.get_many("p", [*keys, *keys]) == {key: key.encode() for key in keys[1::2]}

    @pytest.mark.parametrize("value", [b"", b"\x00", bytes(range(256)), b"{}", b"-1", "ü".encode()])
    def test_values_are_any_bytes(self, store: Store, value: bytes) -> None:
        made(store, Change("p", writes=(Put("a", value),)))
        assert store.get("p", "a") == {"a": value}
        assert made(store, Change("p", (Equals("a", value),), (Delete("a"),))).applied

    def test_a_large_value_is_kept_whole(self, store: Store) -> None:
        value = bytes(range(256)) * (MAX_VALUE // 256)
        made(store, Change("p", writes=(Put("a", value),)))
        assert store.get("p", "a")["a"] == value

    def test_a_value_of_a_megabyte_is_kept_whole(self, store: Store) -> None:
        needs(store, "max_value_bytes", MEGABYTE)
        value = bytes(range(256)) * (MEGABYTE // 256)
        made(store, Change("p", writes=(Put("a", value), Put("b", b"1"))))
        assert store.scan("p") == [("a", value), ("b", b"1")]
        assert not made(store, Change("p", (Equals("a", value[:-1]),), (Delete("a"),))).applied
        assert (
            made(store, Change("p", (Equals("a", value),), (Put("a", value[::-1]),), ("a",))).values["a"] == value[::-1]
        )

    @pytest.mark.parametrize(
        "name", ["a", " ", "a b/c:d#e{f}*?[g]", "'\";--", "%s $1 ?", "ünïcödé \U0001f40e", "x" * MAX_NAME], ids=ascii
    )
    def test_names_are_any_text(self, store: Store, name: str) -> None:
        made(store, Change(name, writes=(Put(name, b"1"), Index(name, name, 5.0))))
        assert store.get(name, name) == {name: b"1"}
        assert store.scan(name) == [(name, b"1")]
        assert store.due(name, 5.0, 10) == [Due(5.0, name, name)]

    def test_names_that_differ_in_case_or_in_a_blank_at_their_end_are_different(self, store: Store) -> None:
        for number, name in enumerate(("a", "A", "a ", " a")):
            made(store, Change(name, writes=(Put("k", str(number).encode()),)))
            made(store, Change("keys", writes=(Put(name, str(number).encode()),)))
        assert [store.get(name, "k")["k"] for name in ("a", "A", "a ", " a")] == [b"0", b"1", b"2", b"3"]
        assert store.get("keys", "a", "A", "a ", " a") == {"a": b"0", "A": b"1", "a ": b"2", " a": b"3"}
