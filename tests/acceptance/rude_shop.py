"""Tasks that do to their process what no task should: `dray -A faulty_shop worker -I rude_shop`."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import threading
import time
from typing import Any

from faulty_shop import app, ledger

_never = threading.Event()
_kept: list[Any] = []


@app.task(bind=True)
def prints_binary(self: Any) -> int:
    ledger.record(self.request.id)
    for stream in (sys.stdout, sys.stderr):
        stream.buffer.write(bytes(range(256)) * 4)
        stream.flush()
    return 1


@app.task(bind=True)
def closes_standard_streams(self: Any) -> int:
    ledger.record(self.request.id)
    for number in (0, 1, 2):
        os.close(number)
    sys.stdout.close()
    return 1


@app.task(bind=True)
def closes_descriptors(self: Any) -> int:
    ledger.record(self.request.id)
    os.closerange(3, 65)
    return 1


@app.task(bind=True)
def exits(self: Any) -> None:
    ledger.record(self.request.id)
    os._exit(11)


@app.task(bind=True)
def forks(self: Any) -> int:
    """Lets its child come back into whatever has called it."""
    ledger.record(self.request.id)
    child = os.fork()
    if child == 0:
        return 0
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@app.task(bind=True)
def forks_and_stays(self: Any) -> list[int]:
    """Has its child wait for a signal, as a server would."""
    ledger.record(self.request.id)
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    time.sleep(0.2)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    return [os.waitstatus_to_exitcode(status)]


@app.task(bind=True)
def starts_threads(self: Any) -> int:
    ledger.record(self.request.id)
    for _ in range(20):
        threading.Thread(target=_never.wait).start()  # no daemons: at its end Python would wait for them
    return 1


@app.task(bind=True)
async def starts_coroutines(self: Any) -> int:
    ledger.record(self.request.id)
    loop = asyncio.get_running_loop()
    _kept.extend(loop.create_task(asyncio.sleep(600)) for _ in range(20))
    return 1


@app.task(bind=True)
def sets_signal_handlers(self: Any) -> int:
    ledger.record(self.request.id)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return 1


@app.task(bind=True)
def sets_signal_handlers_in_c(self: Any) -> int:
    """As an extension does it that installs handlers of its own: Python is not asked."""
    ledger.record(self.request.id)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        ctypes.CDLL(None).signal(number, ctypes.c_void_p(1))
    return 1


@app.task(bind=True)
def ignores_every_exception(self: Any, seconds: float) -> int:
    """Goes on whatever is raised in it, as a bare `except` in a loop does."""
    ledger.record(self.request.id)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            while time.monotonic() < end:
                time.sleep(0.01)
        except BaseException:
            pass
    return 1


@app.task(bind=True)
def kills_its_process(self: Any) -> None:
    ledger.record(self.request.id)
    os.kill(os.getpid(), signal.SIGTERM)


@app.task(bind=True)
def changes_directory(self: Any) -> int:
    ledger.record(self.request.id)
    os.chdir("/")
    os.umask(0o777)
    return 1
