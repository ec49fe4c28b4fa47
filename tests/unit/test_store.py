"""The rules that the store port itself brings: limits, places, and values that are changed by a rule."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dray import Change, Hold, ManualClock, Put, Revise, Store, Take, Url
from dray.store import BUCKET_KEPT, TOKENS_KEPT
from dray_backends.memory_store import MemoryStore

DAY = 86400.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> Iterator[Store]:
    store = MemoryStore(Url.parse("memory://"))
    store.clock = clock
    store.open()
    yield store
    store.close()


def test_a_place_held_for_long_outlives_one_asked_for_later(store: Store, clock: ManualClock) -> None:
    (first, second) = store.hold([Hold("p", "long", 30 * DAY, 2), Hold("p", "short", 60.0, 2)])
    clock.advance(60.0 + TOKENS_KEPT + 1.0)
    assert store.hold([Hold("p", "long", 30 * DAY, 2)]) == [first]
    store.let_go([Hold("p", "short", 60.0)])
    clock.advance(TOKENS_KEPT + 1.0)
    assert store.hold([Hold("p", "long", DAY, 2)]) == [first]
    assert store.hold([Hold("p", "third", DAY, 2)])[0] > second


def test_the_last_token_is_remembered_for_days_after_the_place_was_free(store: Store, clock: ManualClock) -> None:
    (token,) = store.hold([Hold("p", "me", 60.0)])
    clock.advance(60.0 + TOKENS_KEPT - 1.0)
    assert store.hold([Hold("p", "you", 60.0)])[0] > token


def test_a_bucket_is_forgotten_once_it_is_full_and_not_before(store: Store, clock: ManualClock) -> None:
    store.take([Take("p", every=10.0, burst=100, cost=100)])
    clock.advance(1000.0 - 1.0)
    assert store.take([Take("p", every=10.0, burst=100, cost=100)])[0] == pytest.approx(1.0)
    clock.advance(1.0 + BUCKET_KEPT)
    assert store.scan("p") == []
    assert store.take([Take("p", every=10.0, burst=100, cost=100)]) == [0.0]


def test_more_tokens_than_the_bucket_holds_never_come(store: Store, clock: ManualClock) -> None:
    wish = Take("p", every=1.0, burst=2, cost=3)
    assert store.take([wish])[0] > 0
    clock.advance(DAY)
    assert store.take([wish])[0] > 0


def test_a_rule_is_asked_again_when_somebody_else_was_faster(store: Store) -> None:
    shown: list[bytes | None] = []

    def rule(kept: bytes | None, now: float) -> tuple[str, bytes | None, float | None]:
        shown.append(kept)
        if len(shown) == 1:
            # What another would do meanwhile; a rule itself does not use the store.
            store.commit([Change("p", writes=(Put("a", b"theirs"),))])
        return f"after {len(shown)}", b"mine", None

    assert store.revise([Revise("p", "a", rule)]) == ["after 2"]
    assert shown == [None, b"theirs"]
    assert store.get("p", "a") == {"a": b"mine"}


def test_a_rule_gives_its_partition_a_time_to_live(store: Store, clock: ManualClock) -> None:
    store.revise([Revise("p", "a", lambda kept, now: (None, b"1", 10.0))])
    clock.advance(9.0)
    assert store.get("p", "a") == {"a": b"1"}
    clock.advance(2.0)
    assert store.get("p", "a") == {}
