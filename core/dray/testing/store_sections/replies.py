"""Replies that are lost: whoever asks again finds what was made, once, and nothing made by half."""

from __future__ import annotations

from math import inf

import pytest

from ...errors import StoreUnavailable
from ...store import Absent, Add, Change, Changed, Hold, Index, Put, Store
from ..background import Background
from ..faults import FlakyStore
from .kit import LONG, StoreKit, made

#: Changes made while the connection is cut again and again, and how often it is.
CHANGES, CUTS = 150, 10


class LostReplies(StoreKit):
    """lost replies"""

    def test_a_claim_whose_reply_was_lost_is_recognised(self, store: Store) -> None:
        flaky = FlakyStore(store)
        claim = Change("p", (Absent("winner"),), (Put("winner", b"me"),), ("winner",))
        flaky.lose_reply_of("commit")
        with pytest.raises(StoreUnavailable):
            flaky.commit([claim])
        assert made(flaky, claim) == Changed(False, {"winner": b"me"})

    def test_a_batch_that_was_broken_off_is_made_again_without_doing_anything_twice(self, store: Store) -> None:
        flaky = FlakyStore(store)
        batch = [Change(f"p{n % 3}", (Absent(f"{n}"),), (Put(f"{n}", b""), Add("n"))) for n in range(30)]
        for made_before in (7, 0, 20, 30):
            flaky.break_off(made_before)
            with pytest.raises(StoreUnavailable):
                flaky.commit(batch)
        flaky.commit(batch)
        assert [store.get(f"p{n}", "n") for n in range(3)] == [{"n": b"10"}] * 3

    def test_members_added_again_count_once_and_the_last_is_told_that_the_group_is_complete(self, store: Store) -> None:
        flaky = FlakyStore(store)
        for member in "abc":
            flaky.lose_reply_of("add_member")
            with pytest.raises(StoreUnavailable):
                flaky.add_member("p", "g", member, b"1")
        assert [flaky.add_member("p", "g", member, b"2") for member in "abc"] == [(False, 3)] * 3
        assert store.scan("p", "g/") == [("g/a", b"1"), ("g/b", b"1"), ("g/c", b"1")]

    def test_a_place_whose_grant_was_lost_is_granted_again_with_its_token(self, store: Store) -> None:
        flaky = FlakyStore(store)
        flaky.lose_reply_of("hold")
        with pytest.raises(StoreUnavailable):
            flaky.hold([Hold("l", "me", LONG)])
        (token,) = flaky.hold([Hold("l", "me", LONG)])
        assert flaky.hold([Hold("l", "me", LONG)]) == [token]
        flaky.lose_reply_of("let_go")
        with pytest.raises(StoreUnavailable):
            flaky.let_go([Hold("l", "me", LONG)])
        flaky.let_go([Hold("l", "me", LONG)])
        assert flaky.hold([Hold("l", "you", LONG)])[0] > token

    def test_what_is_cut_off_is_there_as_a_whole_or_not_at_all(self, store: Store) -> None:
        left = [*range(CUTS)]

        def cut() -> None:
            if left:
                left.pop()
                self.cut(other)

        with self.another(store) as other:
            Background(lambda: insist(other, CHANGES)).result(meanwhile=cut)
        assert len(store.scan("p", "m/", limit=2 * CHANGES)) == CHANGES
        assert store.get("p", "n") == {"n": b"%d" % CHANGES}
        assert len(store.due("i", inf, 2 * CHANGES)) == CHANGES


def insist(store: Store, members: int) -> None:
    """Add members and count them, each until the store says that it is there."""
    for number in range(members):
        key = f"m/{number:04}"
        change = Change("p", (Absent(key),), (Put(key, b""), Index("i", key, 1.0), Add("n")))
        while True:
            try:
                made(store, change)
                break
            except StoreUnavailable:
                reopen(store)


def reopen(store: Store) -> None:
    while True:
        try:
            store.open()
            return
        except StoreUnavailable:
            pass
