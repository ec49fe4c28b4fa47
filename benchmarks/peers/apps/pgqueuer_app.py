"""pgqueuer on PostgreSQL, by asyncpg; its tasks are coroutines only. It keeps no results.

Best fetches 100 jobs at once instead of ten, and is on uvloop, the caller too. The bulk is `enqueue` with lists. Its
own command, `pgq run`, does not start with the typer that pip chooses for it (1.6.0 and 0.29.2: no level of the log is
understood), so the worker is what that command would run.
"""

from __future__ import annotations

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from protocol import TASKS, AsyncPeer, in_chunks, trial


async def factory() -> PgQueuer:
    """Return what a worker runs."""
    queuer = PgQueuer(AsyncpgDriver(await asyncpg.connect(trial.url)))
    function = TASKS[trial.name]

    @queuer.entrypoint(trial.name)
    async def run(job: Job) -> None:
        await function(int(job.payload or b"0"))

    return queuer


async def work() -> None:
    """Be a worker until the end."""
    queuer = await factory()
    if trial.at_once > 1:
        # Unbounded otherwise: the bound has to be twice the batch.
        await queuer.run(batch_size=trial.at_once // 2, max_concurrent_tasks=trial.at_once)
    await (queuer.run(batch_size=100) if trial.best else queuer.run())


class PgqueuerPeer(AsyncPeer):
    """pgqueuer."""

    packages = ("pgqueuer", "asyncpg")
    default = "fetches 10 at once"
    best = "fetches 100 at once, uvloop"
    kinds = ("async def",)
    stores = False

    def prepare(self) -> None:
        async def install() -> None:
            await self._queries.install()

        self._run(install())

    def worker(self) -> list[str]:
        return ["-c", "import asyncio, pgqueuer_app; asyncio.run(pgqueuer_app.work())"]

    async def aopen(self) -> None:
        self._connection = await asyncpg.connect(trial.url)
        self._queries = Queries(AsyncpgDriver(self._connection))

    async def aclose(self) -> None:
        await self._connection.close()

    async def asend(self, count: int) -> None:
        for number in range(count):
            await self._queries.enqueue(trial.name, b"%d" % number)

    async def asend_many(self, count: int) -> None:
        for numbers in in_chunks(count):
            payloads: list[bytes | None] = [b"%d" % number for number in numbers]
            await self._queries.enqueue([trial.name] * len(payloads), payloads, [0] * len(payloads))

    async def aask(self) -> None:
        await self._queries.enqueue(trial.name, b"0")


if trial.best:
    import uvloop

    uvloop.install()

peer = PgqueuerPeer()
