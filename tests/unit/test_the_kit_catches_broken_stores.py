"""The conformance kit of stores: for each fault a store may have, a sentence of its contract turns red."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

import dray.store as port
import dray.testing.background
from dray import (
    Add,
    Change,
    Changed,
    Due,
    Equals,
    Hold,
    ManualClock,
    Put,
    Store,
    StoreError,
    StoreUnavailable,
    Take,
    Url,
)
from dray.testing import StoreContract
from dray_backends import memory_store
from dray_backends.memory_store import MemoryStore
from dray_backends.sqlite_store import SqliteStore

#: Breaks the memory store, or the SQLite store, for the length of one test.
Fault = Callable[[pytest.MonkeyPatch], None]

#: What a failing contract may raise: an assertion, a missing key, a wrong number of results to unpack, a hang ...
RED = (AssertionError, ValueError, KeyError, StoreError, pytest.fail.Exception)

FAULTS: list[Any] = []
SHARED_FAULTS: list[Any] = []


def caught_by(test: str, *arguments: Any) -> Callable[[Fault], Fault]:
    """Enlist a fault of the memory store, and the test of `StoreContract` that must find it."""

    def enlist(fault: Fault) -> Fault:
        FAULTS.append(pytest.param(fault, test, arguments, id=fault.__name__))
        return fault

    return enlist


def shared_caught_by(test: str) -> Callable[[Fault], Fault]:
    """Enlist a fault that only a store can have that is shared."""

    def enlist(fault: Fault) -> Fault:
        SHARED_FAULTS.append(pytest.param(fault, test, id=fault.__name__))
        return fault

    return enlist


class OnSqlite(StoreContract):
    def cut(self, store: Store) -> None:
        assert isinstance(store, SqliteStore)
        store._file.close()


def judge(test: str, *arguments: Any) -> None:
    store = MemoryStore(Url.parse("memory://"))
    clock = store.clock = ManualClock()
    try:
        getattr(StoreContract(), test)(store, *arguments)
    finally:
        clock.advance(1e6)  # lets go of a thread that a broken store keeps waiting


def judge_shared(test: str, path: Path) -> None:
    with closing(SqliteStore(Url.parse(f"sqlite:///{path}"))) as store:
        store.open()
        getattr(OnSqlite(), test)(store)


def commit_changed(patch: pytest.MonkeyPatch, changed: Callable[[Change], Change]) -> None:
    """Have changes made otherwise than asked for."""
    commit = MemoryStore.commit
    patch.setattr(MemoryStore, "commit", lambda self, changes: commit(self, [changed(each) for each in changes]))


# Changes, checks, counts


@caught_by("test_writes_are_made_in_their_order")
def deletes_come_last(patch: pytest.MonkeyPatch) -> None:
    def last(change: Change) -> Change:
        writes = sorted(change.writes, key=lambda write: type(write).__name__ == "Delete")
        return msgspec.structs.replace(change, writes=tuple(writes))

    commit_changed(patch, last)


@caught_by("test_a_refused_change_tells_what_they_stand_for")
def a_refusal_says_nothing(patch: pytest.MonkeyPatch) -> None:
    make = MemoryStore._make

    def silent(self: MemoryStore, change: Change) -> Changed:
        done = make(self, change)
        return done if done.applied else Changed(False, {})

    patch.setattr(MemoryStore, "_make", silent)


@caught_by("test_a_change_names_as_many_keys_and_entries_as_the_store_says")
def what_is_too_much_is_left_out(patch: pytest.MonkeyPatch) -> None:
    commit_changed(patch, lambda change: msgspec.structs.replace(change, writes=change.writes[:100]))


@caught_by("test_a_change_names_as_many_keys_and_entries_as_the_store_says")
def it_takes_less_than_every_store_has_to(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryStore, "capabilities", msgspec.structs.replace(MemoryStore.capabilities, max_keys=31))


@caught_by("test_a_batch_is_made_in_order_and_answered_in_order")
def one_refusal_refuses_the_rest(patch: pytest.MonkeyPatch) -> None:
    def until_refused(self: MemoryStore, changes: Sequence[Change]) -> list[Changed]:
        done: list[Changed] = []
        for change in changes:
            refused = bool(done) and not done[-1].applied
            done.append(Changed(False, {}) if refused else self._make(change))
        return done

    patch.setattr(MemoryStore, "commit", until_refused)


@caught_by("test_values_are_any_bytes", b"\x00")
def values_are_taken_for_text(patch: pytest.MonkeyPatch) -> None:
    def as_text(change: Change) -> Change:
        writes = [Put(w.key, w.value.strip(b"\x00")) if isinstance(w, Put) else w for w in change.writes]
        return msgspec.structs.replace(change, writes=tuple(writes))

    commit_changed(patch, as_text)


@caught_by("test_names_that_differ_in_case_or_in_a_blank_at_their_end_are_different")
def names_are_folded(patch: pytest.MonkeyPatch) -> None:
    commit_changed(patch, lambda change: msgspec.structs.replace(change, part=change.part.lower().rstrip()))


@caught_by("test_all_checks_have_to_hold_or_nothing_is_written")
def one_check_is_enough(patch: pytest.MonkeyPatch) -> None:
    commit_changed(patch, lambda change: msgspec.structs.replace(change, checks=change.checks[:1]))


@caught_by("test_equals_holds_only_for_the_same_bytes")
def equals_means_begins_with(patch: pytest.MonkeyPatch) -> None:
    holds = memory_store._holds

    def begins(check: Any, records: dict[str, bytes]) -> bool:
        if isinstance(check, Equals):
            return records.get(check.key, b"?").startswith(check.value)
        return holds(check, records)

    patch.setattr(memory_store, "_holds", begins)


@caught_by("test_a_change_that_is_an_error_is_not_made_in_part")
def what_came_before_an_error_stays(patch: pytest.MonkeyPatch) -> None:
    written = MemoryStore._written

    def in_parts(self: MemoryStore, change: Change, part: Any) -> Any:
        for write in change.writes:
            part = written(self, msgspec.structs.replace(change, writes=(write,)), part)
        return part

    patch.setattr(MemoryStore, "_written", in_parts)


@caught_by("test_a_member_is_counted_once")
def members_are_counted_each_time(patch: pytest.MonkeyPatch) -> None:
    def counted(self: Store, part: str, group: str, member: str, value: bytes) -> tuple[bool, int]:
        (done,) = self.commit([Change(part, (), (Put(f"{group}/{member}", value), Add(f"{group}#")), (f"{group}#",))])
        return True, int(done.values[f"{group}#"])

    patch.setattr(Store, "add_member", counted)


@caught_by("test_of_those_who_add_the_members_at_least_one_is_told_that_the_group_is_complete")
def the_count_is_read_before_the_adding(patch: pytest.MonkeyPatch) -> None:
    def added(self: Store, part: str, group: str, member: str, value: bytes) -> tuple[bool, int]:
        before = int(self.get(part, f"{group}#").get(f"{group}#", b"0"))
        self.commit([Change(part, (), (Put(f"{group}/{member}", value), Add(f"{group}#")))])
        return True, before

    patch.setattr(Store, "add_member", added)


@caught_by("test_a_rule_changes_the_value_that_it_was_shown")
def a_rule_puts_over_what_others_have_put(patch: pytest.MonkeyPatch) -> None:
    def overwritten(self: Store, wish: Any) -> Any:
        answer, value, ttl = wish.rule(None, self.now())
        self.commit([Change(wish.part, (), (Put(wish.key, value),), (), ttl)])
        return answer

    patch.setattr(Store, "_revised", overwritten)


# Scans and indexes


@caught_by("test_only_keys_with_the_prefix_come")
def a_prefix_is_a_pattern(patch: pytest.MonkeyPatch) -> None:
    scan = MemoryStore.scan
    patch.setattr(
        MemoryStore,
        "scan",
        lambda self, part, prefix="", after="", limit=1000: scan(self, part, prefix.rstrip("%_*\\"), after, limit),
    )


@caught_by("test_keys_come_in_order")
def keys_come_in_the_order_of_utf_16(patch: pytest.MonkeyPatch) -> None:
    scan = MemoryStore.scan
    patch.setattr(
        MemoryStore, "scan", lambda self, *asked: sorted(scan(self, *asked), key=lambda row: row[0].encode("utf-16-be"))
    )


@caught_by("test_thousands_of_keys_come_in_pages_of_a_thousand")
@caught_by("test_a_scan_goes_on_after_a_key")
def a_page_has_no_end(patch: pytest.MonkeyPatch) -> None:
    scan = MemoryStore.scan
    patch.setattr(
        MemoryStore,
        "scan",
        lambda self, part, prefix="", after="", limit=1000: scan(self, part, prefix, after, 10**6),
    )


@caught_by("test_entries_of_one_instant_come_in_the_order_of_their_names")
def entries_are_sorted_as_one_text(patch: pytest.MonkeyPatch) -> None:
    def joined(entry: Due) -> tuple[float, str]:
        return entry.at, f"{entry.part}:{entry.key}"

    def due(self: MemoryStore, index: str, until: float, limit: int, after: Due | None = None) -> list[Due]:
        entries = sorted(self._indexes.get(index, []), key=joined)
        return [each for each in entries if after is None or joined(each) > joined(after)][:limit]

    patch.setattr(MemoryStore, "due", due)


@caught_by("test_many_entries_come_in_pages_none_twice_and_none_missing")
def pages_go_on_at_the_next_instant(patch: pytest.MonkeyPatch) -> None:
    due = MemoryStore.due

    def later(self: MemoryStore, index: str, until: float, limit: int, after: Due | None = None) -> list[Due]:
        found = due(self, index, until, 10**6)
        return [each for each in found if after is None or each.at > after.at][:limit]

    patch.setattr(MemoryStore, "due", later)


@caught_by("test_what_was_looked_at_stays_until_it_is_taken_out")
def looking_takes_out(patch: pytest.MonkeyPatch) -> None:
    due = MemoryStore.due

    def taken(self: MemoryStore, *asked: Any) -> Sequence[Due]:
        found = due(self, *asked)
        self._indexes.clear()
        return found

    patch.setattr(MemoryStore, "due", taken)


@caught_by("test_instants_are_kept_to_the_microsecond")
def instants_are_whole_seconds(patch: pytest.MonkeyPatch) -> None:
    due = MemoryStore.due
    patch.setattr(
        MemoryStore, "due", lambda self, *asked: [Due(float(int(e.at)), e.part, e.key) for e in due(self, *asked)]
    )


# Lives


@caught_by("test_a_partition_is_forgotten_when_its_time_is_up")
@caught_by("test_what_was_forgotten_does_not_come_back")
def nothing_is_ever_forgotten(patch: pytest.MonkeyPatch) -> None:
    commit_changed(patch, lambda change: msgspec.structs.replace(change, ttl=None))


@caught_by("test_a_later_time_replaces_an_earlier_one_and_no_time_leaves_it")
def no_time_means_for_ever(patch: pytest.MonkeyPatch) -> None:
    commit_changed(patch, lambda change: msgspec.structs.replace(change, ttl=change.ttl or 1e9))


@caught_by("test_a_time_to_live_comes_with_writes_only")
def a_look_shortens_the_life(patch: pytest.MonkeyPatch) -> None:
    make = MemoryStore._make

    def shortened(self: MemoryStore, change: Change) -> Changed:
        if change.ttl is not None and change.part in self._parts:
            self._parts[change.part].until = self.clock.time() + change.ttl
        return make(self, change)

    patch.setattr(MemoryStore, "_make", shortened)


@caught_by("test_purging_leaves_what_is_still_good")
def purging_takes_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryStore, "purge", lambda self: self._parts.clear() or 0)


# Limits and places


@caught_by("test_one_wish_may_cost_several_tokens")
def all_cost_one(patch: pytest.MonkeyPatch) -> None:
    turn = port._turn
    patch.setattr(port, "_turn", lambda wish, kept, now: turn(msgspec.structs.replace(wish, cost=1), kept, now))


@caught_by("test_what_waits_too_long_takes_nothing")
def whoever_is_refused_has_taken(patch: pytest.MonkeyPatch) -> None:
    turn = port._turn
    patch.setattr(port, "_turn", lambda wish, kept, now: turn(msgspec.structs.replace(wish, ahead=1e9), kept, now))


@caught_by("test_what_was_let_go_is_free_and_the_next_token_is_higher")
def tokens_begin_anew(patch: pytest.MonkeyPatch) -> None:
    kept = port._Places.kept
    patch.setattr(port._Places, "kept", lambda self, now: kept(port._Places(0, self.held), now))


@caught_by("test_letting_go_of_what_another_holds_changes_nothing")
def anyone_may_let_go(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(port, "_no_place", lambda wish, kept, now: (None, *port._Places().kept(now)))


@caught_by("test_a_place_that_was_not_renewed_is_free_and_its_holder_has_lost_it")
def places_are_held_for_ever(patch: pytest.MonkeyPatch) -> None:
    hold = Store.hold

    def for_ever(self: Store, holds: Sequence[Hold]) -> Sequence[int]:
        return hold(self, [msgspec.structs.replace(each, seconds=1e6) for each in holds])

    patch.setattr(Store, "hold", for_ever)


@caught_by("test_a_place_whose_grant_was_lost_is_granted_again_with_its_token")
def asking_again_is_another_token(patch: pytest.MonkeyPatch) -> None:
    place = port._place

    def anew(wish: Hold, kept: bytes | None, now: float) -> Any:
        _, without, _ = port._no_place(wish, kept, now)
        return place(wish, without or kept, now)

    patch.setattr(port, "_place", anew)


# Connections


@caught_by("test_its_clock_goes_forward_and_is_everybodys")
def its_clock_goes_back(patch: pytest.MonkeyPatch) -> None:
    instants = iter(range(1000, 0, -1))
    patch.setattr(MemoryStore, "now", lambda self: float(next(instants)))


@caught_by("test_whoever_watches_comes_back_when_something_changes_or_when_the_time_is_up")
def watching_never_ends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryStore, "watch", lambda self, part, timeout: self.clock.wait(threading.Event(), 1e5))


@pytest.mark.parametrize(("fault", "test", "arguments"), FAULTS)
def test_the_contract_turns_red_for_a_store_with_this_fault(
    fault: Fault, test: str, arguments: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(test, *arguments)

    fault(monkeypatch)
    monkeypatch.setattr(dray.testing.background, "HANGS", 0.1)
    with pytest.raises(RED):
        judge(test, *arguments)


# Several connections


@shared_caught_by("test_what_is_to_live_long_is_there_for_those_ahead_too")
def lives_are_too_short(patch: pytest.MonkeyPatch) -> None:
    commit = SqliteStore.commit

    def shorter(self: SqliteStore, changes: Sequence[Change]) -> Sequence[Changed]:
        return commit(self, [msgspec.structs.replace(each, ttl=each.ttl and each.ttl / 1000) for each in changes])

    patch.setattr(SqliteStore, "commit", shorter)


@shared_caught_by("test_a_limit_is_exceeded_by_no_more_than_the_difference")
def every_host_has_a_bucket(patch: pytest.MonkeyPatch) -> None:
    take = SqliteStore.take

    def of_its_own(self: SqliteStore, takes: Sequence[Take]) -> Sequence[float]:
        return take(self, [msgspec.structs.replace(each, part=f"{each.part}{id(self)}") for each in takes])

    patch.setattr(SqliteStore, "take", of_its_own)


@shared_caught_by("test_a_place_held_for_long_is_not_free_for_those_ahead")
def places_are_free_for_those_ahead(patch: pytest.MonkeyPatch) -> None:
    hold = SqliteStore.hold

    def short(self: SqliteStore, holds: Sequence[Hold]) -> Sequence[int]:
        return hold(self, [msgspec.structs.replace(each, seconds=1.0) for each in holds])

    patch.setattr(SqliteStore, "hold", short)


@shared_caught_by("test_what_is_cut_off_is_there_as_a_whole_or_not_at_all")
def what_is_cut_off_is_made_by_half(patch: pytest.MonkeyPatch) -> None:
    commit, cuts = SqliteStore.commit, iter([True] * 3)

    def half(self: SqliteStore, changes: Sequence[Change]) -> Sequence[Changed]:
        if not next(cuts, False):
            return commit(self, changes)
        commit(self, [msgspec.structs.replace(each, writes=each.writes[:1]) for each in changes])
        raise StoreUnavailable("cut off")

    patch.setattr(SqliteStore, "commit", half)


@pytest.mark.parametrize(("fault", "test"), SHARED_FAULTS)
def test_the_contract_turns_red_for_a_shared_store_with_this_fault(
    fault: Fault, test: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge_shared(test, tmp_path / "right.db")

    fault(monkeypatch)
    with pytest.raises(RED):
        judge_shared(test, tmp_path / "wrong.db")


CARELESS = """
import msgspec
from dray_backends.sqlite_store import SqliteStore

class Careless(SqliteStore):
    def commit(self, changes):
        return super().commit([msgspec.structs.replace(change, checks=()) for change in changes])
"""


def test_the_contract_turns_red_when_processes_do_not_heed_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Processes(OnSqlite):
        def elsewhere(self, store: Store) -> tuple[str, str]:
            return "careless:Careless", store.url.reveal()

    (tmp_path / "careless.py").write_text(CARELESS)
    monkeypatch.syspath_prepend(tmp_path)
    with closing(SqliteStore(Url.parse(f"sqlite:///{tmp_path}/records.db"))) as store, pytest.raises(RED):
        store.open()
        Processes().test_of_processes_that_claim_the_same_one_succeeds(store)
