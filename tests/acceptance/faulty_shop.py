"""The app that the fault tests run in worker processes: `dray -A faulty_shop worker`, set up by the environment."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from dray import Dray
from dray.testing.faults import ExecutionLedger

app = Dray("faulty_shop")
ledger = ExecutionLedger(os.environ.get("FAULTY_LEDGER", "ledger.txt"))
#: Seconds that `slow` takes.
SLOW = float(os.environ.get("FAULTY_SLOW", "0"))

_never = threading.Event()


@app.task(bind=True)
def quick(self: Any, n: int) -> int:
    ledger.record(self.request.id)
    _never.wait(0.001)
    return n


@app.task(bind=True)
async def aquick(self: Any, n: int) -> int:
    ledger.record(self.request.id)
    await asyncio.sleep(0.001)
    return n


@app.task(bind=True, max_retries=2)
def twice(self: Any, n: int) -> int:
    """Succeeds at the second try."""
    ledger.record(f"{self.request.id}/{self.request.retries}")
    if not self.request.retries:
        raise self.retry(countdown=0)
    return n


@app.task(bind=True)
def slow(self: Any, n: int) -> int:
    ledger.record(self.request.id)
    _never.wait(SLOW)
    return n


@app.task(bind=True)
def poison(self: Any) -> None:
    ledger.record(self.request.id)
    os._exit(1)
