"""What is measured: for each measure its sides (dray, the limit), one trial of a side, and what its figures mean."""

from __future__ import annotations

import gc
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from contender import Contender, Kind
from ours import OurSide, worker_process
from places import PLACES

#: How the two sides are called. Whatever else is measured some day is a side with a name of its own.
OURS, LIMIT = "dray", "limit"


class Sample(NamedTuple):
    """What one trial found: a figure in its unit, and the processor time per call in microseconds."""

    value: float
    cpu: float | None = None


#: By the name of the figure.
Samples = Mapping[str, Sample]
Trial = Callable[[], Samples]


class Figure(NamedTuple):
    """One number of a measure."""

    name: str
    unit: str
    #: What is aimed at, in that unit.
    aim: float | None = None

    @property
    def is_rate(self) -> bool:
        """True when more is better; otherwise it is a time or a load, and less is better."""
        return self.unit.endswith("/s")


class Measure(NamedTuple):
    """Something to measure, on one broker or on none."""

    name: str
    place: str
    figures: tuple[Figure, ...]
    sides: Mapping[str, Trial]
    #: What the figures do not say.
    caveat: str


class Size(NamedTuple):
    """How much work one trial is."""

    #: Calls of a throughput trial; everything else is counted by it: a quarter of it one by one, for example.
    tasks: int
    #: Seconds that an idle worker is watched, and that it has nothing to do before a call "after idle".
    idle: float


def measures(size: Size) -> Iterator[Measure]:
    """Yield every measure, in the order of the report."""
    for place in PLACES:
        yield from _throughput(place, size)
    for place in PLACES:
        yield from _latency(place, size)
    for place in PLACES:
        yield _idle(place, size)
    yield from _start_up(size)


# Throughput

#: Calls per second that the foundation aims at, by measure and place.
AIMS = {("enqueue bulk", "sqlite"): 40_000.0, ("work def", "sqlite"): 15_000.0}

ENQUEUE_CAVEAT = (
    "One thread, one small argument, an empty queue at first. dray checks the arguments, makes a unique id and indexes "
    "it; the bare loop writes a row. Nothing about several senders at once."
)
WORK_CAVEAT = (
    "One process, an empty task, the whole queue there before the worker starts, its start and stop included. Real "
    "tasks do something: this is the price of each, not the rate to expect. The bare loop has no threads, leases, "
    "retries, deadlines, cancellation, dead letters or hooks, and one consumer only."
)


