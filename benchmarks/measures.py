"""What is measured, in the order of the report: the parts, at all places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ground import Ground, Measure, Size
from parts.growth import growth
from parts.latency import latency
from parts.payloads import payloads
from parts.rest import at_rest
from parts.space import space
from parts.starting import start_up, worker_starts
from parts.throughput import throughput
from parts.workers import workers
from places import PLACES
from services import Servers


def measures(size: Size, places: Sequence[str], servers: Servers) -> Iterator[Measure]:
    """Yield every measure at these places; `servers` run by the time of the first trial."""
    grounds = [Ground(place, size, servers) for place in places]
    for part in (throughput, workers, space, latency, growth, payloads):
        for ground in grounds:
            yield from part(ground)
    for ground in grounds:
        yield at_rest(ground)
    # Where a worker in another process finds anything.
    for ground in grounds:
        if PLACES[ground.name].between_processes:
            yield worker_starts(ground)
    yield from start_up(size)
