"""The DynamoDB store against the contract and in its own ways, on a stand-in that makes transactions one by one."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import pytest

from dray import (
    Absent,
    Add,
    Change,
    Delete,
    Due,
    Index,
    Put,
    Store,
    StoreError,
    StoreUnavailable,
    Unindex,
    Url,
)
from dray.testing import StoreContract
from dray.testing.background import Background
from dray_backends import dynamodb_store
from dray_backends.dynamodb_store import DynamoStore
from dray_backends.dynamodb_table import Met

from ..servers.sqs import MiniStackServer

#: A time to live that no test outlives (seconds), and one that is over (as soon as a change was made with it).
LONG, OVER = 300.0, 1e-6


@pytest.fixture
def store(ministack_server: MiniStackServer, tmp_path: Path) -> Iterator[DynamoStore]:
    """A store on a table of its own, dropped afterwards."""
    place = f"endpoint={ministack_server.endpoint}&table=test-{secrets.token_hex(6)}"
    store = DynamoStore(Url.parse(f"dynamodb://test:test@?region=us-east-1&{place}"))
    store.open()
    yield store
    store.open()
    store._table._client.delete_table(TableName=store._table.options.table)
    store.close()


class TestDynamoStore(StoreContract):
    # Long enough for a call to a server on a busy machine.
    ttl = 1.0

    @pytest.fixture
    def store(self, store: DynamoStore) -> Store:
        return store

    def cut(self, store: Store) -> None:
        assert isinstance(store, DynamoStore)
        store._table._client.close()


def everything(store: DynamoStore) -> list[dict[str, Any]]:
    """Return all items of a store's table."""
    found = store._table._client.scan(TableName=store._table.options.table)["Items"]
    assert isinstance(found, list)
    return found


def test_a_change_of_more_items_than_a_transaction_takes_is_refused_whole(store: DynamoStore) -> None:
    def refused(change: Change) -> None:
        with pytest.raises(StoreError, match="100") as refusal:
            store.commit([change])
        assert not isinstance(refusal.value, StoreUnavailable)

    refused(Change("p", writes=tuple(Put(f"{n}", b"") for n in range(100))))
    refused(Change("p", writes=tuple(Index("i", f"{n}", 1.0) for n in range(50))))
    assert everything(store) == []
    store.commit([Change("p", writes=tuple(Put(f"{n}", b"") for n in range(99)))])
    assert len(store.scan("p")) == 99
    refused(Change("p", reads=tuple(f"{n}" for n in range(100))))


