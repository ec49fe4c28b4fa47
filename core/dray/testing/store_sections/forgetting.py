"""Times to live: what is over is gone as a whole and does not come back."""

from __future__ import annotations

from math import inf

from ...store import Absent, Add, Change, Due, Index, Put, Store
from .kit import LONG, StoreKit, made


class Forgetting(StoreKit):
    """forgetting"""

    def test_a_partition_is_forgotten_when_its_time_is_up(self, store: Store) -> None:
        begun = store.now()
        made(store, Change("p", writes=(Put("a", b"1"), Add("n")), ttl=self.ttl))
        made(store, Change("q", writes=(Put("a", b"1"),), ttl=LONG))
        assert store.get("p", "a") == {"a": b"1"} or not self.lives(store, begun)
        self.pass_time(store, self.ttl * 1.5)
        assert (store.get("p", "a", "n"), store.scan("p"), store.get("q", "a")) == ({}, [], {"a": b"1"})
        assert made(store, Change("p", (Absent("a"),), (Put("a", b"2"),))).applied

    def test_what_was_forgotten_begins_anew_and_for_ever(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("old", b"1"), Add("n", 5)), ttl=self.ttl))
        self.pass_time(store, self.ttl * 1.5)
        assert made(store, Change("p", writes=(Add("n"),), reads=("old", "n"))).values == {"n": b"1"}
        self.pass_time(store, self.ttl * 1.5)
        assert store.get("p", "n") == {"n": b"1"}

    def test_a_later_time_replaces_an_earlier_one_and_no_time_leaves_it(self, store: Store) -> None:
        expected: dict[str, int] = {}
        for part, later in (("longer", LONG), ("for ever", inf), ("as it was", None)):
            begun = store.now()
            made(store, Change(part, writes=(Put("a", b"1"),), ttl=self.ttl))
            kept = made(store, Change(part, writes=(Put("b", b"2"),), reads=("a",), ttl=later)).values
            assert kept or not self.lives(store, begun)
            # What came too late on a busy machine has begun anew, and nothing was said of its time.
            expected[part] = (2 if later else 0) if kept else 1
        self.pass_time(store, self.ttl * 1.5)
        assert {part: len(store.scan(part)) for part in expected} == expected

    def test_entries_of_what_was_forgotten_do_not_hide_others(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("a", b""), Index("i", "k", 1.0)), ttl=self.ttl))
        made(store, Change("q", writes=(Put("a", b""), Index("i", "k", 2.0))))
        self.pass_time(store, self.ttl * 1.5)
        store.purge()
        found = store.due("i", inf, 10)
        assert Due(2.0, "q", "k") in found
        assert [entry for entry in found if store.scan(entry.part)] == [Due(2.0, "q", "k")]

    def test_what_was_forgotten_does_not_come_back(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("a", b"1"), Index("i", "k", 1.0)), ttl=self.ttl))
        self.pass_time(store, self.ttl * 1.5)
        made(store, Change("p", writes=(Put("b", b"2"),)))
        assert store.scan("p") == [("b", b"2")]

    def test_a_large_partition_is_forgotten_as_a_whole(self, store: Store) -> None:
        some = [tuple(Put(f"k{n}-{m}", b"v" * 100) for m in range(25)) for n in range(40)]
        store.commit([Change("p", writes=(*writes, Index("i", f"{n}", 1.0))) for n, writes in enumerate(some)])
        made(store, Change("p", writes=(Add("n"),), ttl=self.ttl))
        self.pass_time(store, self.ttl * 1.5)
        assert store.scan("p") == []
        made(store, Change("p", writes=(Put("new", b"1"), Index("j", "new", 1.0))))
        assert store.scan("p") == [("new", b"1")]
        assert store.due("j", inf, 10) == [Due(1.0, "p", "new")]

    def test_purging_leaves_what_is_still_good(self, store: Store) -> None:
        begun = store.now()
        made(store, Change("short", writes=(Put("a", b"1"),), ttl=self.ttl))
        made(store, Change("long", writes=(Put("a", b"1"), Index("i", "k", 1.0)), ttl=LONG))
        made(store, Change("for ever", writes=(Put("a", b"1"),)))
        assert store.purge() == 0 or not self.lives(store, begun)
        self.pass_time(store, self.ttl * 1.5)
        assert store.purge() in (0, 1)
        assert store.purge() == 0
        assert [len(store.scan(part)) for part in ("short", "long", "for ever")] == [0, 1, 1]
        assert store.due("i", inf, 10) == [Due(1.0, "long", "k")]

    def test_a_time_to_live_comes_with_writes_only(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("a", b"1"),)))
        assert made(store, Change("p", (Absent("b"),), (), ("a",), self.ttl)).values == {"a": b"1"}
        self.pass_time(store, self.ttl * 1.5)
        assert store.get("p", "a") == {"a": b"1"}
