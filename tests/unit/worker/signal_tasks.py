"""The tasks of test_signals_in_processes.py, which copies this file to a module of its own that children import."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from dray import Dray, signals
from dray.signals import Signal

app = Dray("pool", set_as_current=False)
LEDGER = Path(__file__).with_name("ledger.txt")


def record(line: object) -> None:
    """Add a line to the ledger, in one step."""
    descriptor = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def tell(signal: Signal, **told: Any) -> None:
    """Note that a signal was sent in this process; of a failure, with which arguments."""
    more = f"-{told['args']}" if signal.name == "task_failure" else ""
    record(f"{signal.name}-{os.getpid()}{more}".replace(" ", ""))


for each in (*signals.OF_RUNS, signals.task_received, signals.worker_process_init, signals.worker_process_shutdown):
    each.connect(tell)


@app.task(name="work", reject_on_worker_lost=False)
def work(how: str) -> int:
    """Return the id of this process, wait for ever, or end the process."""
    if how == "die":
        os._exit(9)
    if how == "wait":
        record("waits")
        threading.Event().wait(60)
    return os.getpid()
