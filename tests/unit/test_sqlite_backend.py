"""What the result backend contract cannot say of sqlite://: shared files, other processes, broken files, sweeping."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import dray_backends.sqlite as adapter
from dray import BackendError, BackendUnavailable, Envelope, ManualClock, Record, Url, UrlError
from dray_backends.sqlite import SqliteBackend
from dray_brokers.sqlite import SqliteBroker


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.db"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def backend(path: Path, clock: ManualClock) -> Iterator[SqliteBackend]:
    backend = at(path)
    backend.clock = clock
    backend.open()
    yield backend
    backend.close()


def at(path: Path, options: str = "") -> SqliteBackend:
    return SqliteBackend(Url.parse(f"sqlite:///{path}{options}"))


def done(id: str, body: bytes = b"42", rank: int = 0) -> Record:
    return Record(id=id, state="SUCCESS", final=True, body=body, rank=rank)


def kept(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return [id for (id,) in db.execute("SELECT id FROM dray_result ORDER BY id")]


def test_expired_records_are_swept_by_later_ones(backend: SqliteBackend, clock: ManualClock, path: Path) -> None:
    backend.store([done("old")], ttl=10)
    clock.advance(11)
    assert backend.fetch(["old"]) == {}
    backend.store([done("new")], ttl=10)
    assert kept(path) == ["new"]


def test_a_sweep_is_small_and_not_repeated_at_once(
    backend: SqliteBackend, clock: ManualClock, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "SWEEP", 2)
    backend.store([done(id) for id in "abcde"], ttl=10)
    clock.advance(11)
    backend.store([done("x")], ttl=None)
    backend.store([done("y")], ttl=None)
    assert len(kept(path)) == 3 + 2
    clock.advance(adapter.SWEEP_EVERY)
    backend.store([done("z")], ttl=None)
    assert len(kept(path)) == 1 + 3


def test_purge_goes_on_until_nothing_is_expired(
    backend: SqliteBackend, clock: ManualClock, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "SWEEP", 2)
    backend.store([done(id) for id in "abcde"], ttl=10)
    backend.store([done("kept")], ttl=None)
    clock.advance(11)
    assert backend.purge() == 5
    assert kept(path) == ["kept"]


def test_an_expired_final_record_does_not_outrank_a_new_one(backend: SqliteBackend, clock: ManualClock) -> None:
    backend.store([done("a", rank=5)], ttl=10)
    clock.advance(11)
    backend.store([Record(id="a", state="STARTED", final=False, body=b"", rank=0)], ttl=10)
    assert backend.fetch(["a"])["a"].state == "STARTED"


STORE = """
import sys
from dray import Record, Url
from dray_backends.sqlite import SqliteBackend
backend = SqliteBackend(Url.parse(f"sqlite:///{sys.argv[1]}"))
backend.open()
sys.stdin.readline()
backend.store([Record(id="a", state="SUCCESS", final=True, body=b"from afar")], 60)
backend.close()
"""


def test_a_result_stored_by_another_process_ends_the_wait(path: Path) -> None:
    backend = at(path)
    backend.open()
    command = [sys.executable, "-c", STORE, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        other.stdin.write("\n")
        other.stdin.close()
        assert backend.wait(["a", "b"], 60)["a"].body == b"from afar"
    assert other.returncode == 0
    backend.close()


def test_closing_ends_a_wait(backend: SqliteBackend) -> None:
    found: list[object] = []

    def wait() -> None:
        try:
            found.append(backend.wait(["a"], 60))
        except BackendUnavailable:
            found.append({})  # it was closed before the wait began

    waiting = threading.Thread(target=wait)
    waiting.start()
    backend.close()
    waiting.join(10)
    assert found == [{}]


def test_broker_and_backend_may_share_a_file(backend: SqliteBackend, path: Path) -> None:
    broker = SqliteBroker(Url.parse(f"sqlite:///{path}"))
    broker.open()
    broker.publish([Envelope(id="a", queue="q", body=b"")])
    backend.store([done("a")], ttl=None)
    assert [delivery.id for delivery in broker.consumer(["q"], 30).receive(1, 0)] == ["a"]
    assert backend.fetch(["a"])["a"].body == b"42"
    broker.close()


def test_a_locked_file_is_unavailable(backend: SqliteBackend, path: Path) -> None:
    impatient = at(path, "?timeout=0.05")
    impatient.open()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BackendUnavailable, match="is locked"):
            impatient.store([done("a")], ttl=None)
        assert impatient.fetch(["a"]) == {}
    impatient.store([done("a")], ttl=None)
    impatient.close()


def test_a_full_disk_is_unavailable(backend: SqliteBackend) -> None:
    backend.store([done("before")], ttl=None)
    with backend._file.alone() as db:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(BackendUnavailable, match="disk full"):
        backend.store([done("big", b"x" * 100_000)], ttl=None)
    assert list(backend.fetch(["before", "big"])) == ["before"]


def test_files_that_cannot_be_used_are_refused_in_words(path: Path, tmp_path: Path) -> None:
    path.write_text("not a database at all, " * 50)
    for place, words in (
        (path, "is not an SQLite database"),
        (tmp_path, "is a folder"),
        (tmp_path / "nowhere" / "results.db", "there is no folder"),
    ):
        with pytest.raises(BackendError, match=words) as caught:
            at(place).open()
        assert not isinstance(caught.value, BackendUnavailable)
    with pytest.raises(UrlError, match="three slashes"):
        SqliteBackend(Url.parse("sqlite://results.db"))


def test_tables_of_a_newer_dray_are_refused(backend: SqliteBackend, path: Path) -> None:
    backend.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE dray_schema SET version = 99")
    with pytest.raises(BackendError, match=r"made by a newer dray: its backend tables have version 99"):
        backend.open()


@pytest.mark.parametrize(("sql", "index"), [("FETCH", "(id=?)"), ("IS_FINAL", "(id=?)"), ("PURGE_SOME", "(expires<?)")])
def test_no_everyday_statement_scans_the_table(backend: SqliteBackend, sql: str, index: str) -> None:
    with backend._file.reading() as db:
        steps = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {getattr(adapter, sql)}", (1, 1))]
    assert [step for step in steps if step.startswith("SCAN")] == []
    assert any(step.endswith(index) for step in steps)


def test_who_waits_while_the_file_is_opened_anew_goes_on_waiting(path: Path) -> None:
    found: list[str] = []
    with closing(at(path)) as backend:
        backend.open()
        waiting = threading.Thread(target=lambda: found.extend(backend.wait(["late"], 20)))
        waiting.start()
        for _ in range(300):
            backend.open()
        backend.store([done("late")], ttl=None)
        waiting.join(20)
    assert found == ["late"]
