"""Real worker processes on a real file: started, killed, and always cleaned up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dray import Dray
from dray.testing.faults import ExecutionLedger, wait_until

HERE = Path(__file__).parent
EMPTY = {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}
#: A lease (s) for tests in which nothing may run twice: it outlasts a machine that stands still for a while.
LONG_LEASE = "60"


class WorkerProcess:
    """One `dray worker` process; what it says goes to a file."""

    #: The module of the app, and the folder it is in.
    app, home = "faulty_shop", HERE

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dray", "-A", self.app, "worker", *arguments],
                cwd=self.home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it with -9, and wait until it is gone."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(20)

    def ended(self, timeout: float = 40.0) -> int:
        """Wait for its end; return the exit code."""
        return self._process.wait(timeout)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def said(self, words: str) -> int:
        return self.log.read_text(errors="replace").count(words)

    def wait_until_ready(self) -> None:
        wait_until(lambda: self.said("is ready") or not self.alive, timeout=30)
        assert self.alive, self.log.read_text(errors="replace")


class Crew:
    """An SQLite file, a ledger, a sender, and the worker processes on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "queue.db"
        self.url = f"sqlite:///{self.file}"
        self.ledger = ExecutionLedger(folder / "ledger.txt")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DRAY_", "FAULTY_"))},
            "DRAY_BROKER_URL": self.url,
            "FAULTY_LEDGER": str(self.ledger.path),
        }
        self._workers: list[WorkerProcess] = []
        self._app: Dray | None = None

    @property
    def app(self) -> Dray:
        """The sender: it knows the tasks by name only."""
        if self._app is None:
            settings = {"result_backend": self.environment.get("DRAY_RESULT_BACKEND")}
            self._app = Dray("sender", broker=self.url, set_as_current=False, plugins=[], **settings)
        return self._app

    def send(self, task: str, n: int, **options: Any) -> str:
        return self.app.send_task(f"faulty_shop.{task}", (n,), **options).id

    def worker(self, *arguments: str, **environment: str) -> WorkerProcess:
        log = self.folder / f"worker{len(self._workers)}.log"
        made = WorkerProcess(["-l", "info", *arguments], {**self.environment, **environment}, log)
        self._workers.append(made)
        return made

    def sizes(self) -> dict[str, int]:
        return dict(self.app.broker.sizes(["default"])["default"])

    def begun_and_not_settled(self) -> set[str]:
        """Return what is in the ledger and still in the queue: the only work that may run again."""
        found = self.app.broker.peek("default", 1_000_000)
        names = {name for waiting in found for name in (waiting.id, f"{waiting.id}/{waiting.attempt}")}
        return names & self.ledger.runs().keys()

    def wait_until_done(self, timeout: float) -> None:
        wait_until(lambda: self.sizes() == EMPTY, timeout, look=0.05)

    def states(self, ids: list[str]) -> set[str]:
        return {self.app.AsyncResult(id).state for id in ids}

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        if self._app is not None:
            self._app.close()


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    made = Crew(tmp_path)
    made.environment["DRAY_WORKER_LEASE"] = "2"
    yield made
    made.close()


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Say what was counted, for people (-s) and for the test report."""

    def say(**facts: object) -> None:
        for name, value in facts.items():
            record_property(name, value)
        print(" ".join(f"{name}={value}" for name, value in facts.items()))

    return say
