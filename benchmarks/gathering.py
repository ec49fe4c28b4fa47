"""The app of large_group.py: many small calls, and one that gets what all of them came to.

What it sends to the broker and to the store is weighed on its way; each body leaves a line about that in `told`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from dray import Dray, Put

app = Dray("gathering")


class Largest(msgspec.Struct):
    """The largest things that one process has written, in bytes."""

    #: One message as it lies in the broker.
    message: int = 0
    #: One record of the store, and all that was written to it in one request.
    record: int = 0
    commit: int = 0


class Body(msgspec.Struct):
    """What one run of the body saw, and when."""

    flow: str
    count: int
    in_order: bool
    ended: float
    largest: Largest


def weigh(weighed: Dray, largest: Largest) -> None:
    """Have `largest` follow what an app sends from here on."""
    broker, store = weighed.broker, weighed.store("this benchmark")
    publish, commit = broker.publish, store.commit

    def weighing_publish(envelopes: Any) -> Any:
        largest.message = max(largest.message, *(len(each.body) for each in envelopes))
        return publish(envelopes)

    def weighing_commit(changes: Any) -> Any:
        values = [len(write.value) for change in changes for write in change.writes if isinstance(write, Put)]
        largest.record = max(largest.record, *values, 0)
        largest.commit = max(largest.commit, sum(values))
        return commit(changes)

    broker.publish, store.commit = weighing_publish, weighing_commit  # type: ignore[method-assign]


_largest = Largest()


@app.on("worker-ready")
def _weigh(**facts: object) -> None:
    weigh(app, _largest)


@app.task
def first(of: int) -> int:
    """Stand in front of the others."""
    return of


@app.task
def member(number: int) -> int:
    """Come to the number that it is."""
    return number


@app.task
def body(results: Iterable[int], flow: str) -> int:
    """Go through the results once, and note what they were."""
    count, in_order = 0, True
    for value in results:
        in_order = in_order and value == count
        count += 1
    with Path("told").open("ab") as told:
        told.write(msgspec.json.encode(Body(flow, count, in_order, time.time(), _largest)) + b"\n")
    return count
