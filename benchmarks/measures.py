"""What is measured: for each measure its sides (dray, the limit), one trial of a side, and what its figures mean."""

from __future__ import annotations

import gc
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from contender import Answer, Contender, Kind, Make, Spot
from ours import OurSide, worker_process
from places import PLACES
from services import Servers

#: How the two sides are called. Whatever else is measured some day is a side with a name of its own.
OURS, LIMIT = "dray", "limit"
#: The parts of the report.
THROUGHPUT, TRAFFIC, SPACE, LATENCY, REST, STARTING = (
    "Throughput",
    "Traffic",
    "Space",
    "Latency",
    "At rest",
    "Starting up",
)


#: What is aimed at, by measure and place, in the unit of its first figure.
AIMS = {("enqueue bulk", "sqlite"): 40_000.0, ("work def", "sqlite"): 15_000.0, ("queued task", "redis"): 250.0}


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
    #: Which part of the report it belongs to.
    part: str
    #: What is aimed at, in that unit.
    aim: float | None = None

    @property
    def is_rate(self) -> bool:
        """True when more is better; otherwise it is a time, a load or a size, and less is better."""
        return self.unit == "/s"


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


def measures(size: Size, places: Sequence[str], servers: Servers) -> Iterator[Measure]:
    """Yield every measure at these places, in the order of the report; `servers` run by the time of the first trial."""
    grounds = [Ground(place, size, servers) for place in places]
    for ground in grounds:
        yield from _throughput(ground)
    for ground in grounds:
        yield from _space(ground)
    for ground in grounds:
        yield from _latency(ground)
    for ground in grounds:
        yield _idle(ground)
    yield from _start_up(size)


class Ground(NamedTuple):
    """A place with all that its trials need."""

    name: str
    size: Size
    servers: Servers

    @property
    def tasks(self) -> int:
        """Calls of a throughput trial here."""
        return max(int(self.size.tasks * PLACES[self.name].share), 4)

    @contextmanager
    def spot(self) -> Iterator[Spot]:
        """Give an empty spot, and leave it empty."""
        with TemporaryDirectory() as folder:
            try:
                yield Spot(Path(folder), self.servers.urls)
            finally:
                self.servers.wipe(PLACES[self.name].servers)

    @contextmanager
    def contender(self, make: Make) -> Iterator[Contender]:
        """Have a contender on a spot of its own."""
        with self.spot() as spot, closing(make(spot)) as contender:
            yield contender

    def both(self, trial: Callable[[Make], Samples]) -> Mapping[str, Trial]:
        """Return a trial for each side."""
        return {
            OURS: lambda: trial(lambda spot: OurSide(spot, self.name)),
            LIMIT: lambda: trial(PLACES[self.name].loop()),
        }

    @contextmanager
    def counted(self) -> Iterator[Callable[[], dict[str, float]]]:
        """Give what tells the traffic since it was last asked, by the names of the meters."""
        with ExitStack() as stack:
            meters = [stack.enter_context(closing(kind(self.servers.urls))) for kind in PLACES[self.name].meters]
            last = [0.0] * len(meters)

            def since() -> dict[str, float]:
                now = [meter.read() for meter in meters]
                told = {meter.name: b - a for meter, a, b in zip(meters, last, now, strict=True)}
                last[:] = now
                return told

            yield since

    def traffic(self, unit: str) -> Iterator[Figure]:
        """Yield a figure for everything that is counted here."""
        for kind in PLACES[self.name].meters:
            yield Figure(kind.name, unit, TRAFFIC)


# Throughput

ENQUEUE_CAVEAT = (
    "One thread, one small argument, an empty queue at first. dray checks the arguments, makes a unique id and indexes "
    "it; the bare loop writes a row, pushes to a list, publishes. Nothing about several senders at once."
)
WORK_CAVEAT = (
    "One process, an empty task, the whole queue there before the worker starts, its start and stop included. Real "
    "tasks do something: this is the price of each, not the rate to expect. The bare loop has no threads, leases, "
    "retries, deadlines, cancellation, dead letters or hooks, and one consumer only."
)


