"""arq on Redis; its tasks are coroutines only.

Best polls every 10 ms instead of every half second, runs 100 tasks at once instead of ten, logs no results, and is on
uvloop, the caller too. Results are ignored by `keep_result=0`. There is no call that sends many: calls are gathered.
"""

from __future__ import annotations

import asyncio
import logging

from arq import create_pool
from arq.connections import RedisSettings
from protocol import PATIENCE, TASKS, AsyncPeer, in_chunks, trial

settings = RedisSettings.from_dsn(trial.url)


async def atick(context: object, number: int) -> None:
    """As arq wants it, with a context."""
    await TASKS["atick"](number)


async def anap(context: object, number: int) -> None:
    """As arq wants it."""
    await TASKS["anap"](number)


async def astamp(context: object, number: int) -> object:
    """As arq wants it."""
    return await TASKS["astamp"](number)


class WorkerSettings:
    """What the worker command is given."""

    functions = [atick, anap, astamp]
    redis_settings = settings
    keep_result = 3600 if trial.keeps else 0
    if trial.best:
        poll_delay = 0.01
        max_jobs = 100
        log_results = False


class ArqPeer(AsyncPeer):
    """arq."""

    packages = ("arq", "redis")
    default = "10 at once, polls every 0.5 s"
    best = "100 at once, polls every 10 ms, uvloop"
    kinds = ("async def",)

    def worker(self) -> list[str]:
        return ["-m", "arq", "arq_app.WorkerSettings"]

    async def aopen(self) -> None:
        self._pool = await create_pool(settings)

    async def aclose(self) -> None:
        await self._pool.aclose()

    async def asend(self, count: int) -> None:
        for number in range(count):
            await self._pool.enqueue_job(trial.name, number)

    async def asend_many(self, count: int) -> None:
        for numbers in in_chunks(count, 100):
            await asyncio.gather(*(self._pool.enqueue_job(trial.name, number) for number in numbers))

    async def aask(self) -> None:
        job = await self._pool.enqueue_job(trial.name, 0)
        await job.result(timeout=PATIENCE, poll_delay=0.001 if trial.best else 0.5)


if trial.best:
    import uvloop

    uvloop.install()
    logging.getLogger("arq").setLevel(logging.WARNING)

peer = ArqPeer()
