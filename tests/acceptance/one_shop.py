"""The application of test_change_the_url.py: one program that knows nothing of where its messages wait."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

from dray import Dray, Reject, SoftTimeLimitExceeded
from dray.testing.faults import ExecutionLedger

app = Dray("one_shop")
folder = Path(os.environ.get("ONE_SHOP_FOLDER", "."))
ledger = ExecutionLedger(folder / "ledger.txt")


@app.task(bind=True)
def add(self: Any, x: int, y: int) -> int:
    ledger.record(f"add:{x}+{y}")
    return x + y


@app.task
async def aadd(x: int, y: int) -> int:
    await asyncio.sleep(0.01)
    ledger.record(f"aadd:{x}+{y}")
    return x + y


@app.task(bind=True, dead_letter=True)
def about_itself(self: Any) -> dict[str, Any]:
    request = self.request
    return {"name": self.name, "retries": request.retries, "delivered": request.delivery_count, "id": request.id}


@app.task(bind=True, max_retries=5)
def third_time(self: Any, n: int) -> int:
    ledger.record(f"third_time:{n}/{self.request.retries}")
    if self.request.retries < 2:
        raise self.retry(countdown=0.3)
    return n


@app.task(max_retries=1, autoretry_for=(ValueError,), default_retry_delay=0.1, retry_jitter=False)
def never() -> None:
    ledger.record("never")
    raise ValueError("as always")


@app.task
def urgent(priority: int, n: int) -> None:
    ledger.record(f"urgent:{priority}")


@app.task
def later(due: float) -> float:
    ledger.record("later")
    return app.clock.time() - due


@app.task
def refuse(name: str) -> str:
    """Goes to the dead letters until somebody opens the gate."""
    ledger.record(f"refuse:{name}")
    if not (folder / "gate").exists():
        raise Reject("the gate is shut")
    return name


@app.task
def measure(text: str) -> int:
    return len(text)


@app.task(bind=True)
def slowly(self: Any) -> str:
    self.update_state(state="PROGRESS", meta={"done": 1, "of": 2})
    never = threading.Event()
    while not (folder / "go").exists():
        never.wait(0.02)
    return "there"


def rest(seconds: float) -> None:
    """Do nothing, in steps small enough that a thread can be interrupted between them."""
    end, never = app.clock.monotonic() + seconds, threading.Event()
    while app.clock.monotonic() < end:
        never.wait(0.02)


@app.task
def asleep(who: str) -> None:
    ledger.record(f"asleep:{who}")
    rest(60)


@app.task
async def aasleep(who: str) -> None:
    ledger.record(f"aasleep:{who}")
    await asyncio.sleep(60)


@app.task(soft_time_limit=0.3)
def careful() -> str:
    try:
        rest(60)
    except SoftTimeLimitExceeded:
        return "cleaned up"
    return "slept through"


@app.task
def note(value: Any, word: str) -> str:
    ledger.record(f"note:{word}+{value}")
    return word
