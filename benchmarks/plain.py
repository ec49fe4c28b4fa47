"""The app of workers that run by their own command: what a user would write, and nothing of the benchmark.

Each task counts itself by a byte appended to the file `ledger` where the worker runs.
"""

from __future__ import annotations

import asyncio
import os
import time

from dray import Dray

_ledger = os.open("ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
app = Dray("plain", task_ignore_result=True)


@app.task
def tick(number: int) -> None:
    """Do next to nothing."""
    os.write(_ledger, b".")


@app.task
def nap(seconds: float) -> None:
    """Wait, and count the beginning and the end."""
    os.write(_ledger, b".")
    time.sleep(seconds)
    os.write(_ledger, b".")


@app.task
async def anap(seconds: float) -> None:
    """Do the same as a coroutine."""
    os.write(_ledger, b".")
    await asyncio.sleep(seconds)
    os.write(_ledger, b".")


@app.task
def burn(seconds: float) -> None:
    """Compute for so much processor time of this thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    os.write(_ledger, b".")


@app.task
def carry(text: str) -> None:
    """Take what may be long."""
    os.write(_ledger, b".")
