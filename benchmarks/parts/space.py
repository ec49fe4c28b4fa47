"""Space: how many bytes a waiting task takes, with all that is kept for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from contender import Make
from ground import SPACE, Figure, Ground, Measure, Sample, Samples
from places import PLACES

CAVEAT = (
    "A waiting task with one small argument, among many alike, and all that is kept so that it can be found, cancelled "
    "and sent twice without harm: memory on Redis, files or tables elsewhere. Files may have room left in them, and "
    "what they take is not yet what they take in the long run."
)


def space(ground: Ground) -> Iterator[Measure]:
    """Yield the size of a waiting task, where that can be known."""
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

    yield Measure("queued task", ground.name, (Figure("size", "bytes", SPACE),), ground.both(trial), CAVEAT)
