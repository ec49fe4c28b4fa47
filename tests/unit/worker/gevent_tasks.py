"""The tasks of test_gevent.py. Each test copies this file to a module of its own, which the child imports."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextvars import ContextVar
from pathlib import Path
from socket import socket as taken_at_import
from typing import Any

from dray import Dray, Event, SoftTimeLimitExceeded

app = Dray("pool", set_as_current=False)
LEDGER = Path(__file__).with_name("ledger.txt")
#: What was there when this module was imported.
WHO = sys.modules.get("gevent")
seen: ContextVar[str] = ContextVar("seen", default="nothing")
local = threading.local()
lock = threading.Lock()
opened: list[int] = []
kept: list[bytearray] = []
running = high_water = 0


def record(line: object) -> None:
    """Add a line to the ledger, in one step."""
    descriptor = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


@app.on("worker-process-init")
def open_things(event: Event) -> None:
    if LEDGER.with_name("nothing-to-open").exists():
        raise ConnectionError("the database is not there")
    opened.append(event.details["pid"])


@app.on("worker-process-shutdown")
def close_things(event: Event) -> None:
    record(f"closed-{os.getpid()}")


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task
def pid() -> int:
    return os.getpid()


@app.task
async def apid() -> int:
    return os.getpid()


@app.task
def url() -> str | None:
    return app.conf.broker_url


@app.task
def what_was_opened() -> list[int]:
    return opened


@app.task
def patched() -> list[bool]:
    """Return whether this process is patched, whether what was imported at the head of this module is."""
    from gevent import monkey
    from gevent.socket import socket as cooperative

    return [
        monkey.is_module_patched("socket"),
        WHO is not None,
        taken_at_import is cooperative,
        socket.socket is cooperative,
        logging.getLogger().handlers == [] or monkey.is_module_patched("threading"),
    ]


@app.task
def together(seconds: float, wanted: int = 1) -> int:
    """Return how many of these have run at the same time so far; do not end before that were so many."""
    global running, high_water
    running += 1
    high_water = max(high_water, running)
    end = time.monotonic() + 15
    while high_water < wanted and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(seconds)
    running -= 1
    return high_water


@app.task(bind=True, max_retries=2)
def third_time(self: Any) -> int:
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return os.getpid()


@app.task
def fail() -> None:
    raise ValueError("on purpose")


@app.task
def send_and_wait() -> int:
    return int(add.delay(20, 22).get(timeout=10, disable_sync_subtasks=False))


@app.task(bind=True)
def linked(self: Any, to: str) -> str:
    time.sleep(0.01)
    record(f"{to}<-{self.request.id}")
    return str(self.request.id)


@app.task(bind=True)
def whose(self: Any, mark: str) -> list[str]:
    """Return what this task finds around itself, before and after others had their turn."""
    found = [seen.get(), getattr(local, "mark", "nothing"), self.request.id]
    seen.set(mark)
    local.mark = mark
    time.sleep(0.05)
    return [*found, seen.get(), local.mark, self.request.id, whose.request.id]


@app.task
def huge(size: int) -> str:
    return "x" * size


@app.task
def length(text: str) -> int:
    return len(text)


@app.task(bind=True)
def progress(self: Any) -> None:
    self.update_state(state="HALF", meta={"done": 0.5})
    while not LEDGER.with_name("go-on").exists():
        time.sleep(0.01)


@app.task(bind=True)
def sleep(self: Any, seconds: float) -> int:
    record(self.request.id)
    record(f"{self.request.id}@{os.getpid()}")
    time.sleep(seconds)
    record(f"{self.request.id}/end")
    return os.getpid()


@app.task(bind=True)
def held(self: Any) -> int:
    """Take as long as the test wants it to."""
    record(self.request.id)
    record(f"{self.request.id}@{os.getpid()}")
    while not LEDGER.with_name("go-on").exists():
        time.sleep(0.01)
    return os.getpid()


@app.task(bind=True)
def counted(self: Any) -> int:
    """Return how often it was handed out; not before the test wants it to."""
    record(self.request.id)
    while not LEDGER.with_name("go-on").exists():
        time.sleep(0.01)
    return int(self.request.delivery_count)


@app.task(soft_time_limit=0.3)
def softly() -> str:
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded as error:
        return f"cleaned up: {error!r}"
    return "slept on"


@app.task(soft_time_limit=0.3)
def softly_for_a_lock() -> str:
    try:
        with lock, lock:
            return "twice"
    except SoftTimeLimitExceeded:
        return "free" if not lock.locked() else "locked"


@app.task(soft_time_limit=0.3)
def softly_computing() -> str:
    try:
        while True:
            sum(range(1000))
    except SoftTimeLimitExceeded:
        return "cleaned up"


def fidget() -> None:
    """Wait and compute, with and without a lock."""
    with lock:
        time.sleep(0.0005)
        sum(range(500))
    time.sleep(0.0005)
    sum(range(5000))


@app.task(soft_time_limit=0.02)
def restless() -> int:
    rounds = 0
    try:
        while True:
            fidget()
            rounds += 1
    except SoftTimeLimitExceeded:
        return rounds


@app.task
def steady() -> int:
    for _ in range(40):
        fidget()
    return 40


@app.task(time_limit=0.5)
def too_long() -> None:
    record("too-long")
    try:
        time.sleep(30)
    finally:
        record("cleaned-up")


@app.task(time_limit=0.5)
def computes_too_long() -> None:
    record("too-long")
    while True:
        sum(range(1000))


@app.task(bind=True, time_limit=0.5)
def heeds_nothing(self: Any) -> None:
    record(self.request.id)
    while True:
        try:
            time.sleep(30)
        except BaseException:
            record("swallowed")


@app.task(bind=True, time_limit=0.5)
def keeps_the_interpreter(self: Any) -> None:
    record(self.request.id)
    ctypes.PyDLL(None).sleep(30)


@app.task(bind=True)
def terminable(self: Any) -> None:
    try:
        record(self.request.id)
        time.sleep(30)
    finally:
        record("cleaned-up")


@app.task(bind=True)
def until_cancelled(self: Any) -> None:
    record(self.request.id)
    while not self.request.cancelled:
        time.sleep(0.01)
    record("cancelled")


@app.task(bind=True)
def blocks_all(self: Any) -> str:
    """Let no other greenlet run, although the interpreter is free, until the test lets go."""
    record(self.request.id)
    end = time.monotonic() + 30
    while time.monotonic() < end and not LEDGER.with_name("go-on").exists():
        pass
    return "done"


@app.task(bind=True)
def die(self: Any, how: str) -> None:
    record(self.request.id)
    time.sleep(0.2)
    if how == "exit":
        os._exit(3)
    if how == "system-exit":
        sys.exit(3)
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(30)


@app.task
def exits_in_a_greenlet() -> str:
    import gevent

    gevent.spawn(sys.exit, 3).join()
    return "still here"


@app.task
def runs_a_program() -> str:
    return subprocess.run(["echo", "said"], capture_output=True, text=True, check=True).stdout


@app.task
def fork_and_return() -> int:
    """Both come back from here."""
    return os.getpid() if os.fork() else -1


@app.task
def grow(megabytes: int) -> int:
    kept.append(bytearray(megabytes * 2**20))
    return os.getpid()


@app.task
def change_signal_handlers() -> int:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            continue
    return os.getpid()
