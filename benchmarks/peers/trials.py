"""What is measured: for each measure one trial of one side, its figures, and what they do not say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from services import SERVICES, Servers

from .attempts import Attempt, Setting, spot
from .table import BEST, CONFIGS, OURS, PLACES, Side

AT_ONCE = 100
NAP = 0.05
#: Seconds for which single calls are made, however few they are.
LONG_ENOUGH = 5.0


class About(msgspec.Struct, frozen=True):
    """What a side says about itself; see `apps/protocol.py`."""

    versions: dict[str, str]
    configs: dict[str, str]
    kinds: list[str]
    stores: bool
    bulk: bool
    naps: bool

    @property
    def kind(self) -> str:
        """How its tasks are declared when nothing else is asked for."""
        return self.kinds[0]


class Sample(NamedTuple):
    """What one trial found: a figure in its unit, and the processor time per task in microseconds."""

    value: float
    cpu: float | None = None


class Figure(NamedTuple):
    """One number of a measure."""

    name: str
    unit: str
    #: Whether more is better; otherwise it is a time.
    more: bool = True


class Measure(NamedTuple):
    """Something to measure on every side for which it makes sense."""

    name: str
    figures: tuple[Figure, ...]
    #: Which task, declared how; None: as the library prefers it.
    task: str
    kind: str | None
    #: One trial: with its processes, what the side is, and how many tasks. Returns a sample for each figure it found.
    trial: Callable[[Attempt, About, int], Mapping[str, Sample]]
    #: How many tasks, of the number that was asked for and of the share of the side.
    size: Callable[[int, float], int]
    caveat: str
    #: In which configurations.
    configs: tuple[str, ...] = CONFIGS
    stored: bool = False
    at_once: int = 1
    needs: Callable[[About], bool] = lambda about: True

    def fits(self, about: About, config: str) -> bool:
        """Whether a side in this configuration can take part."""
        return config in self.configs and (self.kind is None or self.kind in about.kinds) and self.needs(about)

    def setting(self, about: About, config: str) -> Setting:
        """Return what to tell the processes of a trial."""
        return Setting(config, self.task, self.kind or about.kind, self.stored, self.at_once)


class Ground:
    """The servers and environments of a run."""

    def __init__(self, servers: Servers, pythons: Mapping[str, Path], tasks: int) -> None:
        self._servers = servers
        self._pythons = pythons
        self._tasks = tasks

    def about(self, side: Side) -> About:
        """Return what a side says about itself."""
        with self._attempt(side, Setting(BEST, "tick", "def")) as attempt:
            return msgspec.convert(attempt.do("about"), About)

    def run(self, measure: Measure, side: Side, about: About, config: str) -> Mapping[str, Sample]:
        """Run one trial."""
        count = measure.size(self._tasks, side.share(config))
        with self._attempt(side, measure.setting(about, config)) as attempt:
            attempt.do("prepare")
            return measure.trial(attempt, about, count)

    @contextmanager
    def _attempt(self, side: Side, setting: Setting) -> Iterator[Attempt]:
        place = PLACES[side.place]
        with spot(lambda: self._wipe(place.servers)) as folder:
            urls = {"folder": str(folder), **self._servers.urls}
            where = {"url": place.url.format(**urls), "results": place.results.format(**urls), "folder": str(folder)}
            yield Attempt(self._pythons[side.name], side.app, folder, where | setting._asdict())

    def _wipe(self, servers: Sequence[str]) -> None:
        for name in servers:
            if name == "postgresql":
                _drop_everything(self._servers.urls[name])
            else:
                SERVICES[name].wipe(self._servers.urls[name])


def _drop_everything(url: str) -> None:
    """Make a database empty, whoever has made tables in it."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        for schema in ("dray", "public"):
            connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        connection.execute("CREATE SCHEMA public")


# Working

WORK_CAVEAT = (
    "A task that appends a byte to a file, the whole queue there before the worker starts. Counted from the first task "
    "to the last, so that starting up is left out, and so is what happens to the last tasks after they have run. Real "
    "tasks do something: this is the price of each, not the rate to expect. The promises differ: some acknowledge "
    "before the task runs, and lose it with the worker; dray does after it. Not every library has both kinds of task: "
    "the fastest on PostgreSQL, pgqueuer, has coroutines only. The chart has of each what it reached with either."
)
STORED_CAVEAT = WORK_CAVEAT + " Results are kept where the library usually keeps them, on RabbitMQ in Redis."
NAPS_CAVEAT = (
    f"Tasks that wait {1000 * NAP:g} ms, {AT_ONCE} at once in one process; the ideal is to wait all the time in "
    "all of them. From the beginning of the first to the end of the last. Nothing about tasks that compute."
)


