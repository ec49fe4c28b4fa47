"""The app of test_processes.py: `dray -A pooled_shop worker --pool processes`."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import time
from typing import Any

from dray import Dray, Event
from dray.testing.faults import ExecutionLedger

app = Dray("pooled_shop")
ledger = ExecutionLedger(os.environ.get("FAULTY_LEDGER", "ledger.txt"))


@app.on("worker-process-shutdown")
def farewell(event: Event) -> None:
    ledger.record(f"closed@{os.getpid()}")


@app.task(bind=True)
def quick(self: Any, n: int) -> int:
    ledger.record(self.request.id)
    return n


@app.task(bind=True)
def hold_on(self: Any, seconds: float) -> str:
    """Say who runs this, take a while, and say that it has come to its end."""
    ledger.record(self.request.id)
    ledger.record(f"{self.request.id}@{os.getpid()}")
    time.sleep(seconds)
    ledger.record(f"{self.request.id}/end")
    return "held on"


@app.task(bind=True)
def keep_the_interpreter(self: Any, seconds: int) -> None:
    """Let no other thread of this process run."""
    ledger.record(self.request.id)
    ledger.record(f"{self.request.id}@{os.getpid()}")
    ctypes.PyDLL(None).sleep(seconds)


@app.task
def speak() -> None:
    print("printed by a task")
    sys.stdout.buffer.write(b"\xff\xfe not text\n")
    sys.stdout.flush()
    logging.getLogger("shop").warning("logged by a task")
