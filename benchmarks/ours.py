"""dray as a contender: a plain app with default settings, chosen by the URLs of a place."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from contender import Answer, Ask, Contender, Kind, Ledger, Spot
from places import PLACES

from dray import Dray, Task
from dray.garbage import settle_down

#: Seconds after which an unanswered call ends the benchmark.
PATIENCE = 30.0
#: The queue of whoever needs no other.
QUEUE = "default"

_spawning = multiprocessing.get_context("spawn")


class App:
    """An app with the tasks of the benchmark. Results are kept beside the messages, as they are by default, where they
    can be."""

    def __init__(self, place: str, spot: Spot, ledger: Ledger, queue: str) -> None:
        url, results = PLACES[place].url, PLACES[place].results
        self.app = Dray(
            "bench",
            broker=spot.url(url),
            backend=results and spot.url(results),
            set_as_current=False,
            task_default_queue=queue,
        )
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

    @property
    def returns(self) -> bool:
        """Whether results go to the process that sent the task, and to no other."""
        backend = self.app.backend
        return self.shared and backend is not None and not backend.shared


class OurSide(Contender):
    """dray at one of the places, with one queue."""

    def __init__(self, spot: Spot, place: str, queue: str = QUEUE) -> None:
        super().__init__(spot)
        self._place, self._queue = place, queue
        self._ours = App(place, spot, self.ledger, queue)
        self._others = ExitStack()
        # Plugins are loaded and connections opened with the first call, which is not what is measured here.
        self._ours.tick().delay(0)
        self._ours.app.broker.purge(queue)

    def send(self, count: int) -> None:
        delay = self._ours.tick().delay
        for number in range(count):
            delay(number)

    def send_many(self, count: int, kind: Kind = "def", stored: bool = False) -> None:
        if stored and self._ours.returns:
            # To ourselves, no result would ever leave this process.
            self._others.enter_context(_process(_send, self._place, self.spot, count, kind))
        else:
            self._ours.tick(kind, stored).delay_many((number,) for number in range(count))

    def work(self, kind: Kind, stored: bool) -> float:
        self._ours.app.worker().run_until_idle()
        return self.ledger.seconds

    @contextmanager
    def answering(self) -> Iterator[Ask]:
        # Where it can be, the worker is in a process of its own, as in production.
        worker = worker_process(self._place, self.spot, self._queue) if self._ours.shared else self._ours.app.worker()
        with worker:
            yield self._ask

    def _ask(self) -> Answer:
        sent = time.monotonic()
        started = self._ours.stamp.delay(0).get(timeout=PATIENCE)
        return Answer(started - sent, time.monotonic() - sent)

    def close(self) -> None:
        self._others.close()
        self._ours.app.close()
        super().close()


class Used(NamedTuple):
    """What a worker has used so far: only differences mean something."""

    #: Processor time in seconds.
    seconds: float
    #: Of each meter of its place, in that order.
    traffic: tuple[float, ...]


def worker_process(place: str, spot: Spot, queue: str = QUEUE) -> Any:
    """Have a worker in another process within the context; it gives a function that returns what it has `Used`."""
    return _process(_serve, place, spot, queue)


@contextmanager
def _process(target: Callable[..., None], *arguments: Any) -> Iterator[Callable[[], Any]]:
    """Have another process; give what asks it and returns its answer. The first answer says that it is ready."""
    here, there = _spawning.Pipe()
    process = _spawning.Process(target=target, args=(*arguments, there), daemon=True)
    process.start()
    there.close()

    def ask() -> Any:
        here.send(True)
        return here.recv()

    try:
        ask()
        yield ask
    finally:
        here.close()
        process.join(PATIENCE)


def _serve(place: str, spot: Spot, queue: str, pipe: Connection) -> None:
    """Run a worker until the pipe is closed, telling what it has used when asked: what the other process does."""
    meters = [kind(spot.servers) for kind in PLACES[place].meters]
    ours = App(place, spot, Ledger(spot.folder / "ledger"), queue)
    with ours.app.worker(), suppress(EOFError):
        settle_down()  # as `dray worker` does
        while pipe.recv():
            pipe.send(Used(time.process_time(), tuple(meter.read() for meter in meters)))
    ours.app.close()


def _send(place: str, spot: Spot, count: int, kind: Kind, pipe: Connection) -> None:
    """Send calls, and take what comes back until the pipe is closed."""
    ours = App(place, spot, Ledger(spot.folder / "ledger"), QUEUE)
    ours.tick(kind, stored=True).delay_many((number,) for number in range(count))
    with suppress(EOFError):
        while pipe.recv():
            pipe.send(count)
    ours.app.close()
