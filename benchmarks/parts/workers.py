"""Several at once: processes, tasks that wait, and what the lines of a log cost; a worker by its own command."""

from __future__ import annotations

from collections.abc import Iterator

from commanded import Commanded, in_chunks
from ground import LOGGING, OURS, SEVERAL, Figure, Ground, Measure, Sample, Samples
from watched import Progress

#: Where workers are measured by their own command: what they do at once is the same everywhere.
AT = ("redis",)
CHILDREN, AT_ONCE = 2, 100
#: Seconds for which tasks wait, and compute.
NAP, BURN = 0.05, 0.001

PROCESSES_CAVEAT = (
    f"`-P processes -c {CHILDREN}` beside the default pool of threads in one process, one after the other in the same "
    f"round, from the first task to the last. `computing` is {1000 * BURN:g} ms of processor time, which threads of "
    "one interpreter take in turns. Where there are as many processors as children, the server and the parent process "
    "compete with them."
)
NAPS_CAVEAT = (
    f"Tasks that wait {1000 * NAP:g} ms, {AT_ONCE} at once in one process; the ideal is to wait all the time in "
    "all of them. From the beginning of the first to the end of the last. Nothing about tasks that compute."
)
LOG_CAVEAT = (
    "Level `info` writes a line when a task begins and one when it ends; here into a file. The cost is the processor "
    "time of the worker for each task, less that at `warning`, one after the other in the same round."
)


def workers(ground: Ground) -> Iterator[Measure]:
    """Yield what is measured of a worker that runs by its own command."""
    if ground.name not in AT:
        return
    yield _processes("empty", ground, "tick", 0, ground.tasks)
    yield _processes("computing", ground, "burn", BURN, max(ground.size.tasks // 6, 4))
    for kind, task, options in (("def", "nap", ("-c", f"{AT_ONCE}")), ("async def", "anap", ())):
        yield _naps(kind, ground, task, options)
    yield _log(ground)


def _run(ground: Ground, task: str, argument: float, count: int, *options: str, level: str = "warning") -> Progress:
    """Return how a worker with these options gets on with so many of a task, from the first to the last."""
    with ground.spot() as spot, Commanded(ground.name, spot) as commanded:
        for numbers in in_chunks(count):
            commanded.tasks[task].delay_many((argument,) for _ in numbers)
        with commanded.worker(*options, level=level) as worker:
            return worker.progress(count)


def _processes(what: str, ground: Ground, task: str, argument: float, count: int) -> Measure:
    one, many, gain = "one process", f"{CHILDREN} children", "gain"

    def trial() -> Samples:
        rates = {
            name: (count - 1) / _run(ground, task, argument, count, *options).seconds
            for name, options in ((one, ()), (many, ("-P", "processes", "-c", f"{CHILDREN}")))
        }
        return {**{name: Sample(rate) for name, rate in rates.items()}, gain: Sample(rates[many] / rates[one])}

    figures = (Figure(one, "/s", SEVERAL), Figure(many, "/s", SEVERAL), Figure(gain, "x", SEVERAL))
    return Measure(f"processes, {what}", ground.name, figures, {OURS: trial}, PROCESSES_CAVEAT)


def _naps(kind: str, ground: Ground, task: str, options: tuple[str, ...]) -> Measure:
    count = min(max(ground.size.tasks // 4, 4), 2000)
    ideal = -(-count // AT_ONCE) * NAP

    def trial() -> Samples:
        with ground.spot() as spot, Commanded(ground.name, spot) as commanded:
            commanded.tasks[task].delay_many((NAP,) for _ in range(count))
            with commanded.worker(*options) as worker:
                # Each counts its beginning and its end.
                progress = worker.progress(2 * count)
        return {"share": Sample(100 * ideal / progress.seconds)}

    figure = Figure("share", "% of the ideal", SEVERAL)
    return Measure(f"naps {kind}", ground.name, (figure,), {OURS: trial}, NAPS_CAVEAT)


def _log(ground: Ground) -> Measure:
    def trial() -> Samples:
        quiet, told = (_run(ground, "tick", 0, ground.tasks, level=level) for level in ("warning", "info"))
        found = {
            "at warning": _rate(quiet, ground.tasks),
            "at info": _rate(told, ground.tasks),
        }
        if told.cpu is not None and quiet.cpu is not None:
            found["cost"] = Sample(1e6 * (told.cpu - quiet.cpu))
        return found

    figures = (
        Figure("at warning", "/s", LOGGING),
        Figure("at info", "/s", LOGGING),
        Figure("cost", "us a task", LOGGING),
    )
    return Measure("log level info", ground.name, figures, {OURS: trial}, LOG_CAVEAT)


def _rate(progress: Progress, count: int) -> Sample:
    return Sample((count - 1) / progress.seconds, None if progress.cpu is None else 1e6 * progress.cpu)
