"""What the store contract cannot say of sqlite://: shared files, deaths at a chosen instant, broken files, sweeping."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from math import inf
from pathlib import Path

import pytest

import dray_backends.sqlite_store as adapter
from dray import (
    Absent,
    Add,
    Change,
    Delete,
    Due,
    Envelope,
    Hold,
    Index,
    ManualClock,
    Put,
    Record,
    StoreError,
    StoreUnavailable,
    Take,
    Unindex,
    Url,
    UrlError,
)
from dray.testing.faults import wait_until
from dray_backends.sqlite import SqliteBackend
from dray_backends.sqlite_store import SqliteStore
from dray_brokers.sqlite import SqliteBroker


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.db"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(path: Path, clock: ManualClock) -> Iterator[SqliteStore]:
    store = at(path)
    store.clock = clock
    store.open()
    yield store
    store.close()


def at(path: Path, options: str = "") -> SqliteStore:
    return SqliteStore(Url.parse(f"sqlite:///{path}{options}"))


def put(part: str, *keys: str, ttl: float | None = None) -> Change:
    return Change(part, writes=tuple(Put(key, b"v") for key in keys), ttl=ttl)


def rows(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute(f"SELECT count(*) FROM dray_{table}").fetchone()[0])


# Forgetting, without making anyone wait


def test_what_is_over_is_swept_by_later_commits(store: SqliteStore, clock: ManualClock, path: Path) -> None:
    store.commit([Change("old", writes=(Put("a", b""), Index("i", "k", 1.0)), ttl=10.0)])
    clock.advance(11)
    store.commit([put("new", "a")])
    assert [rows(path, table) for table in ("part", "record", "entry")] == [1, 1, 0]


def test_a_limit_or_a_lock_sweeps_too(store: SqliteStore, clock: ManualClock, path: Path) -> None:
    store.commit([put("old", "a", ttl=10.0)])
    clock.advance(11)
    store.hold([Hold("l", "me", 60.0)])
    assert rows(path, "part") == 1


def test_a_sweep_is_small_and_not_repeated_at_once(
    store: SqliteStore, clock: ManualClock, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "SWEEP", 3)
    store.commit([put("old", *"abcdefg", ttl=10.0)])
    clock.advance(11)
    store.commit([put("x", "a")])
    store.commit([put("x", "b")])
    assert rows(path, "record") == 7 - 3 + 2
    clock.advance(adapter.SWEEP_EVERY)
    store.commit([put("x", "c")])
    assert rows(path, "record") == 7 - 6 + 3
    assert store.scan("old") == []


def test_a_large_partition_begins_anew_before_it_is_swept(
    store: SqliteStore, clock: ManualClock, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "SWEEP", 2)
    store.commit([Change("p", writes=(*(Put(key, b"old") for key in "abcdefg"), Index("i", "k", 1.0)), ttl=10.0)])
    clock.advance(11)
    store.commit([Change("p", writes=(Put("a", b"new"), Index("i", "k", 2.0)))])
    assert rows(path, "record") > 2
    assert store.scan("p") == [("a", b"new")]
    assert store.due("i", inf, 10) == [Due(2.0, "p", "k")]
    assert store.purge() == 1
    assert [rows(path, table) for table in ("part", "record", "entry")] == [1, 1, 1]
    assert store.scan("p") == [("a", b"new")]


def test_nobody_goes_on_with_what_a_sweep_has_left(
    store: SqliteStore, clock: ManualClock, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "SWEEP", 2)
    store.commit([put("p", *"abcde", ttl=10.0)])
    with closing(at(path)) as ahead:
        ahead.clock = ManualClock(clock.time() + 11)
        ahead.open()
        ahead.commit([put("q", "a")])
    assert store.scan("p") == []
    store.commit([put("p", "new", ttl=60.0)])
    assert store.scan("p") == [("new", b"v")]


def test_purge_goes_on_until_nothing_is_over(
    store: SqliteStore, clock: ManualClock, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "SWEEP", 2)
    store.commit([put(part, *"abc", ttl=10.0) for part in "pqr"] + [put("kept", "a")])
    clock.advance(11)
    assert store.purge() == 3
    assert [rows(path, table) for table in ("part", "record")] == [1, 1]


def test_a_partition_from_which_everything_was_taken_leaves_nothing(store: SqliteStore, path: Path) -> None:
    store.commit([Change("p", writes=(Put("a", b""), Index("i", "k", 1.0)))])
    store.commit([Change("p", writes=(Delete("a"),))])
    assert rows(path, "part") == 1
    store.commit([Change("p", writes=(Unindex("i", "k"),)), Change("q", writes=(Delete("a"), Unindex("i", "k")))])
    assert rows(path, "part") == 0


# One transaction


def test_a_batch_of_wishes_is_one_transaction_and_so_is_a_batch_of_changes(store: SqliteStore) -> None:
    begun: list[str] = []
    with store._file.alone() as db:
        db.set_trace_callback(lambda sql: begun.append(sql) if sql.startswith("BEGIN") else None)
    store.take([Take(part, 1.0) for part in "abc"])
    store.hold([Hold(part, "me", 60.0) for part in "def"])
    store.let_go([Hold(part, "me", 60.0) for part in "def"])
    store.commit([put("p", "a"), Change("q", (Absent("a"),), (Add("n"),)), Change("p", reads=("a",))])
    assert begun == ["BEGIN IMMEDIATE"] * 4


def test_reads_wait_for_nobody_who_writes(store: SqliteStore, path: Path) -> None:
    store.commit([Change("p", writes=(Put("a", b"1"), Index("i", "k", 1.0)))])
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert store.get("p", "a") == {"a": b"1"}
        assert store.scan("p") == [("a", b"1")]
        assert store.due("i", inf, 1) == [Due(1.0, "p", "k")]
        (done,) = store.commit([Change("p", (Absent("a"),), reads=("a",))])
        assert (done.applied, done.values) == (False, {"a": b"1"})


# Other processes

DIE = """
import os, signal, sys
import dray_backends.sqlite_store as adapter
from dray import Add, Change, Put, Url
store = adapter.SqliteStore(Url.parse(f"sqlite:///{sys.argv[1]}"))
store.open()
store.commit([Change("p", writes=(Put("before", b"1"), Add("n")))])
make = adapter._make
def die(db, change, now):
    make(db, change, now)
    if change.part == "last":
        os.kill(os.getpid(), signal.SIGKILL)
    return None
