"""SAQ on Redis.

Best runs 100 tasks at once instead of ten, on uvloop, the caller too, who asks for a result every millisecond instead
of every half second. Tasks that are no coroutines run on a few threads more than there are CPUs, and there is no option
for that. Results are ignored by `ttl=-1`. There is no call that sends many: calls are gathered.
"""

from __future__ import annotations

import asyncio

from protocol import PATIENCE, TASKS, AsyncPeer, in_chunks, trial
from saq import Queue

queue = Queue.from_url(trial.url)


def tick(context: object, *, number: int) -> None:
    """As SAQ wants it, with a context."""
    TASKS["tick"](number)


async def atick(context: object, *, number: int) -> None:
    """As SAQ wants it."""
    await TASKS["atick"](number)


async def anap(context: object, *, number: int) -> None:
    """As SAQ wants it."""
    await TASKS["anap"](number)


def nap(context: object, *, number: int) -> None:
    """As SAQ wants it."""
    TASKS["nap"](number)


async def astamp(context: object, *, number: int) -> object:
    """As SAQ wants it."""
    return await TASKS["astamp"](number)


settings = {"queue": queue, "functions": [tick, atick, nap, anap, astamp], "concurrency": 100 if trial.best else 10}
keep = {} if trial.keeps else {"ttl": -1}


class SaqPeer(AsyncPeer):
    """SAQ."""

    packages = ("saq", "redis")
    default = "10 at once"
    best = "100 at once, uvloop"
    kinds = ("async def", "def")

    def worker(self) -> list[str]:
        return ["-m", "saq", "saq_app.settings"]

    async def aopen(self) -> None:
        await queue.connect()

    async def aclose(self) -> None:
        await queue.disconnect()

    async def asend(self, count: int) -> None:
        for number in range(count):
            await queue.enqueue(trial.name, number=number, **keep)

    async def asend_many(self, count: int) -> None:
        for numbers in in_chunks(count, 100):
            await asyncio.gather(*(queue.enqueue(trial.name, number=number, **keep) for number in numbers))

    async def aask(self) -> None:
        pace = {"poll_interval": 0.001} if trial.best else {}
        await queue.apply(trial.name, timeout=PATIENCE, number=0, **pace)


if trial.best:
    import uvloop

    uvloop.install()

peer = SaqPeer()
