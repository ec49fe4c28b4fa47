"""`dray worker --pool gevent`, killed in parts and as a whole: what is lost (nothing), who goes on, what is said."""

from __future__ import annotations

import os
import signal

import pytest

from dray.testing.faults import wait_until

from .conftest import LONG_LEASE, Crew, WorkerProcess
from .test_processes import SOON, PooledWorker, below, is_there, process_of, ready, send


def pool(crew: Crew, *arguments: str, **environment: str) -> WorkerProcess:
    log = crew.folder / f"pool{len(crew._workers)}.log"
    options = ["-l", "info", "--pool", "gevent", "-c", "50", *arguments]
    made = PooledWorker(options, {**crew.environment, **environment}, log)
    crew._workers.append(made)
    return made


def started(crew: Crew, **environment: str) -> WorkerProcess:
    made = pool(crew, **environment)
    made.wait_until_ready()
    return made


def test_a_worker_that_is_killed_loses_nothing_and_repeats_what_was_running(crew: Crew) -> None:
    first = started(crew)
    ids = [send(crew, "hold_on", 0.5) for _ in range(150)]
    wait_until(lambda: len(crew.ledger.runs()) > 150)
    first.kill()
    wait_until(lambda: not any(is_there(pid) for pid in ready(first)), SOON)
    running = crew.begun_and_not_settled()
    started(crew)
    crew.wait_until_done(40)
    runs = crew.ledger.runs()
    assert not crew.ledger.missing(ids)
    assert all(runs[f"{id}/end"] >= 1 for id in ids)
    assert {id for id in ids if runs[id] > 1} <= running


@pytest.mark.parametrize("task", ["hold_on", "keep_the_interpreter"])
def test_when_the_worker_is_killed_nothing_of_it_runs_on(crew: Crew, task: str) -> None:
    worker = started(crew)
    orphan = process_of(crew, send(crew, task, 20))
    children = below(worker.pid)
    assert orphan in children
    worker.kill()
    wait_until(lambda: not any(is_there(child) for child in children), SOON)


def test_a_killed_child_is_replaced_and_what_it_ran_runs_again(crew: Crew) -> None:
    worker = started(crew, DRAY_WORKER_LEASE=LONG_LEASE)
    ids = [send(crew, "hold_on", 2.0) for _ in range(10)]
    victim = process_of(crew, ids[0])
    for id in ids:
        process_of(crew, id)
    os.kill(victim, signal.SIGKILL)
    assert process_of(crew, ids[0], but=victim)
    crew.wait_until_done(20)
    runs = crew.ledger.runs()
    assert [runs[f"{id}/end"] for id in ids] == [1] * 10
    assert worker.said("its process died: killed by signal 9 (SIGKILL)") == 10


def test_a_task_that_lets_no_other_run_for_longer_than_a_lease_runs_once(crew: Crew) -> None:
    """The lease is 2 s: it is renewed by the worker, which the task cannot hold up."""
    worker = started(crew)
    id = send(crew, "keep_the_interpreter", 5)
    process_of(crew, id)
    others = [send(crew, "quick", n) for n in range(10)]
    crew.wait_until_done(20)
    runs = crew.ledger.runs()
    assert [runs[each] for each in (id, *others)] == [1] * 11
    assert worker.alive


def test_a_signal_to_all_processes_lets_tasks_end(crew: Crew) -> None:
    worker = started(crew, DRAY_WORKER_LEASE=LONG_LEASE)
    ids = [send(crew, "hold_on", 2.0) for _ in range(5)]
    for id in ids:
        process_of(crew, id)
    for pid in [worker.pid, *below(worker.pid)]:
        os.kill(pid, signal.SIGTERM)
    assert worker.ended() == 0
    runs = crew.ledger.runs()
    assert [runs[f"{id}/end"] for id in ids] == [1] * 5
    assert sum(name.startswith("closed@") for name in runs) == 1


def test_what_tasks_print_and_log_comes_out_of_the_worker(crew: Crew) -> None:
    worker = started(crew)
    send(crew, "speak")
    crew.wait_until_done(20)
    assert worker.said("printed by a task") == 1
    assert worker.said("WARNING shop: logged by a task") == 1
    assert worker.said("dray.task: pooled_shop.speak[") == 2


def test_stacks_of_greenlets_are_shown_on_request(crew: Crew) -> None:
    worker = started(crew)
    id = send(crew, "hold_on", 3.0)
    process_of(crew, id)
    worker.send(signal.SIGUSR1)
    wait_until(lambda: worker.said(f"pooled_shop.hold_on[{id}], greenlet in process") == 1)
    assert worker.said("time.sleep(seconds)") == 1


def test_without_gevent_the_worker_says_what_to_install(crew: Crew) -> None:
    (crew.folder / "sitecustomize.py").write_text("import sys\nsys.modules['gevent'] = None\n")
    worker = pool(crew, PYTHONPATH=str(crew.folder))
    assert worker.ended() == 2
    said = "the pool 'gevent' needs gevent, which is not installed: pip install 'dray[gevent]'"
    assert worker.said(said) == 1
    assert worker.said("Traceback") == 0
