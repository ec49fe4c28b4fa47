"""Throughput: how many calls a second are sent and run, beside the bare loop, and what goes over the wire meanwhile."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from contender import Contender, Kind, Make
from ground import THROUGHPUT, Figure, Ground, Measure, Sample, Samples

from dray.garbage import settle_down

ENQUEUE_CAVEAT = (
    "One thread, one small argument, an empty queue at first. dray checks the arguments, makes a unique id and indexes "
    "it; the bare loop writes a row, pushes to a list, publishes. Nothing about several senders at once."
)
WORK_CAVEAT = (
    "One process, an empty task, the whole queue there before the worker starts. dray is counted from the first task "
    "to the last, so that starting up is left out, and so is what happens to the last tasks after they have run; the "
    "bare loop has nothing to start. Processor time and traffic are of the whole. Real tasks do something: this is the "
    "price of each, not the rate to expect. The bare loop has no threads, leases, retries, deadlines, cancellation, "
    "dead letters or hooks, and one consumer only."
)


def throughput(ground: Ground) -> Iterator[Measure]:
    """Yield what is sent and what is run at a place."""
    many, few = ground.tasks, max(ground.tasks // 8, 1)
    yield _sent("enqueue one by one", ground, few, lambda it: it.send(few))
    yield _sent("enqueue bulk", ground, many, lambda it: it.send_many(many))
    yield _worked("work def", ground, many, "def", stored=False)
    yield _worked("work async def", ground, many, "async def", stored=False)
    yield _worked("work def, results stored", ground, many, "def", stored=True)


def _sent(name: str, ground: Ground, count: int, send: Callable[[Contender], None]) -> Measure:
    def act(contender: Contender) -> float:
        began = time.perf_counter()
        send(contender)
        return count / (time.perf_counter() - began)

    return _paced(name, ground, count, ENQUEUE_CAVEAT, act)


def _worked(name: str, ground: Ground, count: int, kind: Kind, *, stored: bool) -> Measure:
    def act(contender: Contender) -> float:
        with _collecting_as_a_worker_does():
            seconds = contender.work(kind, stored)
        if contender.ledger.count != count:
            raise RuntimeError(f"{name} on {ground.name}: of {count} tasks {contender.ledger.count} ran")
        return (count - 1) / seconds

    return _paced(name, ground, count, WORK_CAVEAT, act, lambda it: it.send_many(count, kind, stored))


def _paced(
    name: str,
    ground: Ground,
    count: int,
    caveat: str,
    act: Callable[[Contender], float],
    prepare: Callable[[Contender], None] = lambda it: None,
) -> Measure:
    """Return the measure of how many calls a second `act` says it got done, and of its traffic for each."""

    def trial(make: Make) -> Samples:
        with ground.counted() as traffic, ground.contender(make) as contender:
            prepare(contender)
            gc.collect()
            traffic()
            used = time.process_time()
            rate = act(contender)
            used = time.process_time() - used
            counted = {name: Sample(number / count) for name, number in traffic().items()}
        return {"rate": Sample(rate, used / count * 1e6), **counted}

    rate = Figure("rate", "/s", THROUGHPUT)
    return Measure(name, ground.name, (rate, *ground.traffic("per task")), ground.both(trial), caveat)


@contextmanager
def _collecting_as_a_worker_does() -> Iterator[None]:
    """Have the garbage collector of `dray worker`; senders have Python's own."""
    before = gc.get_threshold()
    settle_down()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