adapter._make = die
store.commit([Change("p", writes=(Put("after", b"2"), Add("n"))), Change("last", writes=(Put("a", b""),))])
"""


def test_a_process_that_dies_within_a_commit_leaves_none_of_it_and_no_lock(store: SqliteStore, path: Path) -> None:
    assert ran(DIE, path) == -signal.SIGKILL
    assert store.get("p", "before", "after", "n") == {"before": b"1", "n": b"1"}
    assert store.scan("last") == []
    store.commit([Change("p", writes=(Add("n"),))])
    assert store.get("p", "n") == {"n": b"2"}


CHANGE = """
import sys
from dray import Change, Put, Url
from dray_backends.sqlite_store import SqliteStore
store = SqliteStore(Url.parse(f"sqlite:///{sys.argv[1]}"))
store.open()
store.commit([Change("p", writes=(Put("a", b"from afar"),))])
store.close()
"""


def test_a_change_made_by_another_process_ends_the_watch(path: Path) -> None:
    store = at(path)
    store.open()
    watching = threading.Thread(target=store.watch, args=("p", 60.0))
    watching.start()
    assert ran(CHANGE, path) == 0
    watching.join(20)
    assert not watching.is_alive()
    assert store.get("p", "a") == {"a": b"from afar"}
    store.close()


def test_a_watch_goes_on_while_others_are_changed(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    look = store._changes
    monkeypatch.setattr(store, "_changes", lambda part: (looks.append(part), look(part))[1])
    watching = threading.Thread(target=store.watch, args=("p", 60.0))
    watching.start()
    wait_until(lambda: len(looks) >= 2)
    store.commit([put("another", "a")])
    wait_until(lambda: len(looks) >= 3)
    store.commit([put("another", "b")])
    wait_until(lambda: len(looks) >= 4)
    assert watching.is_alive()
    store.commit([put("p", "a")])
    watching.join(20)
    assert not watching.is_alive()


def test_a_partition_that_was_dropped_and_made_anew_has_changed(store: SqliteStore) -> None:
    store.commit([put("p", "a")])
    before = store._changes("p")
    store.commit([Change("p", writes=(Delete("a"),)), put("p", "a")])
    assert store._changes("p") != before


def test_closing_ends_a_watch(store: SqliteStore) -> None:
    ended: list[str] = []

    def watch() -> None:
        try:
            store.watch("p", 60.0)
        except StoreUnavailable as error:
            ended.append(str(error))

    watching = threading.Thread(target=watch)
    watching.start()
    store.close()
    watching.join(20)
    assert len(ended) == 1


# Files


def test_broker_backend_and_store_may_share_a_file(store: SqliteStore, path: Path) -> None:
    url = Url.parse(f"sqlite:///{path}")
    with closing(SqliteBroker(url)) as broker, closing(SqliteBackend(url)) as backend:
        broker.open()
        backend.open()
        broker.publish([Envelope(id="a", queue="q", body=b"")])
        backend.store([Record(id="a", state="SUCCESS", final=True, body=b"42")], None)
        store.commit([put("a", "k")])
        assert [delivery.id for delivery in broker.consumer(["q"], 30).receive(1, 0)] == ["a"]
        assert backend.fetch(["a"])["a"].body == b"42"
        assert store.scan("a") == [("k", b"v")]
    with closing(sqlite3.connect(path)) as db:
        parts = [part for (part,) in db.execute("SELECT part FROM dray_schema ORDER BY part")]
    assert parts == ["backend", "broker", "store"]


def test_a_locked_file_is_unavailable(store: SqliteStore, path: Path) -> None:
    with closing(at(path, "?timeout=0.05")) as impatient, closing(sqlite3.connect(path, isolation_level=None)) as other:
        impatient.open()
        other.execute("BEGIN EXCLUSIVE")
        for write in (
            lambda: impatient.commit([put("p", "a")]),
            lambda: impatient.hold([Hold("l", "me", 60.0)]),
            lambda: impatient.take([Take("t", 60.0)]),
            impatient.purge,
        ):
            with pytest.raises(StoreUnavailable, match="is locked by another connection"):
                write()
        assert impatient.get("p", "a") == {}
        other.execute("ROLLBACK")
        assert impatient.hold([Hold("l", "me", 60.0)]) == [1]


def test_a_full_disk_is_unavailable_and_loses_nothing(store: SqliteStore) -> None:
    store.commit([put("p", "a")])
    with store._file.alone() as db:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreUnavailable, match="disk full"):
        store.commit([put("p", "b"), Change("p", writes=(Put("big", b"x" * 100_000),))])
    assert store.scan("p") == [("a", b"v")]
    store.commit([put("p", "c")])
    assert [key for key, _ in store.scan("p")] == ["a", "c"]


READ_ONLY = """
import os, sys
from dray import StoreError, StoreUnavailable, Url
from dray_backends.sqlite_store import SqliteStore
if os.geteuid() == 0:
    os.setuid(65534)    # root may write everything; nobody may not
