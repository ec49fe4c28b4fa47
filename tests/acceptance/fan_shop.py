"""The application of test_fan_in.py: chords whose workers are killed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dray import Dray
from dray.testing.faults import ExecutionLedger

app = Dray("fan_shop")
ledger = ExecutionLedger(Path(os.environ.get("FAN_SHOP_FOLDER", ".")) / "ledger.txt")


@app.task
def member(flow: int, n: int) -> int:
    # Short, and of different lengths, so that ends of several fall together.
    threading.Event().wait(n % 4 * 0.005)
    return n


@app.task
def more(value: int) -> int:
    return value + 1


@app.task
def same(n: int) -> int:
    return n


@app.task
def looked_over(values: Iterable[int], flow: int) -> tuple[int, bool]:
    """Return how many values there are, and whether they are in order."""
    found = list(values)
    ledger.record(f"body:{flow}:1")
    return len(found), found == sorted(found)


@app.task(max_retries=0)
def fragile(flow: int, n: int) -> int:
    """Fail for every third n until somebody has mended it."""
    mended = (ledger.path.parent / "mended").exists()
    ledger.record(f"fragile:{flow}:{n}")
    if n % 3 == 0 and not mended:
        raise ValueError("not mended", flow, n)
    return n


@app.task(max_retries=0)
def bad(flow: int) -> None:
    raise ValueError("bad", flow)


@app.task(bind=True)
def body(self: Any, values: list[int], flow: int) -> int:
    ledger.record(f"body:{flow}:{self.request.delivery_count}")
    return sum(values)


@app.task(bind=True)
def failed(self: Any, id: str, flow: int) -> None:
    ledger.record(f"failed:{flow}:{self.request.delivery_count}")
