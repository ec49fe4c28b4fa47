"""At rest: what an idle worker uses, and asks of its server."""

from __future__ import annotations

import time

from ground import OURS, REST, Figure, Ground, Measure, Sample, Samples
from ours import worker_process
from places import PLACES

CAVEAT = (
    "The worker alone in a process with one queue, after some time to settle down. There is no limit but zero. What is "
    "counted is what it asks for while nothing comes, renewals and looks for lost messages included."
)
#: Seconds that may be spent on it in every round.
LONG = 10.0


def at_rest(ground: Ground) -> Measure:
    """Return what an idle worker uses at a place."""
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
    return Measure("idle worker", ground.name, figures, {OURS: trial}, CAVEAT, once=settles > LONG)
