"""Where Celery's signals are sent when tasks run in processes: in the one that runs the task, if it lives to do so."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dray import TaskRevoked, WorkerLost, signals
from dray.signals import Signal

from .pool_shop import Shop, shops, value

TEMPLATE = Path(__file__).with_name("signal_tasks.py")
Make = Callable[[str], Shop]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """`make(pool)`: a shop whose receivers write down what they hear, and where."""
    with shops(TEMPLATE, "processes", tmp_path, monkeypatch) as made:

        def on_pool(pool: str) -> Shop:
            shop = made()
            shop.pool = pool
            return shop

        yield on_pool
    for signal in vars(signals).values():
        if isinstance(signal, Signal):
            signal.receivers = ()


@pytest.mark.parametrize("pool", ["processes", "gevent"])
def test_signals_of_a_run_are_sent_in_the_process_that_runs_it(make: Make, pool: str) -> None:
    pytest.importorskip("gevent")
    shop = make(pool)
    with shop.worker():
        child = shop.got("work", "end")
    assert child != os.getpid()
    told = shop.ledger()
    own = [line for line in told if line.endswith(f"-{child}")]
    assert own == [
        f"{name}-{child}"
        for name in (
            "worker_process_init",
            "task_prerun",
            "task_success",
            "task_postrun",
            "worker_process_shutdown",
        )
    ]
    assert f"task_received-{os.getpid()}" in told


def test_that_a_process_died_is_told_by_its_worker_with_the_arguments(make: Make) -> None:
    shop = make("processes")
    with shop.worker():
        assert isinstance(shop.got("work", "die"), WorkerLost)
    told = shop.ledger()
    assert f"task_failure-{os.getpid()}-('die',)" in told
    assert [line for line in told if line.startswith(("task_success", "task_postrun"))] == []


def test_that_a_task_was_terminated_is_told_with_the_signal_where_that_is_known(make: Make) -> None:
    shop = make("processes")
    heard: list[tuple[bool, int | None]] = []
    signals.task_revoked.connect(lambda terminated, signum, **_: heard.append((terminated, signum)))
    with shop.worker():
        result = shop.work.delay("wait")
        shop.wait_for("waits")
        shop.app.revoke(result.id, terminate=True, signal="SIGKILL")
        assert isinstance(value(result), TaskRevoked)
    assert heard == [(True, 9)]