def _throughput(ground: Ground) -> Iterator[Measure]:
    many, few = ground.tasks, max(ground.tasks // 4, 1)
    yield _paced("enqueue one by one", ground, few, ENQUEUE_CAVEAT, lambda it: it.send(few))
    yield _paced("enqueue bulk", ground, many, ENQUEUE_CAVEAT, lambda it: it.send_many(many))
    yield _work("work def", ground, many, "def", stored=False)
    yield _work("work async def", ground, many, "async def", stored=False)
    yield _work("work def, results stored", ground, many, "def", stored=True)


def _work(name: str, ground: Ground, count: int, kind: Kind, *, stored: bool) -> Measure:
    def work(contender: Contender) -> None:
        contender.work(kind, stored)
        if contender.ledger.count != count:
            raise RuntimeError(f"{name} on {ground.name}: of {count} tasks {contender.ledger.count} ran")

    return _paced(name, ground, count, WORK_CAVEAT, work, lambda it: it.send_many(count, kind, stored))


def _paced(
    name: str,
    ground: Ground,
    count: int,
    caveat: str,
    act: Callable[[Contender], None],
    prepare: Callable[[Contender], None] = lambda it: None,
) -> Measure:
    """Return the measure of how many calls a second `act` gets done after `prepare`, and of the traffic meanwhile."""

    def trial(make: Make) -> Samples:
        with ground.counted() as traffic, ground.contender(make) as contender:
            prepare(contender)
            gc.collect()
            traffic()
            began, used = time.perf_counter(), time.process_time()
            act(contender)
            took, used = time.perf_counter() - began, time.process_time() - used
            counted = {name: Sample(number / count) for name, number in traffic().items()}
        return {"rate": Sample(count / took, used / count * 1e6), **counted}

    rate = Figure("rate", "/s", THROUGHPUT, AIMS.get((name, ground.name)))
    return Measure(name, ground.name, (rate, *ground.traffic("per task")), ground.both(trial), caveat)


# Space

SPACE_CAVEAT = (
    "A waiting task with one small argument, among many alike, and all that is kept so that it can be found, cancelled "
    "and sent twice without harm: memory on Redis, files or tables elsewhere. Files may have room left in them, and "
    "what they take is not yet what they take in the long run."
)


def _space(ground: Ground) -> Iterator[Measure]:
    weigh = PLACES[ground.name].weigh
    if weigh is None:
        return

    def trial(make: Make) -> Samples:
        with ground.spot() as spot:
            # Once for nothing: tables, scripts and names are not counted.
            make(spot).close()
            before = weigh(spot)
            with closing(make(spot)) as contender:
                contender.send_many(ground.tasks)
            return {"size": Sample((weigh(spot) - before) / ground.tasks)}

    figures = (Figure("size", "bytes", SPACE, AIMS.get(("queued task", ground.name))),)
    yield Measure("queued task", ground.name, figures, ground.both(trial), SPACE_CAVEAT)


# Latency

ANSWERED = tuple(Figure(f"{what} {which}", "ms", LATENCY) for what in ("start", "result") for which in ("p50", "p99"))
LATENCY_CAVEAT = (
    "One call at a time, 2 to 20 ms apart, to a worker with nothing else to do: `start` until the task runs, `result` "
    "until `get()` has its value. On memory the worker is a thread of the same process, elsewhere a process of its "
    "own. The bare loop is handed calls directly (memory), looks into the file every half millisecond (SQLite), which "
    "nobody could afford while idle, or waits at the server. Up to ten seconds for each round, so that p99 of a slow "
    "broker is of few calls. Nothing about a busy worker, where calls wait for each other."
)
RESTED = (Figure("start p50", "ms", LATENCY), Figure("start max", "ms", LATENCY))
RESTED_CAVEAT = (
    "Few samples. Where messages of other processes have to be looked for, an idle worker looks less and less often, "
    "to cost nothing; the first call after a pause pays for that."
)
#: Seconds for which calls are made, however few they are.
LONG_ENOUGH = 10.0


def _latency(ground: Ground) -> Iterator[Measure]:
    gaps = random.Random(1)
    idle = ground.size.idle / 4
    count = max(ground.size.tasks // 100, 2)

    def busy(make: Make) -> Samples:
        started, returned = _asked(ground, make, count, lambda: gaps.uniform(0.002, 0.02))
        values = [_percentile(times, share) for times in (started, returned) for share in (0.5, 0.99)]
        return {figure.name: Sample(1000 * value) for figure, value in zip(ANSWERED, values, strict=True)}

    def rested(make: Make) -> Samples:
        started, _ = _asked(ground, make, min(count, 4), lambda: idle)
        return {
            "start p50": Sample(1000 * statistics.median(started)),
            "start max": Sample(1000 * max(started)),
        }

    yield Measure("latency", ground.name, ANSWERED, ground.both(busy), LATENCY_CAVEAT)
    yield Measure(f"latency after {idle:g} s idle", ground.name, RESTED, ground.both(rested), RESTED_CAVEAT)


def _asked(ground: Ground, make: Make, count: int, pause: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Return when `count` calls started and when their results were there, each in seconds after it was sent."""
    with ground.contender(make) as contender, contender.answering() as ask:
        ask()
        answers: list[Answer] = []
        end = time.monotonic() + LONG_ENOUGH
        while len(answers) < count and (len(answers) < 2 or time.monotonic() < end):
            time.sleep(pause())
            answers.append(ask())
    return [answer.started for answer in answers], [answer.returned for answer in answers]


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


# An idle worker

IDLE_CAVEAT = (
    "The worker alone in a process with one queue, after some time to settle down. There is no limit but zero. What is "
    "counted is what it asks for while nothing comes, renewals and looks for lost messages included."
)


def _idle(ground: Ground) -> Measure:
    idle = ground.size.idle
    settles = PLACES[ground.name].settles * min(idle, 1.0)

    def trial() -> Samples:
        with ground.spot() as spot, worker_process(ground.name, spot) as used:
            time.sleep(settles)
            before, began = used(), time.perf_counter()
            time.sleep(max(idle, settles))
            after, took = used(), time.perf_counter() - began
            traffic = {
                figure.name: Sample((b - a) / took)
                for figure, a, b in zip(figures[1:], before.traffic, after.traffic, strict=True)
            }
            return {"load": Sample(100 * (after.seconds - before.seconds) / took), **traffic}

    figures = (Figure("load", "% CPU", REST), *ground.traffic("per s"))
    return Measure("idle worker", ground.name, figures, {OURS: trial}, IDLE_CAVEAT)


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
        yield Measure(statement, "", (Figure("time", "ms", STARTING, aim),), sides, IMPORT_CAVEAT)
    sides = {OURS: _running(("-m", "dray", "--help"), times), LIMIT: _running(("-c", "import click"), times)}
    yield Measure("dray --help", "", (Figure("time", "ms", STARTING, 200.0),), sides, HELP_CAVEAT)


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