def _work(attempt: Attempt, about: About, count: int) -> Mapping[str, Sample]:
    _send(attempt, about, count)
    with attempt.worker() as worker:
        progress = worker.progress(count + 1)
    cpu = None if progress.cpu is None else progress.cpu * 1e6
    return {"rate": Sample((count + 1) / progress.seconds, cpu)}


def _naps(attempt: Attempt, about: About, count: int) -> Mapping[str, Sample]:
    # One more is sent before the others; each counts its beginning and its end.
    _send(attempt, about, count - 1)
    with attempt.worker() as worker:
        progress = worker.progress(2 * count)
    ideal = -(-count // AT_ONCE) * NAP
    return {"of the ideal": Sample(100 * ideal / progress.seconds)}


def _send(attempt: Attempt, about: About, count: int) -> None:
    attempt.do("bulk" if about.bulk else "send", count)


# Sending

SEND_CAVEAT = (
    "One thread or event loop, one small argument, an empty queue at first; opening the connection is left out. "
    "Nothing about several senders at once. dray's bulk, RQ's, streaq's, procrastinate's and pgqueuer's are one call "
    "for many; arq, taskiq and SAQ gather coroutines, Celery keeps one producer for all; dramatiq and huey have "
    "nothing like it. On RabbitMQ dray and taskiq wait until the broker has confirmed; Celery and dramatiq do not."
)


def _sending(verb: str) -> Callable[[Attempt, About, int], Mapping[str, Sample]]:
    def trial(attempt: Attempt, about: About, count: int) -> Mapping[str, Sample]:
        seconds, cpu = attempt.do(verb, count)
        return {"rate": Sample(count / seconds, cpu / count * 1e6)}

    return trial


# Latency

ANSWERED = tuple(
    Figure(f"{what} {which}", "ms", more=False) for what in ("start", "result") for which in ("p50", "p99")
)
LATENCY_CAVEAT = (
    "One call at a time, 2 to 20 ms apart, to a worker with nothing else to do: `start` until the task runs, `result` "
    f"until the caller has its value by the library's own means. Up to {LONG_ENOUGH:g} seconds, so that p99 of a slow "
    "side is of few calls. Nothing about a busy worker, nor about one that has been idle for long."
)


def _latency(attempt: Attempt, about: About, count: int) -> Mapping[str, Sample]:
    with attempt.worker():
        answers = attempt.do("ask", count, LONG_ENOUGH)
    found = {}
    for name, times in (("start", [a for a, _ in answers]), ("result", [b for _, b in answers if b is not None])):
        if times:
            found[f"{name} p50"] = Sample(1000 * _percentile(times, 0.5))
            found[f"{name} p99"] = Sample(1000 * _percentile(times, 0.99))
    return found


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def _rate(unit: str = "/s") -> tuple[Figure, ...]:
    return (Figure("rate", unit),)


def _all_of(tasks: int, share: float) -> int:
    return max(int(tasks * share), 10)


def _sent(part: float) -> Callable[[int, float], int]:
    """Return how many calls are sent: nobody is so slow at it that he should get very few."""
    return lambda tasks, share: max(int(tasks * max(share, 0.1) * part), 10)


MEASURES: tuple[Measure, ...] = (
    Measure("work def", _rate(), "tick", "def", _work, _all_of, WORK_CAVEAT),
    Measure("work async def", _rate(), "tick", "async def", _work, _all_of, WORK_CAVEAT),
    Measure(
        "work, results stored",
        _rate(),
        "tick",
        None,
        _work,
        _all_of,
        STORED_CAVEAT,
        (BEST,),
        stored=True,
        needs=lambda about: about.stores,
    ),
    Measure("enqueue one by one", _rate(), "tick", None, _sending("send"), _sent(0.25), SEND_CAVEAT, (BEST,)),
    Measure(
        "enqueue bulk",
        _rate(),
        "tick",
        None,
        _sending("bulk"),
        _sent(1.0),
        SEND_CAVEAT,
        (BEST,),
        needs=lambda about: about.bulk,
    ),
    Measure("latency", ANSWERED, "stamp", None, _latency, lambda tasks, share: max(tasks // 100, 2), LATENCY_CAVEAT),
    *(
        Measure(
            f"naps {kind}",
            (Figure("of the ideal", "%"),),
            "nap",
            kind,
            _naps,
            lambda tasks, share: min(max(tasks // 5, 2), 2000),
            NAPS_CAVEAT,
            (BEST,),
            at_once=AT_ONCE,
            needs=lambda about: about.naps,
        )
        for kind in ("def", "async def")
    ),
)


def versions(abouts: Mapping[Side, About]) -> dict[str, dict[str, str]]:
    """Return what was installed, by side."""
    found: dict[str, dict[str, Any]] = {}
    for side, about in abouts.items():
        found.setdefault(side.name, {}).update(about.versions)
    return dict(sorted(found.items(), key=lambda item: item[0] != OURS))
