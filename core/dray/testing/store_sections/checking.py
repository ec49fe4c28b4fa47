"""Checks: a change is made only if all of them hold, whoever else is changing the same."""

from __future__ import annotations

from functools import partial

from ...store import Absent, Add, Change, Delete, Equals, Index, Present, Put, Revise, Store
from ..background import Background
from .kit import LONG, StoreKit, made


class Checking(StoreKit):
    """checks"""

    def test_absent_holds_only_while_there_is_no_such_key(self, store: Store) -> None:
        assert made(store, Change("p", (Absent("a"),), (Put("a", b""),))).applied
        assert not made(store, Change("p", (Absent("a"),), (Put("a", b"2"),))).applied
        made(store, Change("p", writes=(Delete("a"),)))
        assert made(store, Change("p", (Absent("a"),), (Put("a", b"3"),))).applied

    def test_present_holds_only_while_there_is_such_a_key(self, store: Store) -> None:
        assert not made(store, Change("p", (Present("a"),), (Put("a", b"1"),))).applied
        made(store, Change("p", writes=(Put("a", b""),)))
        assert made(store, Change("p", (Present("a"),), (Put("b", b"1"),))).applied

    def test_equals_holds_only_for_the_same_bytes(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("a", b"1"),)))
        for other in (b"", b"10", b"01", b"1 "):
            assert not made(store, Change("p", (Equals("a", other),), (Put("a", b"x"),))).applied
        assert not made(store, Change("p", (Equals("unknown", b""),), (Put("a", b"x"),))).applied
        assert made(store, Change("p", (Equals("a", b"1"),), (Put("a", b"2"),))).applied

    def test_all_checks_have_to_hold_or_nothing_is_written(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("a", b"1"),)))
        refused = (Put("a", b"2"), Put("c", b"2"), Add("n"), Index("i", "k", 1.0))
        assert not made(store, Change("p", (Equals("a", b"1"), Present("b")), refused, ttl=0.001)).applied
        assert not made(store, Change("p", (Present("b"), Equals("a", b"1")), refused)).applied
        assert store.scan("p") == [("a", b"1")]
        assert store.due("i", LONG, 10) == []
        assert made(store, Change("p", (Equals("a", b"1"), Absent("b")), refused)).applied
        assert store.get("p", "a", "c", "n") == {"a": b"2", "c": b"2", "n": b"1"}

    def test_checks_are_made_before_the_writes(self, store: Store) -> None:
        assert made(store, Change("p", (Absent("a"),), (Put("a", b"1"), Put("a", b"2")))).applied

    def test_checks_without_writes_are_only_asked(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("a", b"1"),)))
        assert made(store, Change("p", (Equals("a", b"1"),))).applied
        assert not made(store, Change("p", (Absent("a"),))).applied

    def test_of_many_who_put_what_is_absent_one_succeeds(self, store: Store) -> None:
        def claim(connection: Store, who: int) -> int:
            claims = [Change(f"p{n}", (Absent("winner"),), (Put("winner", b"%d" % who),)) for n in range(20)]
            return sum(done.applied for claim in claims for done in connection.commit([claim]))

        with self.another(store) as other:
            racing = [Background(partial(claim, c, n)) for n, c in enumerate([store, other] * 4)]
            assert sum(each.result() for each in racing) == 20

    def test_of_many_who_change_the_same_value_none_is_overwritten_unseen(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("a", b"0"),)))

        def raise_by(connection: Store, times: int) -> None:
            for _ in range(times):
                while True:
                    value = connection.get("p", "a")["a"]
                    more = b"%d" % (int(value) + 1)
                    if made(connection, Change("p", (Equals("a", value),), (Put("a", more),))).applied:
                        break

        with self.another(store) as other:
            for each in [Background(partial(raise_by, c, 15)) for c in [store, other] * 2]:
                each.result()
        assert store.get("p", "a") == {"a": b"60"}

    def test_a_rule_changes_the_value_that_it_was_shown(self, store: Store) -> None:
        def more(kept: bytes | None, now: float) -> tuple[int, bytes | None, float | None]:
            number = int(kept or b"0") + 1
            return number, b"%d" % number, None

        def raise_by(connection: Store, times: int) -> list[int]:
            return [
                n for _ in range(times) for n in connection.revise([Revise("p", "a", more), Revise("q", "a", more)])
            ]

        with self.another(store) as other:
            told = [each.result() for each in [Background(partial(raise_by, c, 10)) for c in [store, other] * 2]]
        assert sorted(n for numbers in told for n in numbers) == sorted([*range(1, 41)] * 2)
        assert (store.get("p", "a"), store.get("q", "a")) == ({"a": b"40"}, {"a": b"40"})

    def test_a_rule_may_leave_the_value_as_it_is(self, store: Store) -> None:
        def look(kept: bytes | None, now: float) -> tuple[bytes | None, bytes | None, float | None]:
            return kept, None, self.ttl

        made(store, Change("p", writes=(Put("a", b"1"),)))
        assert [*store.revise([Revise("p", "a", look), Revise("p", "unknown", look)])] == [b"1", None]
        assert [*store.revise([])] == []
        self.pass_time(store, self.ttl * 1.5)
        assert store.scan("p") == [("a", b"1")]
