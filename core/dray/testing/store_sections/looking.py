"""Scans and indexes: what is asked for comes in order, in pages, and all of it."""

from __future__ import annotations

from math import inf

from ...store import MAX_KEYS, Change, Delete, Due, Index, Present, Put, Store, Unindex
from ..background import Background
from .kit import StoreKit, made


class Scanning(StoreKit):
    """scans"""

    def test_keys_come_in_order(self, store: Store) -> None:
        keys = ["b", "a", "a/2", "a/10", "A", "ü", "z", "\U0001f40e", "\uffee"]
        made(store, Change("p", writes=tuple(Put(key, key.encode()) for key in keys)))
        assert store.scan("p") == [(key, key.encode()) for key in sorted(keys)]

    def test_only_keys_with_the_prefix_come(self, store: Store) -> None:
        keys = ["a", "a%", "a%b", "a_b", "aXb", "b", "a*", "a\\b"]
        made(store, Change("p", writes=tuple(Put(key, b"") for key in keys)))
        assert [key for key, _ in store.scan("p", "a%")] == ["a%", "a%b"]
        assert [key for key, _ in store.scan("p", "a_")] == ["a_b"]
        assert [key for key, _ in store.scan("p", "a*")] == ["a*"]
        assert [key for key, _ in store.scan("p", "a\\")] == ["a\\b"]
        assert store.scan("p", "c") == []

    def test_a_scan_goes_on_after_a_key(self, store: Store) -> None:
        keys = sorted(f"k{n}" for n in range(31))
        made(store, Change("p", writes=(*(Put(key, b"v") for key in keys), Put("l", b""))))
        found: list[str] = []
        while page := store.scan("p", "k", found[-1] if found else "", 7):
            assert len(page) <= 7
            found += [key for key, _ in page]
        assert found == keys

    def test_a_scan_goes_on_after_a_key_that_is_gone_and_from_outside_of_the_prefix(self, store: Store) -> None:
        made(store, Change("p", writes=tuple(Put(key, b"") for key in ("j", "k1", "k2", "k3", "l"))))
        made(store, Change("p", writes=(Delete("k2"),)))
        assert [key for key, _ in store.scan("p", "k", "k2")] == ["k3"]
        assert [key for key, _ in store.scan("p", "k", "a")] == ["k1", "k3"]
        assert store.scan("p", "k", "l") == []

    def test_thousands_of_keys_come_in_pages_of_a_thousand(self, store: Store) -> None:
        keys = [f"k{n:04}" for n in range(2500)]
        pages = [keys[n : n + MAX_KEYS] for n in range(0, len(keys), MAX_KEYS)]
        store.commit([Change("p", writes=tuple(Put(key, key.encode()) for key in page)) for page in pages])
        found: list[tuple[str, bytes]] = []
        sizes = []
        while page := store.scan("p", "", found[-1][0] if found else ""):
            sizes.append(len(page))
            found += page
        assert sizes == [1000, 1000, 500]
        assert found == [(key, key.encode()) for key in keys]

    def test_a_scan_sees_no_half_of_a_change(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("a", b"0"), Put("b", b"0"))))

        def write() -> None:
            for n in range(60):
                made(store, Change("p", writes=(Put("a", b"%d" % n), Put("b", b"%d" % n))))

        with self.another(store) as other:
            writing = Background(write)
            for _ in range(60):
                (_, one), (_, two) = other.scan("p")
                assert one == two
            writing.result()


class Indexes(StoreKit):
    """indexes"""

    def test_what_is_due_comes_in_the_order_of_time(self, store: Store) -> None:
        made(store, Change("p", writes=(Index("i", "late", 30.0), Index("i", "early", 10.0), Index("j", "other", 1.0))))
        made(store, Change("q", writes=(Index("i", "middle", 20.5),)))
        assert store.due("i", 20.5, 10) == [Due(10.0, "p", "early"), Due(20.5, "q", "middle")]
        assert store.due("i", 9.9, 10) == []
        assert store.due("unknown", inf, 10) == []

    def test_entries_need_no_records(self, store: Store) -> None:
        made(store, Change("p", writes=(Index("i", "k", 1.0),)))
        assert store.scan("p") == []
        assert store.due("i", 1.0, 10) == [Due(1.0, "p", "k")]

    def test_what_was_looked_at_stays_until_it_is_taken_out(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("a", b""), Index("i", "k", 1.0))))
        assert store.due("i", 2.0, 10) == store.due("i", 2.0, 10) == [Due(1.0, "p", "k")]
        made(store, Change("p", writes=(Unindex("i", "k"), Unindex("i", "unknown"))))
        assert store.due("i", 2.0, 10) == []

    def test_an_entry_that_is_entered_again_moves(self, store: Store) -> None:
        made(store, Change("p", writes=(Index("i", "k", 1.0),)))
        made(store, Change("p", writes=(Index("i", "k", 5.0),)))
        assert store.due("i", inf, 10) == [Due(5.0, "p", "k")]

    def test_instants_are_kept_to_the_microsecond(self, store: Store) -> None:
        at = 1_763_757_296.123457
        made(store, Change("p", writes=(Index("i", "k", at),)))
        assert store.due("i", at, 10) == [Due(at, "p", "k")]
        assert store.due("i", at - 1e-6, 10) == []

    def test_a_refused_change_enters_nothing(self, store: Store) -> None:
        made(store, Change("p", (Present("a"),), (Index("i", "k", 1.0),)))
        assert store.due("i", inf, 10) == []

    def test_many_entries_come_in_pages_none_twice_and_none_missing(self, store: Store) -> None:
        # Many at the same instant: the page's end must not fall through the cracks.
        entries = [Due(float(n // 10), f"p{n % 3}", f"k{n:03}") for n in range(100)]
        store.commit([Change(e.part, writes=(Index("i", e.key, e.at),)) for e in entries])
        found: list[Due] = []
        while page := store.due("i", inf, 7, found[-1] if found else None):
            assert len(page) <= 7
            found += page
        assert found == sorted(entries)

    def test_entries_of_one_instant_come_in_the_order_of_their_names(self, store: Store) -> None:
        parts = ("p", "P", "p ", "p!", "p/", "pp", "ü", "\U0001f40e", "\uffee")
        entries = [Due(1.0, part, key) for part in parts for key in ("k", "K", "k/10", "k/2", "ü")]
        store.commit([Change(e.part, writes=(Index("i", e.key, e.at),)) for e in reversed(entries)])
        found: list[Due] = []
        while page := store.due("i", 1.0, 4, found[-1] if found else None):
            found += page
        assert found == sorted(entries)

    def test_a_page_goes_on_after_an_entry_that_was_taken_out_or_has_moved(self, store: Store) -> None:
        made(store, Change("p", writes=tuple(Index("i", f"k{n}", float(n)) for n in range(6))))
        assert store.due("i", inf, 2) == [Due(0.0, "p", "k0"), Due(1.0, "p", "k1")]
        made(store, Change("p", writes=(Index("i", "k0", 9.0), Unindex("i", "k1"), Unindex("i", "k2"))))
        assert store.due("i", inf, 3, Due(1.0, "p", "k1")) == [Due(float(n), "p", f"k{n}") for n in (3, 4, 5)]
        assert store.due("i", inf, 3, Due(5.0, "p", "k5")) == [Due(9.0, "p", "k0")]
        assert store.due("i", 8.0, 3, Due(5.0, "p", "k5")) == []
