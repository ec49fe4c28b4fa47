"""Counts, and the members of a group, which are counted in the step that adds them."""

from __future__ import annotations

import threading
from functools import partial
from math import inf

import pytest

from ...errors import StoreError
from ...store import Add, Change, Changed, Delete, Equals, Index, Put, Store
from ..background import Background
from .kit import StoreKit, made


class Counting(StoreKit):
    """counts"""

    def test_a_count_begins_at_nothing(self, store: Store) -> None:
        assert made(store, Change("p", writes=(Add("n"), Add("n", 4), Add("m", -2)), reads=("n", "m"))).values == {
            "n": b"5",
            "m": b"-2",
        }

    def test_a_count_is_what_was_put_as_text(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("n", b"41"), Add("n"))))
        assert made(store, Change("p", (Equals("n", b"42"),), (Add("n", 0),), ("n",))) == Changed(True, {"n": b"42"})

    def test_counts_are_large_numbers_too(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("n", b"%d" % 2**53), Add("n", 2**53 + 1))))
        assert store.get("p", "n") == {"n": b"%d" % (2**54 + 1)}

    def test_adding_to_what_is_no_count_is_an_error_and_leaves_it_as_it_was(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("a", b"text"),)))
        with pytest.raises(StoreError):
            made(store, Change("p", writes=(Put("b", b"1"), Add("a"))))
        assert store.get("p", "a", "b") == {"a": b"text"}

    def test_a_change_that_is_an_error_is_not_made_in_part(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("a", b"text"), Put("c", b"1"))))
        writes = (Put("b", b"1"), Delete("c"), Index("i", "k", 1.0), Add("n"), Add("a"), Put("d", b"1"))
        with pytest.raises(StoreError):
            made(store, Change("p", writes=writes, ttl=self.ttl))
        assert store.due("i", inf, 10) == []
        self.pass_time(store, self.ttl * 1.5)
        assert store.scan("p") == [("a", b"text"), ("c", b"1")]
        assert made(store, Change("p", writes=(Put("b", b"2"),), reads=("b",))).values == {"b": b"2"}

    def test_nothing_is_lost_when_many_add(self, store: Store) -> None:
        def add(connection: Store) -> None:
            for _ in range(25):
                connection.commit([Change("p", writes=(Add("n", 2),)), Change("q", writes=(Add("n"),))])

        with self.another(store) as other:
            for each in [Background(partial(add, c)) for c in [store, other] * 3]:
                each.result()
        assert (store.get("p", "n"), store.get("q", "n")) == ({"n": b"300"}, {"n": b"150"})


class Members(StoreKit):
    """members of a group"""

    def test_a_member_is_counted_once(self, store: Store) -> None:
        assert store.add_member("p", "g", "a", b"1") == (True, 1)
        assert store.add_member("p", "g", "b", b"2") == (True, 2)
        assert store.add_member("p", "g", "a", b"another") == (False, 2)
        assert store.add_member("p", "h", "a", b"3") == (True, 1)
        assert store.scan("p", "g/") == [("g/a", b"1"), ("g/b", b"2")]

    def test_of_those_who_add_the_members_at_least_one_is_told_that_the_group_is_complete(self, store: Store) -> None:
        members, groups = 8, 25
        start = threading.Barrier(members)

        def report(connection: Store, member: int) -> list[int]:
            told = []
            for group in range(groups):
                start.wait(20)
                told.append(connection.add_member(f"p{group}", "g", str(member), b"done")[1])
            return told

        with self.another(store) as other:
            racing = [Background(partial(report, c, n)) for n, c in enumerate([store, other] * (members // 2))]
            told = [each.result() for each in racing]
        assert [max(counts) for counts in zip(*told, strict=True)] == [members] * groups
