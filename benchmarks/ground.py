"""What every measure stands on: its figures, its sides, how much work a trial is, and an empty spot to do it on."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from contender import Contender, Make, Spot
from ours import OurSide
from places import PLACES
from services import Servers

#: How the two sides are called. Whatever else is measured some day is a side with a name of its own.
OURS, LIMIT = "dray", "limit"
#: The parts of the report.
THROUGHPUT, TRAFFIC, SEVERAL, LOGGING, SPACE, LATENCY, GROWTH, PAYLOADS, REST, STARTING = (
    "Throughput",
    "Traffic",
    "Several at once",
    "Logging",
    "Space",
    "Latency",
    "Growth",
    "Payloads",
    "At rest",
    "Starting up",
)
#: Units of which more is better. Everything else is a time, a load or a size.
MORE_IS_BETTER = {"/s", "x", "% of the ideal"}


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


class Measure(NamedTuple):
    """Something to measure, on one broker or on none."""

    name: str
    place: str
    figures: tuple[Figure, ...]
    sides: Mapping[str, Trial]
    #: What the figures do not say.
    caveat: str
    #: Whether the first round is enough: what takes long, and says much about itself each time.
    once: bool = False


class Size(NamedTuple):
    """How much work one trial is."""

    #: Calls of a throughput trial; most else is counted by it: a quarter of it one by one, for example.
    tasks: int
    #: Seconds that an idle worker is watched, and four times those that it has nothing to do before a call.
    idle: float
    #: Seconds that it has nothing to do before a call after a long pause.
    rest: float = 30.0
    #: Tasks that wait at most, when it is asked whether that slows a worker down; and that are due in an hour.
    backlog: int = 200_000
    delayed: int = 100_000


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


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of them is."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def samples(values: Mapping[str, float]) -> Samples:
    """Return figures whose processor time says nothing."""
    return {name: Sample(value) for name, value in values.items()}


def middle_of(once: Callable[[], float], times: int) -> float:
    """Return the median of a few times, after one that does not count."""
    once()
    return statistics.median(once() for _ in range(times))