def _throughput(place: str, size: Size) -> Iterator[Measure]:
    few = max(size.tasks // 4, 1)
    yield _paced("enqueue one by one", place, few, ENQUEUE_CAVEAT, lambda it: it.send(few))
    yield _paced("enqueue bulk", place, size.tasks, ENQUEUE_CAVEAT, lambda it: it.send_many(size.tasks))
    yield _work("work def", place, size.tasks, "def", stored=False)
    yield _work("work async def", place, size.tasks, "async def", stored=False)
    yield _work("work def, results stored", place, size.tasks, "def", stored=True)


def _work(name: str, place: str, count: int, kind: Kind, *, stored: bool) -> Measure:
    def work(contender: Contender) -> None:
        contender.work(kind, stored)
        if contender.ledger.count != count:
            raise RuntimeError(f"{name} on {place}: of {count} tasks {contender.ledger.count} ran")

    return _paced(name, place, count, WORK_CAVEAT, work, lambda it: it.send_many(count, kind, stored))


def _paced(
    name: str,
    place: str,
    count: int,
    caveat: str,
    act: Callable[[Contender], None],
    prepare: Callable[[Contender], None] = lambda it: None,
) -> Measure:
    """Return the measure of how many calls a second `act` gets done, after `prepare`."""

    def trial(make: Callable[[Path], Contender]) -> Samples:
        with _fresh(make) as contender:
            prepare(contender)
            gc.collect()
            began, used = time.perf_counter(), time.process_time()
            act(contender)
            took, used = time.perf_counter() - began, time.process_time() - used
        return {"rate": Sample(count / took, used / count * 1e6)}

    return Measure(name, place, (Figure("rate", "/s", AIMS.get((name, place))),), _both(place, trial), caveat)


# Latency

LATENCY = (Figure("start p50", "ms"), Figure("start p99", "ms"), Figure("result p50", "ms"), Figure("result p99", "ms"))
LATENCY_CAVEAT = (
    "One call at a time, 2 to 20 ms apart, to a worker with nothing else to do: `start` until the task runs, `result` "
    "until `get()` has its value. On memory the worker is a thread of the same process, on SQLite a process of its "
    "own. The bare loop is handed calls directly (memory), or looks into the file every half millisecond (SQLite), "
    "which nobody could afford while idle. Nothing about a busy worker, where calls wait for each other."
)
RESTED = (Figure("start p50", "ms"), Figure("start max", "ms"))
RESTED_CAVEAT = (
    "Few samples. Where messages of other processes have to be looked for, an idle worker looks less and less often, "
    "to cost nothing; the first call after a pause pays for that."
)


def _latency(place: str, size: Size) -> Iterator[Measure]:
    gaps = random.Random(1)
    count = max(size.tasks // 100, 2)

    def busy(make: Callable[[Path], Contender]) -> Samples:
        started, returned = _asked(make, count, lambda: gaps.uniform(0.002, 0.02))
        names = [figure.name for figure in LATENCY]
        values = [_percentile(times, share) for times in (started, returned) for share in (0.5, 0.99)]
        return {name: Sample(1000 * value) for name, value in zip(names, values, strict=True)}

    def rested(make: Callable[[Path], Contender]) -> Samples:
        started, _ = _asked(make, min(count, 4), lambda: size.idle / 4)
        return {
            "start p50": Sample(1000 * statistics.median(started)),
            "start max": Sample(1000 * max(started)),
        }

    yield Measure("latency", place, LATENCY, _both(place, busy), LATENCY_CAVEAT)
    yield Measure(f"latency after {size.idle / 4:g} s idle", place, RESTED, _both(place, rested), RESTED_CAVEAT)


def _asked(
    make: Callable[[Path], Contender], count: int, pause: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Return when `count` calls started and when their results were there, each in seconds after it was sent."""
    with _fresh(make) as contender, contender.answering() as ask:
        ask()
        answers = []
        for _ in range(count):
            time.sleep(pause())
            answers.append(ask())
    return [answer.started for answer in answers], [answer.returned for answer in answers]


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


# An idle worker

IDLE_CAVEAT = "The worker alone in a process, after half a second to settle down. There is no limit but zero."


def _idle(place: str, size: Size) -> Measure:
    def trial() -> Samples:
        with TemporaryDirectory() as folder, worker_process(PLACES[place].url, Path(folder)) as used:
            time.sleep(min(0.5, size.idle))
            before, began = used(), time.perf_counter()
            time.sleep(size.idle)
            return {"load": Sample(100 * (used() - before) / (time.perf_counter() - began))}

    return Measure("idle worker", place, (Figure("load", "% CPU"),), {OURS: trial}, IDLE_CAVEAT)


# Starting up

IMPORT_CAVEAT = (
    "Inside a fresh interpreter, with compiled bytecode and a warm disk cache. The limit is `import asyncio, msgspec`, "
    "which a queue with coroutines and a compiled serializer needs sooner or later."
)
HELP_CAVEAT = (
    "The whole process, from start to exit. The limit is a Python process that imports click and nothing else."
)


def _start_up(size: Size) -> Iterator[Measure]:
    needed, times = "import asyncio, msgspec", min(max(size.tasks // 1000, 1), 5)
    for statement, aim in (("import dray", 60.0), ("from dray import Dray", None)):
        sides = {OURS: _importing(statement, times), LIMIT: _importing(needed, times)}
        yield Measure(statement, "", (Figure("time", "ms", aim),), sides, IMPORT_CAVEAT)
    sides = {OURS: _running(("-m", "dray", "--help"), times), LIMIT: _running(("-c", "import click"), times)}
    yield Measure("dray --help", "", (Figure("time", "ms", 200.0),), sides, HELP_CAVEAT)


def _importing(statement: str, times: int) -> Trial:
    code = f"import time; began = time.perf_counter(); {statement}; print(time.perf_counter() - began)"
    return lambda: _median(lambda: float(_python("-c", code)), times)


def _running(arguments: tuple[str, ...], times: int) -> Trial:
    def once() -> float:
        began = time.perf_counter()
        _python(*arguments)
        return time.perf_counter() - began

    return lambda: _median(once, times)


def _median(once: Callable[[], float], times: int) -> Samples:
    once()  # leaves compiled bytecode and a warm disk cache, as after an installation
    return {"time": Sample(1000 * statistics.median(once() for _ in range(times)))}


def _python(*arguments: str) -> str:
    settings = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, env=settings).stdout


# What they share


def _both(place: str, trial: Callable[[Callable[[Path], Contender]], Samples]) -> Mapping[str, Trial]:
    url, limit = PLACES[place]
    return {OURS: lambda: trial(lambda folder: OurSide(folder, url)), LIMIT: lambda: trial(limit)}


@contextmanager
def _fresh(make: Callable[[Path], Contender]) -> Iterator[Contender]:
    """Make a contender in a folder of its own, and remove both at the end."""
    with TemporaryDirectory() as folder:
        contender = make(Path(folder))
        try:
            yield contender
        finally:
            contender.close()
