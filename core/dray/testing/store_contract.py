"""The store port as a test suite: what an adapter must do, in sentences. Subclass it in three lines.

    class TestMyStore(StoreContract):
        def make_store(self, tmp_path):
            return MyStore(Url.parse(f"mine://{tmp_path}/records"))

Each class below is a section of the grade card.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import inf
from pathlib import Path

import pytest

from ..clock import SYSTEM_CLOCK, ManualClock
from ..errors import StoreError
from ..store import (
    MAX_NAME,
    MAX_VALUE,
    Absent,
    Add,
    Change,
    Changed,
    Delete,
    Due,
    Equals,
    Hold,
    Index,
    Present,
    Put,
    Store,
    Take,
    Unindex,
)
from .background import Background

#: A time to live that no test outlives (seconds).
LONG = 300.0


class StoreKit:
    """How a subclass describes its store. Only `make_store` is required."""

    #: Seconds of a short time to live, in tests that let one run out. At least the store's own grain.
    ttl: float = 0.4

    def make_store(self, tmp_path: Path) -> Store:
        """Return a store, not yet opened, onto an empty place of its own; or override the fixture `store`."""
        raise NotImplementedError("say how to make the store: def make_store(self, tmp_path): return ...")

    def second(self, store: Store) -> Store:
        """Return another open connection to the same place; `store` itself when it is not shared."""
        if not store.capabilities.shared:
            return store
        other = type(store)(store.url)
        other.clock = store.clock
        other.open()
        return other

    def cut(self, store: Store) -> None:
        """Break the connection below the store, as a network would. By default nothing happens."""

    def pass_time(self, store: Store, seconds: float) -> None:
        """Let `seconds` pass on the clock the store goes by."""
        if isinstance(store.clock, ManualClock):
            store.clock.advance(seconds)
        else:
            SYSTEM_CLOCK.wait(threading.Event(), seconds)

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        """The store under test, open."""
        store = self.make_store(tmp_path)
        store.open()
        yield store
        store.close()

    @contextmanager
    def another(self, store: Store) -> Iterator[Store]:
        """Give a second connection, closed at the end."""
        other = self.second(store)
        try:
            yield other
        finally:
            if other is not store:
                other.close()


def made(store: Store, change: Change) -> Changed:
    (done,) = store.commit([change])
    return done


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

    @pytest.mark.parametrize("value", [b"", b"\x00", bytes(range(256)), b"{}", b"-1", "ü".encode()])
    def test_values_are_any_bytes(self, store: Store, value: bytes) -> None:
        made(store, Change("p", writes=(Put("a", value),)))
        assert store.get("p", "a") == {"a": value}
        assert made(store, Change("p", (Equals("a", value),), (Delete("a"),))).applied

    def test_a_large_value_is_kept_whole(self, store: Store) -> None:
        value = bytes(range(256)) * (MAX_VALUE // 256)
        made(store, Change("p", writes=(Put("a", value),)))
        assert store.get("p", "a")["a"] == value

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
        keys = sorted(f"k{n}" for n in range(50))
        made(store, Change("p", writes=(*(Put(key, b"v") for key in keys), Put("l", b""))))
        found: list[str] = []
        while page := store.scan("p", "k", found[-1] if found else "", 7):
            assert len(page) <= 7
            found += [key for key, _ in page]
        assert found == keys

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


class Forgetting(StoreKit):
    """forgetting"""

    def test_a_partition_is_forgotten_when_its_time_is_up(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("a", b"1"), Add("n")), ttl=self.ttl))
        made(store, Change("q", writes=(Put("a", b"1"),), ttl=LONG))
        assert store.get("p", "a") == {"a": b"1"}
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
        for part, later in (("longer", LONG), ("for ever", inf), ("as it was", None)):
            made(store, Change(part, writes=(Put("a", b"1"),), ttl=self.ttl))
            made(store, Change(part, writes=(Put("b", b"2"),), ttl=later))
        self.pass_time(store, self.ttl * 1.5)
        assert [len(store.scan(part)) for part in ("longer", "for ever", "as it was")] == [2, 2, 0]

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
        wish = Take("l", every=self.ttl, burst=2)
        assert store.take([wish, wish]) == [0.0, 0.0]
        assert store.take([wish])[0] > 0
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
        (token,) = store.hold([Hold("l", "me", self.ttl)])
        assert store.hold([Hold("l", "me", LONG)]) == [token]
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
        if not store.capabilities.durable:
            pytest.skip("needs capability: durable")
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

    def test_after_a_cut_it_answers_again(self, store: Store) -> None:
        made(store, Change("p", writes=(Put("a", b"1"),)))
        self.cut(store)
        try:
            store.get("p", "a")
        except StoreError:
            store.open()
        assert store.get("p", "a") == {"a": b"1"}


# pytest runs inherited tests from the last base to the first, so this line is read from right to left.
class StoreContract(
    StoreConnections, Holding, Limits, Forgetting, Indexes, Scanning, Members, Counting, Checking, Changing
):
    """All sections. A store that passes can be used by every part of dray."""
