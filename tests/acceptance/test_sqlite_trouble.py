"""The file under a running worker locked, deleted or full: the worker stays, says so, and recovers."""

from __future__ import annotations

import resource
import sqlite3
import sys

import pytest

from dray.testing.faults import wait_until

from .conftest import EMPTY, LONG_LEASE, Crew


def test_a_database_locked_for_some_seconds_is_waited_for(crew: Crew) -> None:
    crew.environment["DRAY_BROKER_URL"] = f"{crew.url}?timeout=0.2"
    worker = crew.worker("-c", "2")
    ids = [crew.send("quick", n) for n in range(200)]
    wait_until(crew.ledger.runs)
    lock = sqlite3.connect(crew.file, isolation_level=None, timeout=10)
    try:
        lock.execute("BEGIN IMMEDIATE")
        wait_until(lambda: worker.said("broker away") >= 1, timeout=20)
        lock.execute("ROLLBACK")
    finally:
        lock.close()
    ids += [crew.send("quick", n) for n in range(200, 250)]
    crew.wait_until_done(timeout=20)
    assert worker.alive
    assert not crew.ledger.missing(ids)
    assert crew.states(ids) == {"SUCCESS"}


def test_a_result_file_deleted_under_a_worker_is_made_again(crew: Crew) -> None:
    crew.environment["DRAY_WORKER_LEASE"] = LONG_LEASE
    results = crew.folder / "results.db"
    crew.environment["DRAY_RESULT_BACKEND"] = f"sqlite:///{results}"
    worker = crew.worker("-c", "2")
    first = [crew.send("quick", n) for n in range(50)]
    crew.wait_until_done(timeout=20)
    assert crew.states(first) == {"SUCCESS"}
    for name in ("", "-wal", "-shm"):
        (crew.folder / f"results.db{name}").unlink(missing_ok=True)
    crew.app.close()
    second = [crew.send("quick", n) for n in range(50)]
    crew.wait_until_done(timeout=20)
    assert worker.alive
    assert crew.states(second) == {"SUCCESS"}
    assert not crew.ledger.repeated()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux changes the limits of another process")
def test_a_disk_without_room_is_waited_for(crew: Crew) -> None:
    worker = crew.worker("-c", "2")
    ids = [crew.send("quick", n) for n in range(50)]
    crew.wait_until_done(timeout=20)
    # No file of the worker's may grow beyond what the log of the database has by now, which is what a full disk does.
    unlimited = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)
    size = (crew.folder / "queue.db-wal").stat().st_size
    assert worker.log.stat().st_size * 3 < size
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (size, unlimited[1]))
    ids += [crew.send("quick", n) for n in range(100)]
    wait_until(lambda: worker.said("away") >= 1)
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, unlimited)
    crew.wait_until_done(timeout=30)
    assert worker.alive
    assert not crew.ledger.missing(ids)
    assert crew.states(ids) == {"SUCCESS"}


def test_a_broker_file_deleted_under_a_worker_is_made_again(crew: Crew) -> None:
    worker = crew.worker("-c", "2")
    first = [crew.send("quick", n) for n in range(20)]
    crew.wait_until_done(timeout=20)
    for name in ("", "-wal", "-shm"):
        (crew.folder / f"queue.db{name}").unlink(missing_ok=True)
    crew.app.close()
    second = [crew.send("quick", n) for n in range(20)]
    wait_until(lambda: not crew.ledger.missing(second), timeout=30)
    crew.wait_until_done(timeout=20)
    assert worker.alive
    assert crew.sizes() == EMPTY
    assert not crew.ledger.missing([*first, *second])
