"""Payloads: how fast calls with a long argument are sent and run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from commanded import Commanded
from ground import OURS, PAYLOADS, Figure, Ground, Measure, Sample, Samples

#: Where they are measured: SQS takes no more than 256 KiB.
AT = ("sqlite", "redis", "rabbitmq", "postgresql")
#: Bytes of the argument by name, and how many calls of a throughput trial make one of that.
SIZES = {"1 KiB": (1 << 10, 6), "64 KiB": (1 << 16, 30), "1 MiB": (1 << 20, 300)}
CAVEAT = (
    "One text that cannot be compressed much, sent one by one, then run from the first to the last. The task takes it "
    "and does nothing. Nothing about memory: a worker holds as many as it has fetched."
)


def payloads(ground: Ground) -> Iterator[Measure]:
    """Yield what a long argument costs at a place."""
    if ground.name not in AT:
        return
    for name, (length, part) in SIZES.items():
        yield _payload(ground, name, length, max(ground.size.tasks // part, 4))


def _payload(ground: Ground, name: str, length: int, count: int) -> Measure:
    def trial() -> Samples:
        text = os.urandom(length // 2).hex()
        with ground.spot() as spot, Commanded(ground.name, spot) as commanded:
            send = commanded.tasks["carry"].delay
            send(text)  # the connection is opened with it
            began = time.perf_counter()
            for _ in range(count):
                send(text)
            sent = time.perf_counter() - began
            with commanded.worker() as worker:
                ran = worker.progress(count + 1).seconds
        return {"enqueue": Sample(count / sent), "work": Sample(count / ran)}

    figures = (Figure("enqueue", "/s", PAYLOADS), Figure("work", "/s", PAYLOADS))
    return Measure(f"payload of {name}", ground.name, figures, {OURS: trial}, CAVEAT)
