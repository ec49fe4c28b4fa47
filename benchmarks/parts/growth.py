"""Growth: how fast a worker is, and how much it holds, while more and more tasks wait or are due later."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Iterator

from commanded import Commanded, in_chunks
from ground import GROWTH, OURS, Figure, Ground, Measure, Sample, Samples
from watched import Memory, Watched

#: Where growth is measured: where a worker by its own command finds all that is needed.
AT = ("sqlite", "redis", "postgresql")
#: The backlogs that are tried, up to the one that was asked for.
BACKLOGS = (1_000, 20_000, 200_000)
#: Tasks that are timed, and tasks that have run before: what is done once is done then.
TIMED, WARMING = 20_000, 500
#: How often a backlog is tried that is shorter than what is timed.
TIMES = 7
#: Seconds that a worker has to notice that it should pause, or that there are tasks for later.
NOTICES = 0.3
#: Seconds after which delayed tasks are due: nobody sees that.
LATER = 3600.0

CAVEAT = (
    f"A worker that has run {WARMING} tasks is told to pause (SIGTSTP) while the queue is filled; then the first "
    f"{TIMED:,} tasks are timed, or all where there are fewer, {TIMES} times. `rate kept` is the rate at the longest "
    "backlog as a multiple of the median at shorter ones, `memory kept` what the worker holds then as a multiple of "
    "what it held at the shortest (PSS), read when the timed tasks have run. What the queue takes on the server is "
    "`queued task`."
)
DELAYED_CAVEAT = (
    f"What an idle worker holds (PSS) before and after so many tasks are sent that are due in {LATER / 3600:g} h, once "
    "it has run another task."
)


def growth(ground: Ground) -> Iterator[Measure]:
    """Yield how rate and memory of a worker follow what waits."""
    if ground.name in AT:
        yield _backlog(ground)
        yield _delayed(ground)


def _backlog(ground: Ground) -> Measure:
    longest = ground.size.backlog
    backlogs = sorted({min(one, longest) for one in (*BACKLOGS, longest)})

    def trial() -> Samples:
        found = {one: _at(ground, one) for one in backlogs}
        rates = {one: rate for one, (rate, _) in found.items()}
        shorter = statistics.median(rates[one] for one in backlogs[:-1] or backlogs)
        return {
            **{_rate(one): Sample(rate) for one, rate in rates.items()},
            "rate kept": Sample(rates[longest] / shorter),
            **{_memory(one): Sample(memory.pss / 1e6) for one, (_, memory) in found.items()},
            "memory kept": Sample(found[longest][1].pss / found[backlogs[0]][1].pss),
        }

    figures = [
        *(Figure(_rate(one), "/s", GROWTH) for one in backlogs),
        Figure("rate kept", "x", GROWTH),
        *(Figure(_memory(one), "MB", GROWTH) for one in backlogs),
        Figure("memory kept", "times", GROWTH),
    ]
    return Measure("backlog", ground.name, tuple(figures), {OURS: trial}, CAVEAT, _once(ground))


def _once(ground: Ground) -> bool:
    """Whether one round is enough here: filling the queue takes most of the time."""
    return ground.name != "redis"


def _rate(backlog: int) -> str:
    return f"rate at {backlog:,}"


def _memory(backlog: int) -> str:
    return f"PSS at {backlog:,}"


def _at(ground: Ground, backlog: int) -> tuple[float, Memory]:
    """Return the rate of a worker in front of such a backlog, and what it holds."""
    rates = []
    with ground.spot() as spot, Commanded(ground.name, spot) as commanded, commanded.worker() as worker:
        _warm(commanded, worker)
        for pause in range(1, 1 + (1 if backlog >= TIMED else TIMES)):
            worker.tell(signal.SIGTSTP)
            # Of two signals that wait together the one that came first is not always the first to be heard.
            worker.hear("paused: ", pause)
            time.sleep(NOTICES)
            before = worker.count
            for numbers in in_chunks(backlog):
                commanded.tasks["tick"].delay_many((number,) for number in numbers)
            worker.tell(signal.SIGCONT)
            timed = min(backlog, TIMED)
            rates.append((timed - 1) / worker.progress(before + timed, before + 1).seconds)
        return statistics.median(rates), worker.memory()


def _delayed(ground: Ground) -> Measure:
    count = ground.size.delayed

    def trial() -> Samples:
        with ground.spot() as spot, Commanded(ground.name, spot) as commanded, commanded.worker() as worker:
            _warm(commanded, worker)
            time.sleep(NOTICES)
            before = worker.memory()
            for numbers in in_chunks(count):
                commanded.tasks["tick"].delay_many(((number,) for number in numbers), countdown=LATER)
            _run_more(commanded, worker, 1)
            time.sleep(NOTICES)
            after = worker.memory()
        return {
            "PSS before": Sample(before.pss / 1e6),
            "PSS after": Sample(after.pss / 1e6),
            "memory kept": Sample(after.pss / before.pss),
        }

    figures = (
        Figure("PSS before", "MB", GROWTH),
        Figure("PSS after", "MB", GROWTH),
        Figure("memory kept", "times", GROWTH),
    )
    caveat = f"{count:,} of them. {DELAYED_CAVEAT}"
    return Measure("delayed tasks", ground.name, figures, {OURS: trial}, caveat, _once(ground))


def _warm(commanded: Commanded, worker: Watched) -> None:
    _run_more(commanded, worker, WARMING)


def _run_more(commanded: Commanded, worker: Watched, count: int) -> None:
    """Send so many tasks, and wait until they have run."""
    enough = worker.count + count
    commanded.tasks["tick"].delay_many((number,) for number in range(count))
    worker.reach(enough)
