"""The tasks of test_processes.py. Each test copies this file to a module of its own, which the children import."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from dray import Dray, Event, SoftTimeLimitExceeded

app = Dray("pool", set_as_current=False)
LEDGER = Path(__file__).with_name("ledger.txt")
#: What the function for worker-process-init has done in this process.
opened: list[int] = []


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


class NeedsTwo(Exception):
    """Cannot be pickled, nor made of its arguments."""

    def __init__(self, one: int, two: object) -> None:
        super().__init__(f"{one} and a lock")
        self.lock = threading.Lock()


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task(bind=True)
def counted(self: Any) -> int:
    """Return how often it was handed out."""
    return int(self.request.delivery_count)


@app.task
def pid() -> int:
    return os.getpid()


@app.task
async def apid() -> int:
    await asyncio.sleep(0)
    return os.getpid()


@app.task
def what_was_opened() -> tuple[int, list[int]]:
    return os.getpid(), opened


@app.task
def url() -> str | None:
    return app.conf.broker_url


@app.task(bind=True, max_retries=2)
def third_time(self: Any) -> int:
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return os.getpid()


@app.task
def fail() -> None:
    raise NeedsTwo(1, None)


@app.task
def huge(size: int) -> str:
    return "x" * size


@app.task
def length(text: str) -> int:
    return len(text)


@app.task(bind=True)
def progress(self: Any) -> None:
    self.update_state(state="HALF", meta={"done": 0.5, "filling": "y" * 10_000})
    record("half")
    while not LEDGER.with_name("go-on").exists():
        time.sleep(0.01)


@app.task
def send() -> str:
    return add.delay(20, 22).id


@app.task(bind=True)
def die(self: Any, how: str) -> None:
    record(self.request.id)
    if how == "exit":
        os._exit(3)
    if how == "system-exit":
        sys.exit(3)
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(30)


@app.task(bind=True)
def sleep(self: Any, seconds: float) -> int:
    record(self.request.id)
    record(f"{self.request.id}@{os.getpid()}")
    time.sleep(seconds)
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
def with_a_program(self: Any) -> None:
    program = subprocess.Popen(["sleep", "60"])
    record(f"program-{program.pid}")
    program.wait()


@app.task
def terminates_a_program() -> int:
    program = subprocess.Popen(["sleep", "60"])
    program.terminate()
    return program.wait(10)


@app.task(soft_time_limit=0.3)
def softly() -> str:
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded as error:
        return f"cleaned up: {error!r}"
    return "slept on"


@app.task(soft_time_limit=0.3)
async def asoftly() -> str:
    try:
        await asyncio.sleep(30)
    except SoftTimeLimitExceeded:
        return "cleaned up"
    return "slept on"


@app.task(time_limit=0.5)
def too_long() -> None:
    record("too-long")
    time.sleep(30)


@app.task(time_limit=0.5)
def too_long_in_c() -> None:
    record("too-long")
    # Through PyDLL the interpreter lock is kept: no other thread of this process runs meanwhile.
    ctypes.PyDLL(None).sleep(30)


@app.task(bind=True)
def hold_the_lock(self: Any, seconds: int) -> str:
    record(self.request.id)
    ctypes.PyDLL(None).sleep(seconds)
    return "held"


@app.task(bind=True)
def until_cancelled(self: Any) -> str:
    record(self.request.id)
    while not self.request.cancelled:
        time.sleep(0.01)
    record("cancelled")
    return "gave up"


@app.task(bind=True)
async def asleep(self: Any) -> None:
    record(self.request.id)
    try:
        await asyncio.sleep(30)
    finally:
        record("cleaned-up")


@app.task(bind=True)
def terminable(self: Any) -> None:
    try:
        record(self.request.id)
        time.sleep(30)
    finally:
        record("cleaned-up")


@app.task(bind=True)
def knows_sigusr2(self: Any) -> str:
    told: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: told.append(number))
    record(self.request.id)
    while not told:
        time.sleep(0.01)
    signal.signal(signal.SIGUSR2, before)
    record("told")
    return "told"


@app.task
def grow(megabytes: int) -> int:
    kept.append(bytearray(megabytes * 2**20))
    return os.getpid()


kept: list[bytearray] = []


# What a task should not do


@app.task(bind=True)
def close_everything(self: Any) -> str:
    record(self.request.id)
    os.closerange(3, 256)
    return "closed"


@app.task(bind=True)
def close_really_everything(self: Any) -> None:
    record(self.request.id)
    os.closerange(3, 4096)
    time.sleep(30)


@app.task
def fork_and_return() -> int:
    """Both come back from here."""
    return os.getpid() if os.fork() else -1


@app.task
def leave_a_fork_behind() -> None:
    """A process that has copies of all pipes and lives on."""
    child = os.fork()
    if not child:
        time.sleep(20)
        os._exit(0)
    record(f"fork-{child}")
    os._exit(1)


@app.task
def start_a_thread() -> int:
    threading.Thread(target=time.sleep, args=(60,)).start()
    return os.getpid()


@app.task
def change_signal_handlers() -> int:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        try:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
        except (OSError, ValueError):
            continue
    return os.getpid()


@app.task
def leave_an_alarm_behind() -> int:
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    # Later than what this comes to is on its way, on a busy machine too: it would be lost with the process.
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    return os.getpid()


@app.task
async def exits_on_the_loop() -> str:
    async def leave() -> None:
        sys.exit(1)

    other = asyncio.ensure_future(leave())
    await asyncio.sleep(0.05)
    return f"still here, {other.done()}"