try:
    SqliteStore(Url.parse(f"sqlite:///{sys.argv[1]}")).open()
except StoreUnavailable as error:
    sys.exit(f"trying again does not help: {error}")
except StoreError as error:
    sys.exit(0 if "is read-only" in str(error) else str(error))
sys.exit("it was opened")
"""


def test_a_file_that_may_not_be_written_is_refused() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records.db")
        store = at(path)
        store.open()
        store.close()
        os.chmod(path, 0o444)
        os.chmod(folder, 0o755)
        assert ran(READ_ONLY, path) == 0


def test_files_that_cannot_be_used_are_refused_in_words(path: Path, tmp_path: Path) -> None:
    path.write_text("not a database at all, " * 50)
    for place, words in (
        (path, "is not an SQLite database"),
        (tmp_path, "is a folder"),
        (tmp_path / "nowhere" / "records.db", "there is no folder"),
    ):
        with pytest.raises(StoreError, match=words) as caught:
            at(place).open()
        assert not isinstance(caught.value, StoreUnavailable)
    with pytest.raises(UrlError, match="three slashes"):
        SqliteStore(Url.parse("sqlite://records.db"))


def test_tables_of_a_newer_dray_are_refused(store: SqliteStore, path: Path) -> None:
    store.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE dray_schema SET version = 99")
    with pytest.raises(StoreError, match=r"made by a newer dray: its store tables have version 99"):
        store.open()


def test_the_url_says_what_survives_a_power_cut_and_the_doctor_what_that_means(path: Path) -> None:
    normal, full = at(path), at(path, "?synchronous=full")
    assert (normal.capabilities.durable, full.capabilities.durable) == (False, True)
    (advice,) = normal.advice()
    assert "power cut" in advice
    assert "?synchronous=full" in advice
    assert full.advice() == ()


# What keeps it fast, however much there is


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        ("FIND", "(name=?)"),
        ("CHANGES", "(name=?)"),
        ("TOUCH_UNTIL", "(rowid=?)"),
        ("DROP_EMPTY", "(part=?)"),
        ("GET", "(part=? AND key=?)"),
        ("SCAN", "(part=? AND key>?)"),
        ("REMOVE", "(part=? AND list=? AND key=?)"),
        ("DUE", "(list=? AND (at,name,key)>(?,?,?) AND at<?)"),
        ("OVER", "dray_part_until (until<?)"),
        ("SWEEP_RECORDS", "(part=? AND key=?)"),
        ("SWEEP_ENTRIES", "(part=? AND list=? AND key=?)"),
    ],
)
def test_no_everyday_statement_scans_or_sorts_a_table(store: SqliteStore, sql: str, index: str) -> None:
    statement = getattr(adapter, sql)
    names = re.findall(r":(\w+)", statement)
    values: object = dict.fromkeys(names, 1) or [1] * statement.count("?")
    with store._file.reading() as db:
        steps = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}", values)]  # type: ignore[call-overload]
    assert [step for step in steps if step.startswith("SCAN") or "TEMP B-TREE" in step] == []
    assert [step for step in steps if step.endswith(index)] != []


def ran(program: str, path: Path) -> int:
    done = subprocess.run([sys.executable, "-c", program, str(path)], timeout=60, check=False)
    return done.returncode
