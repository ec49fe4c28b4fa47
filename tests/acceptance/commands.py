"""`dray` commands as processes, in a directory with an app and a queue in a file; what they say is read as it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

#: Longest time (seconds) that anything here may take on a slow machine.
PATIENCE = 60.0

SHOP = """
import asyncio, pathlib, time
from dray import Dray

app = Dray("shop")

@app.task
def add(x: int, y: int) -> int:
    return x + y

@app.task
def boom() -> None:
    raise ValueError("no such size")

@app.task
def held(gate: str) -> str:
    while not pathlib.Path(gate).exists():
        time.sleep(0.01)
    return "let go"

@app.task
async def aheld(gate: str) -> str:
    while not pathlib.Path(gate).exists():
        await asyncio.sleep(0.01)
    return "let go"
"""


#: A broker that is away until a file exists, and is then an ordinary one in a file.
LATE = """
import pathlib
from dray import BrokerUnavailable, hookimpl
from dray_brokers.sqlite import SqliteBroker
from shop import app

class LateBroker(SqliteBroker):
    def open(self):
        if not pathlib.Path("up").exists():
            raise BrokerUnavailable(f"{self.url} does not answer")
        super().open()

class Plugin:
    @hookimpl
    def register_brokers(self, register):
        register("late", LateBroker)

app.plugins.register(Plugin())
"""


class Process:
    """A `dray` command that runs; its stderr is read as it comes."""

    def __init__(self, cwd: Path, env: dict[str, str], *args: str, before: Sequence[str] = ()) -> None:
        """Run `dray` with these arguments; `before` is a program, with its own, that is to run it."""
        self.lines: list[str] = []
        self._more = threading.Condition()
        self._process = subprocess.Popen(
            [*before, sys.executable, "-m", "dray", *args],
            cwd=cwd,
            env=env,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, text: str, times: int = 1) -> str:
        """Return the first line that contains `text`, or that for the so-many-th time, once it has come."""
        deadline = time.monotonic() + PATIENCE
        with self._more:
            while len(found := [line for line in self.lines if text in line]) < times:
                left = deadline - time.monotonic()
                assert left > 0 and self._reader.is_alive(), f"no {text!r} in:\n{self.output}"
                self._more.wait(min(left, 1.0))
        return found[times - 1]

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ended(self) -> int:
        """Wait for its end and return its exit code."""
        code = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def close(self) -> None:
        """End it, however it is."""
        self._process.kill()
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._more:
                self.lines.append(line)
                self._more.notify_all()
        with self._more:
            self._more.notify_all()


Start = Callable[..., Process]


class Commands:
    """`commands("-A", "shop", "worker")` is that command in `folder`; every one is ended with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "shop.py").write_text(SHOP)
        self.url = f"sqlite:///{folder}/tasks.db"
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("DRAY_")}
        self.env |= {"DRAY_CONFIG": "", "DRAY_BROKER_URL": self.url, "DRAY_RESULT_BACKEND": self.url}
        self._made: list[Process] = []
        self._others: list[int] = []

    def __call__(self, *args: str, before: Sequence[str] = (), **env: str) -> Process:
        self._made.append(Process(self.folder, {**self.env, **env}, *args, before=before))
        return self._made[-1]

    def ended_with_this(self, pid: int) -> int:
        """See to it that a process that is nobody's child is ended, too."""
        self._others.append(pid)
        return pid

    def close(self) -> None:
        for process in self._made:
            process.close()
        for pid in self._others:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


@contextmanager
def commands_in(folder: Path) -> Iterator[Commands]:
    """Give `Commands`, and end all of them afterwards."""
    made = Commands(folder)
    try:
        yield made
    finally:
        made.close()
