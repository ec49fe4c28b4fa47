"""procrastinate on PostgreSQL. It keeps no results.

Best runs 10 tasks at once instead of one, deletes what is done, logs warnings only, and is on uvloop. The bulk is
`batch_defer_async`. For tasks that wait: 100 at once; those that are no coroutines run on the threads that the event
loop has by itself, a few more than there are CPUs, and its command knows no option for that.
"""

from __future__ import annotations

import asyncio

from procrastinate import App, PsycopgConnector
from protocol import TASKS, AsyncPeer, in_chunks, trial

app = App(connector=PsycopgConnector(conninfo=trial.url))
tasks = {name: app.task(name=name)(function) for name, function in TASKS.items()}
task = tasks[trial.name]


class ProcrastinatePeer(AsyncPeer):
    """procrastinate."""

    packages = ("procrastinate", "psycopg")
    default = "one at a time"
    best = "10 at once, deletes what is done, uvloop; 100 at once for tasks that wait"
    kinds = ("async def", "def")
    stores = False

    def prepare(self) -> None:
        async def install() -> None:
            async with app.open_async():
                await app.schema_manager.apply_schema_async()

        asyncio.run(install())

    def worker(self) -> list[str]:
        command = ["-m", "procrastinate", "--app", "procrastinate_app.app"]
        if not trial.best:
            return [*command, "worker"]
        at_once = str(max(trial.at_once, 10))
        return [*command, "--log-level", "warning", "worker", "-c", at_once, "--delete-jobs", "always"]

    async def aopen(self) -> None:
        await app.open_async()

    async def aclose(self) -> None:
        await app.close_async()

    async def asend(self, count: int) -> None:
        for number in range(count):
            await task.defer_async(number=number)

    async def asend_many(self, count: int) -> None:
        for numbers in in_chunks(count):
            await task.batch_defer_async(*({"number": number} for number in numbers))

    async def aask(self) -> None:
        await task.defer_async(number=0)


if trial.best:
    import uvloop

    uvloop.install()

peer = ProcrastinatePeer()
