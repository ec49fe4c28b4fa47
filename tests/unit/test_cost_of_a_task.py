"""What a task costs the engine, counted and not timed: calls of Python functions, and statements of the broker's.

Each figure is the difference between a long run and a short one, so that starting and stopping do not count. A budget
that is exceeded is no reason to raise it: look first at what is called, and for whom. One that leaves room for a tenth
more is to be lowered.
"""

from __future__ import annotations

import gc
import math
import sqlite3
import sys
import threading
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from dray import Dray
from dray.cli.logs import as_log

from ..budgets import ROOM, hold

SHORT, LONG = 500, 2500
#: Calls for one task that does nothing, without and with its result: 31 and 44 when this was written, on Python 3.11.
CALLS = {"ignored": 33, "stored": 47}
#: What its two lines in the log add to that: 55, of which Python's own logging makes 36.
LINES = 60
#: The same for sending one, as one of many and by itself: 13 and 33.
SENDING = {"in bulk": 14, "one by one": 36}
#: Statements of SQLite, of which each serves a batch: 0.02 for both.
STATEMENTS = {"ignored": 0.05, "stored": 0.05}


def app_on(url: str, results: str) -> Dray:
    app = Dray("costs", broker=url, set_as_current=False, task_ignore_result=results == "ignored")
    app.task(name="nothing")(lambda n: None)
    return app


def calls(app: Dray, tasks: int) -> int:
    """Run so many tasks; return how many Python functions were called for it, on all threads."""
    app.tasks["nothing"].delay_many((n,) for n in range(tasks))
    return called(app.worker(pool="solo").run_until_idle)


def called(work: Callable[[], object]) -> int:
    """Return how many Python functions `work` calls, on all threads."""
    count = 0

    def count_call(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event == "call"

    # Whoever watches the garbage collector (a library of other tests does) would be counted, too.
    gc.disable()
    threading.setprofile(count_call)
    sys.setprofile(count_call)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        gc.enable()
    return count


def held(each: float, budget: float) -> None:
    # From 3.12 on a comprehension is no function: fewer calls, and budgets that leave more room.
    hold(each, budget, room=ROOM if sys.version_info < (3, 12) else math.inf)


@pytest.mark.parametrize("results", CALLS)
def test_a_task_costs_no_more_calls_than_it_did(results: str) -> None:
    with app_on("memory://", results) as app:
        # Threads that look at a clock now and then add to it by chance.
        each = min((calls(app, LONG) - calls(app, SHORT)) / (LONG - SHORT) for _ in range(3))
    held(each, CALLS[results])


def test_the_lines_of_a_task_cost_no_more_calls_than_they_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It makes two calls of each record once anybody has imported multiprocessing.
    monkeypatch.setattr("logging.logMultiprocessing", False)
    log = tmp_path / "w.log"
    with app_on("memory://", "ignored") as app:
        # As above: each the least of three.
        silent = min(calls(app, LONG) - calls(app, SHORT) for _ in range(3))
        with as_log("info", as_json=False, file=str(log), gather=True):
            told = min(calls(app, LONG) - calls(app, SHORT) for _ in range(3))
    assert len(log.read_text().splitlines()) >= 2 * (LONG + SHORT)
    assert 1 < (told - silent) / (LONG - SHORT) <= LINES


@pytest.mark.parametrize("way", SENDING)
def test_sending_a_task_costs_no_more_calls_than_it_did(way: str) -> None:
    with app_on("memory://", "ignored") as app:
        task = app.tasks["nothing"]

        def send(tasks: int) -> None:
            arguments = [(n,) for n in range(tasks)]
            if way == "in bulk":
                task.delay_many(arguments)
            else:
                for (n,) in arguments:
                    task.delay(n)

        send(1)  # what is worked out once
        each = (called(lambda: send(LONG)) - called(lambda: send(SHORT))) / (LONG - SHORT)
    held(each, SENDING[way])


@pytest.mark.parametrize("results", STATEMENTS)
def test_a_task_costs_a_small_part_of_a_statement(
    results: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    connect = sqlite3.connect

    def listening(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        connection.set_trace_callback(told.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", listening)
    with app_on(f"sqlite:///{tmp_path}/tasks.db", results) as app:

        def statements(tasks: int) -> int:
            app.tasks["nothing"].delay_many((n,) for n in range(tasks))
            told.clear()
            app.worker(pool="solo").run_until_idle()
            # Each row of an `executemany` is told as a statement of its own; what counts is how often it is asked.
            return sum(1 for _ in groupby(told, key=lambda statement: statement.split()[:3]))

        each = min((statements(LONG) - statements(SHORT)) / (LONG - SHORT) for _ in range(3))
    assert 0 < each <= STATEMENTS[results]
