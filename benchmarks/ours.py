"""dray as a contender: a plain app with default settings, chosen by its broker's URL."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from contender import Answer, Ask, Contender, Kind, Ledger

from dray import Dray, Task

#: Seconds after which an unanswered call ends the benchmark.
PATIENCE = 30.0

_spawning = multiprocessing.get_context("spawn")


class App:
    """An app with the tasks of the benchmark. Results are kept beside the messages, as they are by default."""

    def __init__(self, url: str, ledger: Ledger) -> None:
        self.app = Dray("bench", broker=url, set_as_current=False)
        self.stamp = self._task(ledger.stamp, "bench.stamp", stored=True)
        self._ticks = {
            (kind, stored): self._task(function, f"bench.{function.__name__}.{stored}", stored)
            for kind, function in (("def", ledger.tick), ("async def", ledger.atick))
            for stored in (True, False)
        }

    def tick(self, kind: Kind = "def", stored: bool = False) -> Task[[int], Any]:
        """Return the task that does next to nothing, declared this way, its results stored or ignored."""
        return self._ticks[kind, stored]

    def _task(self, function: Callable[[int], Any], name: str, stored: bool) -> Task[[int], Any]:
        made: Task[[int], Any] = self.app.task(name=name, ignore_result=not stored)(function)
        return made

    @property
    def shared(self) -> bool:
        """Whether a worker in another process sees what this one sends."""
        return self.app.broker.capabilities.shared


class OurSide(Contender):
    """dray, with `{folder}` in the URL standing for the folder of the trial."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        self._url = url.format(folder=folder)
        self._ours = App(self._url, self.ledger)
        # Plugins are loaded and connections opened with the first call, which is not what is measured here.
        self._ours.tick().delay(0)
        self._ours.app.broker.purge(self._ours.app.conf.task_default_queue)

    def send(self, count: int) -> None:
        delay = self._ours.tick().delay
        for number in range(count):
            delay(number)

    def send_many(self, count: int, kind: Kind = "def", stored: bool = False) -> None:
        self._ours.tick(kind, stored).delay_many((number,) for number in range(count))

    def work(self, kind: Kind, stored: bool) -> None:
        self._ours.app.worker().run_until_idle()

    @contextmanager
    def answering(self) -> Iterator[Ask]:
        # Where it can be, the worker is in a process of its own, as in production.
        worker = worker_process(self._url, self.folder) if self._ours.shared else self._ours.app.worker()
        with worker:
            yield self._ask

    def _ask(self) -> Answer:
        sent = time.monotonic()
        started = self._ours.stamp.delay(0).get(timeout=PATIENCE)
        return Answer(started - sent, time.monotonic() - sent)

    def close(self) -> None:
        self._ours.app.close()
        super().close()


@contextmanager
def worker_process(url: str, folder: Path) -> Iterator[Callable[[], float]]:
    """Have a worker in another process; return what tells the processor time (seconds) it has used so far."""
    here, there = _spawning.Pipe()
    process = _spawning.Process(target=_serve, args=(url.format(folder=folder), folder, there), daemon=True)
    process.start()
    there.close()

    def used() -> float:
        here.send(True)
        seconds: float = here.recv()
        return seconds

    try:
        used()  # answered when the worker runs
        yield used
    finally:
        here.close()
        process.join(PATIENCE)


def _serve(url: str, folder: Path, pipe: Connection) -> None:
    """Run a worker until the pipe is closed, telling its processor time when asked: what the other process does."""
    ours = App(url, Ledger(folder / "ledger"))
    with ours.app.worker(), suppress(EOFError):
        while pipe.recv():
            pipe.send(time.process_time())
    ours.app.close()
