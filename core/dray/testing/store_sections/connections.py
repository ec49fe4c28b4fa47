"""Connections: what one commits all see, and one that was cut is made anew."""

from __future__ import annotations

from math import inf

from ...errors import StoreError
from ...store import Change, Due, Index, Put, Store
from ..background import Background
from .kit import StoreKit, made, needs


class StoreConnections(StoreKit):
    """connections"""

    def test_opening_and_closing_twice_is_harmless(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("a", b"1"),)))
        store.open()
        assert store.get("p", "a") == {"a": b"1"}
        store.close()
        store.close()
        store.open()
        made(store, Change("p", writes=(Put("b", b"2"),)))
        assert store.get("p", "b") == {"b": b"2"}

    def test_what_one_connection_commits_another_sees_at_once(self, store: Store) -> None:
        with self.another(store) as other:
            for n in range(20):
                made(store, Change("p", writes=(Put("a", b"%d" % n), Index("i", "k", float(n)))))
                assert other.get("p", "a") == {"a": b"%d" % n}
                assert other.due("i", inf, 10) == [Due(float(n), "p", "k")]

    def test_records_are_there_after_a_restart(self, store: Store) -> None:
        needs(store, "durable")
        made(store, Change("p", writes=(Put("a", b"\x00kept"), Index("i", "k", 1.0))))
        store.close()
        with self.another(store) as other:
            assert other.get("p", "a") == {"a": b"\x00kept"}
            assert other.due("i", inf, 10) == [Due(1.0, "p", "k")]

    def test_its_clock_goes_forward_and_is_everybodys(self, store: Store) -> None:
        with self.another(store) as other:
            before, between, after = store.now(), other.now(), store.now()
        assert before - 1.0 <= between <= after + 1.0
        assert before <= after

    def test_whoever_watches_comes_back_when_something_changes_or_when_the_time_is_up(self, store: Store) -> None:
        watching = Background(lambda: store.watch("p", self.ttl))
        made(store, Change("p", writes=(Put("a", b"1"),)))
        watching.result(meanwhile=lambda: self.pass_time(store, self.ttl))

    def test_whoever_watches_learns_what_another_connection_has_changed(self, store: Store) -> None:
        def wait() -> bytes:
            while not (found := store.get("p", "a")):
                store.watch("p", 1.0)
            return found["a"]

        waiting = Background(wait)
        with self.another(store) as other:
            made(other, Change("p", writes=(Put("a", b"1"),)))
            assert waiting.result(meanwhile=lambda: self.pass_time(store, 0.05)) == b"1"

    def test_after_a_cut_it_answers_again(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("a", b"1"),)))
        self.cut(store)
        try:
            store.get("p", "a")
        except StoreError:
            store.open()
        assert store.get("p", "a") == {"a": b"1"}