def test_a_batch_that_others_or_an_error_are_in_the_way_of_is_made_in_smaller_parts_in_order(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    write = store._table.write

    def busy(actions: Sequence[dict[str, Any]]) -> None:
        sizes.append(len(actions))
        if len(actions) > 4:
            raise Met
        write(actions)

    monkeypatch.setattr(store._table, "write", busy)
    done = store.commit([Change(f"p{n}", writes=(Put("a", b"%d" % n), Add("n"))) for n in range(4)])
    assert [each.applied for each in done] == [True] * 4
    assert sizes == [12, 6, 3, 3, 6, 3, 3]
    with pytest.raises(StoreError, match="no count"):
        store.commit([Change("p0", writes=(Put("b", b""),)), Change("p1", writes=(Put("c", b"x"), Add("c")))])
    assert (store.get("p0", "b"), store.get("p1", "c")) == ({"b": b""}, {})


def test_whoever_is_always_too_late_says_so(store: DynamoStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(actions: Sequence[dict[str, Any]]) -> None:
        raise Met

    monkeypatch.setattr(dynamodb_store, "TRIES", 3)
    monkeypatch.setattr(store._table, "write", busy)
    with pytest.raises(StoreUnavailable, match="others changed 'p'"):
        store.commit([Change("p", writes=(Put("a", b""),))])


def test_a_partition_that_is_empty_leaves_nothing(store: DynamoStore) -> None:
    store.commit([Change("p", writes=(Put("a", b"1"), Index("i", "k", 1.0)), ttl=LONG)])
    store.commit([Change("p", writes=(Delete("a"), Unindex("i", "k")))])
    store.commit(
        [Change("q", writes=(Delete("a"),)), Change("r", (Absent("a"),)), Change("s", writes=(Put("a", b""),), ttl=0.0)]
    )
    assert everything(store) == []


def test_of_a_forgotten_partition_everything_is_cleared_away(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamodb_store, "SWEEP_EVERY", inf)
    for start in range(0, 120, 40):
        store.commit([Change("p", writes=tuple(Put(f"{n}", b"") for n in range(start, start + 40)))])
    store.commit([Change("p", writes=(Index("i", "k", 1.0),), ttl=OVER)])
    store.commit([Change("q", writes=(Put("a", b""),), ttl=LONG)])
    assert store.scan("p") == []
    assert store.purge() == 1
    assert store.purge() == 0
    store.commit([Change("q", writes=(Delete("a"),))])
    assert everything(store) == []


def test_what_begins_anew_is_not_touched_by_clearing_away_the_old(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamodb_store, "SWEEP_EVERY", inf)
    store.commit([Change("p", writes=(Put("a", b"old"), Index("i", "k", 1.0), Index("i", "gone", 2.0)), ttl=OVER)])
    store.commit([Change("p", writes=(Put("b", b"new"), Index("i", "k", 1.0)))])
    assert store.purge() == 0
    assert store.scan("p") == [("b", b"new")]
    assert store.due("i", inf, 10) == [Due(1.0, "p", "k")]


def test_now_and_then_a_change_clears_away_what_is_forgotten(store: DynamoStore) -> None:
    store.commit([Change("p", writes=(Put("a", b""),), ttl=OVER)])
    store._next_sweep = 0.0
    store.commit([Change("q", writes=(Put("a", b""),))])
    assert len(everything(store)) == 2


def test_reading_what_is_forgotten_writes_nothing(store: DynamoStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.commit([Change("p", writes=(Put("a", b""),), ttl=OVER)])
    before = everything(store)
    assert store.commit([Change("p", (Absent("a"),), (), ("a",))])[0].applied
    assert everything(store) == before


def test_a_store_that_remembers_nothing_finds_the_records_of_others(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit([Change(f"p{n}", writes=(Put("a", b"%d" % n), Index("i", "k", 1.0))) for n in range(5)])
    monkeypatch.setattr(dynamodb_store, "REMEMBERED", 2)
    other = DynamoStore(store.url)
    other.open()
    done = other.commit([Change(f"p{n}", reads=("a",)) for n in range(5)])
    assert [each.values for each in done] == [{"a": b"%d" % n} for n in range(5)]
    other.close()


def test_setup_says_what_it_has_made_and_without_the_right_the_table_has_to_be_there(
    store: DynamoStore, ministack_server: MiniStackServer
) -> None:
    place = f"endpoint={ministack_server.endpoint}&table=test-{secrets.token_hex(6)}&create=no"
    other = DynamoStore(Url.parse(f"dynamodb://test:test@?region=us-east-1&{place}"))
    with pytest.raises(StoreError, match=r"create=no.*dray setup"):
        other.open()
    assert len(other.setup()) == 1
    assert list(other.setup()) == []
    other.open()
    other._table._client.delete_table(TableName=other._table.options.table)
    with pytest.raises(StoreUnavailable, match="dray setup"):
        other.get("p", "a")
    other.close()


def test_a_lost_table_is_made_again(store: DynamoStore) -> None:
    store._table._client.delete_table(TableName=store._table.options.table)
    with pytest.raises(StoreUnavailable, match="open"):
        store.commit([Change("p", writes=(Put("a", b""),))])
    store.open()
    assert store.commit([Change("p", writes=(Put("a", b""),))])[0].applied


def test_members_that_come_at_once_are_counted_in_turn(store: DynamoStore) -> None:
    adding = [Background(partial(store.add_member, "p", "g", f"{n}", b"")) for n in range(6)]
    assert sorted(each.result() for each in adding) == [(True, n) for n in range(1, 7)]
