"""The application of test_scheduler_processes.py: ticks every second or two, and a ledger of what has run for which.

A process with PLANNED_TROUBLE=SIGKILL (or SIGSTOP) gets that signal in the middle of its third tick: it has decided to
send it, and has not sent it yet.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from dray import Dray, Message, Middleware
from dray.testing.faults import ExecutionLedger

app = Dray("planned_shop")
ledger = ExecutionLedger(os.environ.get("PLANNED_LEDGER", "ledger.txt"))
trouble = os.environ.get("PLANNED_TROUBLE")


class Trouble(Middleware):
    """Sends this very process a signal, once."""

    ticks = 0

    def publish(self, message: Message, call_next: Callable[[Message], Message]) -> Message:
        self.ticks += 1
        if trouble and self.ticks == 3:
            # To this very thread: sent to the process it could come a moment later, in the middle of a write.
            signal.pthread_kill(threading.get_ident(), getattr(signal, trouble))
        return call_next(message)


app.use(Trouble())


@app.task(bind=True, schedule={"schedule": "* * * * * *", "missed": "all"})
def tick(self: Any) -> None:
    ledger.record("tick@" + self.request.headers["due"])


@app.task(bind=True, schedule={"every": 2, "missed": "all"}, ignore_result=True)
def tock(self: Any) -> None:
    ledger.record("tock@" + self.request.headers["due"])
