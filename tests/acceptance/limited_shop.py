"""The application of test_limited_workers.py: tasks with limits, which note when they begin and end."""

from __future__ import annotations

import os
import time
from pathlib import Path

from dray import Dray

app = Dray("limited_shop")
events = Path(os.environ.get("FAULTY_LEDGER", "ledger.txt")).with_name("events.txt")


def note(what: str, n: int) -> None:
    """Add one line to what happened, whole, whoever else writes at the same moment."""
    line = f"{what} {n} {os.getpid()} {time.time()!r}\n"
    with events.open("ab", buffering=0) as file:
        file.write(line.encode())


@app.task(rate_limit="20/s")
def limited(n: int) -> None:
    note("limited", n)


@app.task
def free(n: int) -> None:
    note("free", n)


@app.task(max_concurrent=3)
def placed(n: int) -> None:
    note("begin", n)
    time.sleep(0.15)
    note("end", n)


@app.task(unique=True)
def alone(n: int) -> None:
    note("alone", n)
