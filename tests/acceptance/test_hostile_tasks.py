"""Tasks that do to their process what no task should: the worker goes on, says what happened, and loses nothing.

What is done to a process is done to all that shares it. So `os._exit` ends a worker of threads, and closed descriptors
cut it from its broker; with `-P processes` it is one child of many (see tests of that pool).
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable

import pytest

from dray.testing.faults import wait_until

from .conftest import EMPTY, LONG_LEASE, Crew, WorkerProcess

PATIENCE = 60.0


def works(crew: Crew, worker: WorkerProcess) -> None:
    """Check that the worker still takes in tasks, and that what it says still arrives."""
    ids = [crew.send("quick", n) for n in range(5)]
    wait_until(lambda: not crew.ledger.missing(ids), PATIENCE)
    wait_until(lambda: crew.sizes() == EMPTY, PATIENCE)
    wait_until(lambda: worker.said(f"{ids[-1]}] succeeded"), PATIENCE)
    assert worker.alive


@pytest.fixture
def rude(crew: Crew) -> Callable[..., str]:
    """Send a task of rude_shop, and return its id."""

    def send(task: str, *args: object, **options: object) -> str:
        return crew.app.send_task(f"rude_shop.{task}", args, **options).id  # type: ignore[arg-type]

    return send


def started(crew: Crew, **environment: str) -> WorkerProcess:
    # Settings of the worker alone: the sender has no results to wait for, and looks for states.
    made = crew.worker("-I", "rude_shop", "-c", "4", "--shutdown-timeout", "2", **environment)
    made.wait_until_ready()
    return made


@pytest.fixture
def worker(crew: Crew) -> WorkerProcess:
    return started(crew)


def ended(crew: Crew, id: str) -> None:
    wait_until(lambda: crew.states([id]) <= {"SUCCESS", "FAILURE"}, PATIENCE)


@pytest.mark.parametrize(
    ("task", "state"),
    [
        ("prints_binary", "SUCCESS"),
        ("starts_threads", "SUCCESS"),
        ("starts_coroutines", "SUCCESS"),
        # Threads may not do that; Python tells the task so.
        ("sets_signal_handlers", "FAILURE"),
        ("forks", "SUCCESS"),
        ("forks_and_stays", "SUCCESS"),
        ("changes_directory", "SUCCESS"),
    ],
)
def test_the_worker_goes_on_and_stops_when_asked(crew: Crew, rude: Callable[..., str], task: str, state: str) -> None:
    worker = started(crew, DRAY_WORKER_LEASE=LONG_LEASE)
    id = rude(task)
    ended(crew, id)
    assert crew.states([id]) == {state}
    works(crew, worker)
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0
    assert crew.sizes() == EMPTY
    assert not crew.ledger.repeated()


def test_a_task_that_forks_gets_the_exit_code_of_its_child_which_does_not_stay(
    crew: Crew, rude: Callable[..., str], worker: WorkerProcess
) -> None:
    came_back, stays = rude("forks"), rude("forks_and_stays")
    assert crew.app.AsyncResult(came_back).get(timeout=PATIENCE) == 1
    # A child is not deaf to the signals that its worker heeds.
    assert crew.app.AsyncResult(stays).get(timeout=PATIENCE) == [-signal.SIGTERM]


def standard_files(worker: WorkerProcess) -> list[str]:
    return [os.readlink(f"/proc/{worker.pid}/fd/{number}") for number in range(3)]


def test_standard_streams_that_a_task_closes_are_open_again(
    crew: Crew, rude: Callable[..., str], worker: WorkerProcess
) -> None:
    before = standard_files(worker)
    ended(crew, rude("closes_standard_streams"))
    # stdin is /dev/null here. Where SQLite was the first to open a file it has put that there, and nothing is to do.
    for number, name in ((1, "stdout"), (2, "stderr")):
        wait_until(lambda: worker.said(f"file descriptor {number} ({name}); it is open again"), PATIENCE)  # noqa: B023
    assert standard_files(worker) == before
    id = rude("prints_binary")
    ended(crew, id)
    assert crew.states([id]) == {"SUCCESS"}
    works(crew, worker)


def test_signal_handlers_that_an_extension_changes_are_set_again(
    crew: Crew, rude: Callable[..., str], worker: WorkerProcess
) -> None:
    ended(crew, rude("sets_signal_handlers_in_c"))
    for name in ("SIGTERM", "SIGUSR1"):
        wait_until(lambda: worker.said(f"a task has changed what {name} does; this worker heeds it again"))  # noqa: B023
    works(crew, worker)
    worker.send(signal.SIGUSR1)
    wait_until(lambda: worker.said("thread MainThread"))
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0


def test_signal_handlers_that_a_task_in_the_main_thread_changes_are_set_again(
    crew: Crew, rude: Callable[..., str]
) -> None:
    worker = crew.worker("-I", "rude_shop", "-P", "solo")
    worker.wait_until_ready()
    id = rude("sets_signal_handlers")
    wait_until(lambda: worker.said("a task has changed what SIGTERM does; this worker heeds it again"))
    assert crew.states([id]) == {"SUCCESS"}
    works(crew, worker)
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0


def test_a_task_that_signals_its_own_process_has_the_worker_stop_in_order(
    crew: Crew, rude: Callable[..., str], worker: WorkerProcess
) -> None:
    id = rude("kills_its_process")
    assert worker.ended() == 0
    assert worker.said("stopping: ") and crew.states([id]) == {"SUCCESS"}
    assert crew.sizes() == EMPTY


def test_a_task_that_heeds_nothing_is_given_back_and_runs_elsewhere(
    crew: Crew, rude: Callable[..., str], worker: WorkerProcess
) -> None:
    id = rude("ignores_every_exception", 3600.0)
    wait_until(lambda: crew.ledger.runs().get(id))
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0
    assert worker.said("1 task(s) did not end in time and are given back: rude_shop.ignores_every_exception")
    assert crew.sizes() == {**EMPTY, "ready": 1}


def test_a_task_that_ends_its_process_ends_a_worker_of_threads_and_is_buried(
    crew: Crew, rude: Callable[..., str]
) -> None:
    id = rude("exits")
    others = [crew.send("quick", n) for n in range(20)]
    codes = []
    for _ in range(3):
        worker = crew.worker("-I", "rude_shop", "-c", "1", "--prefetch-multiplier", "1")
        codes.append(worker.ended())
    assert codes == [11] * 3
    last = crew.worker("-I", "rude_shop", "-c", "1")
    wait_until(lambda: crew.sizes() == {**EMPTY, "dead": 1}, PATIENCE)
    assert not crew.ledger.missing(others)
    assert crew.ledger.runs()[id] == 3
    last.send(signal.SIGTERM)
    assert last.ended() == 0


@pytest.mark.timeout(500)
def test_descriptors_that_a_task_closes_cost_the_connections_and_no_message(
    crew: Crew, rude: Callable[..., str], worker: WorkerProcess
) -> None:
    before = [crew.send("quick", n) for n in range(50)]
    # Alone: it would also close the ledger in the hands of others.
    wait_until(lambda: not crew.ledger.missing(before))
    id = rude("closes_descriptors")
    wait_until(lambda: not crew.ledger.missing([id]))
    after = [crew.send("quick", n) for n in range(50)]
    # How it goes on depends on what the numbers are used for next; that the log still arrives does not.
    worker.send(signal.SIGTERM)
    code = worker.ended(PATIENCE)
    assert code in (0, 1) and worker.said("stopped; ") == (code == 0)
    # What the first one could not give back is lent for a whole lease. And making the connections anew may take longer
    # than that: then it is delivered again, does the same to the next worker, and is buried at last.
    codes = [code]
    while len(codes) == 1 or (codes[-1] != 0 and len(codes) <= 3):
        codes.append(crew.worker("-I", "rude_shop", "--burst").ended(2 * PATIENCE))
    assert codes[-1] == 0 and set(codes) <= {0, 1}
    wait_until(lambda: crew.sizes() in (EMPTY, {**EMPTY, "dead": 1}), PATIENCE)
    # Delivered again, it may close the ledger in the hands of others, and so may SQLite, which closes by their numbers
    # files that are not there any more: those tasks fail, and say why. Nothing else does.
    outcomes = [crew.app.AsyncResult(id) for id in before + after]
    failed = {outcome.id: outcome.result for outcome in outcomes if outcome.state != "SUCCESS"}
    assert all(isinstance(error, OSError) and error.errno == errno.EBADF for error in failed.values()), failed
    assert len(failed) < len(after)
    assert not crew.ledger.missing({*before, *after} - failed.keys())
