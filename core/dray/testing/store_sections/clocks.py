"""Clocks that differ: checks, counts and tokens keep their promises, limits and lives are off by no more than that."""

from __future__ import annotations

import pytest

from ...store import Absent, Add, Change, Hold, Index, Put, Store, Take
from .kit import LONG, StoreKit, made, needs

#: By how much one host's clock is ahead of the other's: more than a short life, far less than a long one (seconds).
AHEAD = 20.0


class Clocks(StoreKit):
    """clocks that differ"""

    def over_for_those_ahead(self, store: Store) -> None:
        """See to it that a short life is over, at least for whoever is ahead."""
        if store.capabilities.server_time:
            self.pass_time(store, self.ttl * 1.5)

    def test_a_store_that_has_a_clock_goes_by_it_and_others_by_their_hosts(self, store: Store) -> None:
        needs(store, "shared")
        with self.another(store, ahead=AHEAD) as other:
            difference = other.now() - store.now()
        assert difference == pytest.approx(0.0 if store.capabilities.server_time else AHEAD, abs=AHEAD / 2)

    def test_claims_and_counts_owe_nothing_to_clocks(self, store: Store) -> None:
        needs(store, "shared")
        won = 0
        with self.another(store, ahead=AHEAD) as other:
            for n in range(10):
                for connection in (store, other) if n % 2 else (other, store):
                    claim = Change(f"p{n}", (Absent("winner"),), (Put("winner", b""), Add("n")), ttl=LONG)
                    won += made(connection, claim).applied
            assert [other.get(f"p{n}", "n") for n in range(10)] == [{"n": b"1"}] * 10
        assert won == 10

    def test_what_is_to_live_long_is_there_for_those_ahead_too(self, store: Store) -> None:
        needs(store, "shared")
        made(store, Change("p", writes=(Put("a", b"1"), Index("i", "k", 1.0)), ttl=LONG))
        with self.another(store, ahead=AHEAD) as other:
            other.purge()
            assert other.get("p", "a") == {"a": b"1"}
            assert other.due("i", 1.0, 10) == store.due("i", 1.0, 10) != []

    def test_what_has_begun_anew_for_one_has_begun_anew_for_all(self, store: Store) -> None:
        needs(store, "shared")
        made(store, Change("p", writes=(Put("old", b"1"),), ttl=self.ttl))
        self.over_for_those_ahead(store)
        with self.another(store, ahead=AHEAD) as other:
            assert made(other, Change("p", (Absent("old"),), (Put("new", b"1"),), ttl=LONG)).applied
            assert store.scan("p") == other.scan("p") == [("new", b"1")]

    def test_what_is_over_for_those_ahead_is_there_for_others_as_a_whole_or_not_at_all(self, store: Store) -> None:
        needs(store, "shared")
        some = [Change("p", writes=tuple(Put(f"{n}-{m}", b"") for m in range(30)), ttl=self.ttl + 5) for n in range(50)]
        store.commit(some)
        with self.another(store, ahead=AHEAD) as other:
            made(other, Change("q", writes=(Add("n"),)))
            assert len(store.scan("p", limit=9999)) in (0, 1500)
            made(store, Change("p", writes=(Put("more", b""),), ttl=LONG))
            assert len(store.scan("p", limit=9999)) in (1, 1501)

    def test_a_limit_is_exceeded_by_no_more_than_the_difference(self, store: Store) -> None:
        needs(store, "shared")
        every, begun = AHEAD / 10, store.now()
        with self.another(store, ahead=AHEAD) as other:
            taken = sum(c.take([Take("l", every, burst=5)])[0] == 0.0 for c in [store, other] * 30)
            slow = sum(c.take([Take("m", 3600.0, burst=5)])[0] == 0.0 for c in [store, other] * 5)
        seconds = store.now() - begun + (0.0 if store.capabilities.server_time else AHEAD)
        assert 5 <= taken <= 5 + seconds / every + 1
        assert slow == 5

    def test_a_place_held_for_long_is_not_free_for_those_ahead(self, store: Store) -> None:
        needs(store, "shared")
        (token,) = store.hold([Hold("l", "me", LONG)])
        with self.another(store, ahead=AHEAD) as other:
            assert [*other.hold([Hold("l", "you", LONG), Hold("l", "me", LONG)])] == [0, token]
            other.let_go([Hold("l", "me", LONG)])
            (held,) = other.hold([Hold("l", "you", LONG)])
        assert held > token
        assert [*store.hold([Hold("l", "me", LONG), Hold("l", "you", LONG)])] == [0, held]

    def test_tokens_grow_also_where_a_place_was_taken_early(self, store: Store) -> None:
        needs(store, "shared")
        (token,) = store.hold([Hold("l", "me", self.ttl)])
        self.over_for_those_ahead(store)
        with self.another(store, ahead=AHEAD) as other:
            (early,) = other.hold([Hold("l", "you", LONG)])
            assert early > token
            store.let_go([Hold("l", "me", LONG)])
            assert [*store.hold([Hold("l", "me", LONG), Hold("l", "third", LONG)])] == [0, 0]
            assert [*other.hold([Hold("l", "you", LONG)])] == [early]
