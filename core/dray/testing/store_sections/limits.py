"""Rate limits and places: never more than the limit, however many ask."""

from __future__ import annotations

from functools import partial

import pytest

from ...store import Hold, Store, Take
from ..background import Background
from .kit import LONG, StoreKit


class Limits(StoreKit):
    """rate limits"""

    def test_a_bucket_gives_its_burst_at_once_and_then_one_by_one(self, store: Store) -> None:
        wish = Take("l", every=60.0, burst=3)
        assert [*store.take([wish, wish]), *store.take([wish])] == [0.0, 0.0, 0.0]
        (wait,) = store.take([wish])
        assert 50.0 < wait <= 60.0

    def test_what_waits_too_long_takes_nothing(self, store: Store) -> None:
        wish = Take("l", every=60.0)
        assert store.take([wish]) == [0.0]
        first, second = store.take([wish, wish])
        assert first == pytest.approx(second, abs=5.0)

    def test_a_turn_can_be_reserved_beforehand(self, store: Store) -> None:
        store.take([Take("l", every=60.0)])
        waits = store.take([Take("l", every=60.0, ahead=200.0)] * 4)
        assert waits == pytest.approx([60.0, 120.0, 180.0, 240.0], abs=5.0)
        assert store.take([Take("l", every=60.0, ahead=200.0)]) == pytest.approx([240.0], abs=5.0)

    def test_tokens_come_back_with_time(self, store: Store) -> None:
        wish, begun = Take("l", every=self.ttl, burst=2), store.now()
        assert store.take([wish, wish]) == [0.0, 0.0]
        assert store.take([wish])[0] > 0 or not self.lives(store, begun)
        self.pass_time(store, self.ttl * 1.2)
        assert store.take([wish])[0] == 0.0

    def test_one_wish_may_cost_several_tokens(self, store: Store) -> None:
        assert store.take([Take("l", every=60.0, burst=5, cost=4)]) == [0.0]
        assert store.take([Take("l", every=60.0, burst=5, cost=2)])[0] > 0
        assert store.take([Take("l", every=60.0, burst=5, cost=1)]) == [0.0]

    def test_limits_are_apart(self, store: Store) -> None:
        assert store.take([Take("l", 60.0), Take("m", 60.0)]) == [0.0, 0.0]

    def test_many_callers_get_no_more_than_the_limit_together(self, store: Store) -> None:
        def ask(connection: Store) -> int:
            return sum(connection.take([Take("l", every=3600.0, burst=50)])[0] == 0.0 for _ in range(30))

        with self.another(store) as other:
            racing = [Background(partial(ask, c)) for c in [store, other] * 2]
            assert sum(each.result() for each in racing) == 50


class Holding(StoreKit):
    """places and locks"""

    def test_one_place_is_held_by_one(self, store: Store) -> None:
        (token,) = store.hold([Hold("l", "me", LONG)])
        assert token >= 1
        assert store.hold([Hold("l", "you", LONG)]) == [0]
        assert store.hold([Hold("m", "you", LONG)])[0] >= 1

    def test_renewing_keeps_the_token(self, store: Store) -> None:
        begun = store.now()
        (token,) = store.hold([Hold("l", "me", self.ttl)])
        assert store.hold([Hold("l", "me", LONG)]) == [token] or not self.lives(store, begun)
        self.pass_time(store, self.ttl * 1.5)
        assert store.hold([Hold("l", "you", LONG)]) == [0]

    def test_what_was_let_go_is_free_and_the_next_token_is_higher(self, store: Store) -> None:
        (token,) = store.hold([Hold("l", "me", LONG)])
        store.let_go([Hold("l", "me", LONG), Hold("l", "nobody", LONG), Hold("unknown", "me", LONG)])
        (next_token,) = store.hold([Hold("l", "you", LONG)])
        assert next_token > token

    def test_letting_go_of_what_another_holds_changes_nothing(self, store: Store) -> None:
        store.hold([Hold("l", "me", LONG)])
        store.let_go([Hold("l", "you", LONG)])
        assert store.hold([Hold("l", "you", LONG)]) == [0]

    def test_a_place_that_was_not_renewed_is_free_and_its_holder_has_lost_it(self, store: Store) -> None:
        (token,) = store.hold([Hold("l", "me", self.ttl)])
        self.pass_time(store, self.ttl * 1.5)
        (next_token,) = store.hold([Hold("l", "you", LONG)])
        assert next_token > token
        assert store.hold([Hold("l", "me", LONG)]) == [0]

    def test_there_are_as_many_places_as_asked_for(self, store: Store) -> None:
        tokens = store.hold([Hold("l", f"h{n}", LONG, 3) for n in range(5)])
        assert [token > 0 for token in tokens] == [True, True, True, False, False]
        assert len(set(tokens[:3])) == 3
        store.let_go([Hold("l", "h1", LONG)])
        assert [token > 0 for token in store.hold([Hold("l", "h3", LONG, 3), Hold("l", "h4", LONG, 3)])] == [
            True,
            False,
        ]

    def test_of_many_callers_one_gets_the_lock(self, store: Store) -> None:
        def ask(connection: Store, who: int) -> int:
            return sum(connection.hold([Hold(f"l{n}", f"h{who}", LONG)])[0] > 0 for n in range(15))

        with self.another(store) as other:
            racing = [Background(partial(ask, c, n)) for n, c in enumerate([store, other] * 3)]
            assert sum(each.result() for each in racing) == 15
