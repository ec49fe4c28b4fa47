"""Latency: when a call to an idle worker starts and when its result is there; at once, and after a pause."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

from contender import Answer, Make
from ground import LATENCY, OURS, Figure, Ground, Measure, Samples, percentile, samples
from ours import OurSide

ANSWERED = tuple(Figure(f"{what} {which}", "ms", LATENCY) for what in ("start", "result") for which in ("p50", "p99"))
CAVEAT = (
    "One call at a time, 2 to 20 ms apart, to a worker with nothing else to do: `start` until the task runs, `result` "
    "until `get()` has its value. On memory the worker is a thread of the same process, elsewhere a process of its "
    "own. The bare loop is handed calls directly (memory), looks into the file every half millisecond (SQLite), which "
    "nobody could afford while idle, or waits at the server. Up to four seconds for each round, so that p99 of a slow "
    "broker is of few calls. Nothing about a busy worker, where calls wait for each other."
)
RESTED = tuple(Figure(f"{what} {which}", "ms", LATENCY) for what in ("start", "result") for which in ("p50", "max"))
RESTED_CAVEAT = (
    "Few samples. Where messages of other processes have to be looked for, an idle worker looks less and less often, "
    "to cost nothing; the first call after a pause pays for that."
)
LONG_CAVEAT = (
    "Ten workers, each with a queue of its own and a caller, all without work for that long; then one call to each, "
    "one after the other. With so few there is no p99: the slowest stands in for it."
)
#: Seconds for which calls are made, however few they are.
LONG_ENOUGH = 4.0
#: Where calls after a long pause are measured, and how many workers have that pause at the same time.
RESTING, RESTERS = ("redis",), 10


def latency(ground: Ground) -> Iterator[Measure]:
    """Yield how fast single calls are answered at a place."""
    gaps = random.Random(1)
    idle, rest = ground.size.idle / 4, ground.size.rest
    count = max(ground.size.tasks // 100, 2)

    def busy(make: Make) -> Samples:
        started, returned = _asked(ground, make, count, lambda: gaps.uniform(0.002, 0.02))
        values = [percentile(times, share) for times in (started, returned) for share in (0.5, 0.99)]
        return samples({figure.name: 1000 * value for figure, value in zip(ANSWERED, values, strict=True)})

    def rested(make: Make) -> Samples:
        return _rested(*_asked(ground, make, min(count, 3), lambda: idle))

    yield Measure("latency", ground.name, ANSWERED, ground.both(busy), CAVEAT)
    yield Measure(f"latency after {idle:g} s idle", ground.name, RESTED, ground.both(rested), RESTED_CAVEAT)
    if ground.name in RESTING:
        sides = {OURS: lambda: _rested(*_after_a_long_rest(ground, rest))}
        yield Measure("latency after a long rest", ground.name, RESTED, sides, f"{rest:g} s. {LONG_CAVEAT}", once=True)


def _asked(ground: Ground, make: Make, count: int, pause: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Return when `count` calls started and when their results were there, each in seconds after it was sent."""
    with ground.contender(make) as contender, contender.answering() as ask:
        ask()
        answers: list[Answer] = []
        end = time.monotonic() + LONG_ENOUGH
        while len(answers) < count and (len(answers) < 2 or time.monotonic() < end):
            time.sleep(pause())
            answers.append(ask())
    return _apart(answers)


def _after_a_long_rest(ground: Ground, rest: float) -> tuple[list[float], list[float]]:
    """Return the same for one call to each of several workers that had nothing to do for `rest` seconds."""
    with ground.spot() as spot, ExitStack() as stack:
        asks = []
        for number in range(RESTERS):
            ours = stack.enter_context(closing(OurSide(spot, ground.name, queue=f"rest-{number}")))
            asks.append(stack.enter_context(ours.answering()))
            asks[-1]()
        time.sleep(rest)
        return _apart([ask() for ask in asks])


def _apart(answers: list[Answer]) -> tuple[list[float], list[float]]:
    return [answer.started for answer in answers], [answer.returned for answer in answers]


def _rested(started: list[float], returned: list[float]) -> Samples:
    values = [of(times) for times in (started, returned) for of in (statistics.median, max)]
    return samples({figure.name: 1000 * value for figure, value in zip(RESTED, values, strict=True)})
