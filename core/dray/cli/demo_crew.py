"""The worker processes of `dray demo`: real ones, started, killed, watched and stopped by their process ids."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .exits import Stop

#: The module that the workers import.
TASKS = "dray.cli.demo_tasks"
#: Seconds a worker has for ending by itself when all is over, before it is killed.
GRACE = 5.0
#: Lines of a worker's log that are shown when it ends by itself.
SHOWN = 12


class Crew:
    """The workers of one demo. They run in `folder`, whose dray.toml they read, and write what they log there."""

    def __init__(self, folder: Path, concurrency: int) -> None:
        self._folder = folder
        self._log = folder / "worker.log"
        options = ["--loglevel", "warning", "--concurrency", str(concurrency)]
        self._command = [sys.executable, "-m", "dray", "-A", TASKS, "worker", *options]
        self._workers: list[subprocess.Popen[bytes]] = []

    def start(self) -> int:
        """Start one more worker; return its process id."""
        # What dray is told here is for the user's own queues, not for this one.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DRAY_")}
        with self._log.open("ab") as log:
            worker = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._workers.append(worker)
        return worker.pid

    def kill_one(self) -> int:
        """Kill the oldest worker, with SIGKILL, and wait until it is dead; return its process id."""
        worker = self._workers.pop(0)
        worker.kill()
        worker.wait()
        return worker.pid

    def fallen(self) -> list[int]:
        """Return the process ids of workers that somebody else killed, each once.

        Raises `Stop` with the end of its log when a worker has ended by itself.
        """
        fallen = [worker for worker in self._workers if worker.poll() is not None]
        for worker in fallen:
            if worker.returncode >= 0:
                log = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN:]
                raise Stop("\n".join([f"worker {worker.pid} ended by itself ({worker.returncode}). It said:", *log]))
            self._workers.remove(worker)
        return [worker.pid for worker in fallen]

    def stop(self, grace: float = GRACE) -> None:
        """End all workers: in order within `grace` seconds, or else by force. Safe twice."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.terminate()
        for worker in workers:
            try:
                worker.wait(grace)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
