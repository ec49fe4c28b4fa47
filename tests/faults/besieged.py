"""The app that faults are tried on: `dray -A besieged worker`, set up by the environment."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import threading
import time
from typing import Any

from ledger import Runs

from dray import Dray
from dray.clock import SystemClock

_never = threading.Event()


class ShiftedClock(SystemClock):
    """The clock of a host whose time of day is wrong by so many seconds."""

    def __init__(self, wrong: float) -> None:
        super().__init__()
        self.time = lambda: time.time() + wrong


app = Dray("besieged", clock=ShiftedClock(float(os.environ.get("BESIEGED_CLOCK", "0"))))
runs = Runs(os.environ.get("BESIEGED_LEDGER", "ledger.txt"))


def run_of(task: Any) -> str:
    return f"{task.request.id}/{task.request.retries}"


@app.task(bind=True)
def work(self: Any, n: int, seconds: float = 0.001) -> int:
    """Take so many seconds, as somebody does who waits for something."""
    runs.begin(run_of(self))
    _never.wait(seconds)
    runs.end(run_of(self))
    return n


@app.task(bind=True)
async def awork(self: Any, n: int, seconds: float = 0.001) -> int:
    runs.begin(run_of(self))
    await asyncio.sleep(seconds)
    runs.end(run_of(self))
    return n


@app.task(bind=True)
def stay(self: Any, n: int) -> int:
    """Take for ever in workers whose environment says so, and no time elsewhere."""
    runs.begin(run_of(self))
    _never.wait(float(os.environ.get("BESIEGED_STAY", "0")))
    runs.end(run_of(self))
    return n


@app.task(bind=True, max_retries=2)
def twice(self: Any, n: int) -> int:
    """Succeed at the second try."""
    runs.begin(run_of(self))
    runs.end(run_of(self))
    if not self.request.retries:
        raise self.retry(countdown=0)
    return n


@app.task(bind=True)
def fail(self: Any, n: int) -> int:
    runs.begin(run_of(self))
    runs.end(run_of(self))
    raise ValueError(f"{n} is not wanted")


@app.task(bind=True)
def hold(self: Any, n: int, seconds: int) -> int:
    """Hold the interpreter lock for so many seconds, as an extension module does that computes."""
    runs.begin(run_of(self))
    ctypes.PyDLL(None).sleep(seconds)
    runs.end(run_of(self))
    return n


@app.task(bind=True)
def poison(self: Any, how: str) -> None:
    """End the process that runs it."""
    runs.begin(run_of(self))
    match how:
        case "exit":
            os._exit(1)
        case "segv":
            ctypes.string_at(0)
        case "oom":
            # What the kernel does to whoever has taken too much memory.
            os.kill(os.getpid(), signal.SIGKILL)
            _never.wait()
        case _:
            raise ValueError(how)


if "BESIEGED_DEPLOYED" in os.environ:

    @app.task(bind=True)
    def newcomer(self: Any, n: int) -> int:
        """Known to workers of the next release only."""
        runs.begin(run_of(self))
        runs.end(run_of(self))
        return n
