"""streaq on Redis.

Best runs 100 tasks at once instead of 16, on uvloop, and logs no task. Results are ignored by `ttl=0`. `enqueue_many`
is the bulk.
"""

from __future__ import annotations

from protocol import PATIENCE, TASKS, AsyncPeer, in_chunks, trial
from streaq import Worker

at_once = {"concurrency": 100, "sync_concurrency": 100, "anyio_kwargs": {"use_uvloop": True}} if trial.best else {}
worker = Worker(redis_url=trial.url, **at_once)
tasks = {
    name: worker.task(name=name, silent=trial.best, ttl=300 if trial.keeps else 0)(function)
    for name, function in TASKS.items()
}
task = tasks[trial.name]


class StreaqPeer(AsyncPeer):
    """streaq."""

    packages = ("streaq", "coredis")
    default = "16 at once"
    best = "100 at once, uvloop, no log of tasks"
    kinds = ("async def", "def")

    def worker(self) -> list[str]:
        return ["-m", "streaq", "run", "streaq_app:worker"]

    async def aopen(self) -> None:
        await worker.__aenter__()

    async def aclose(self) -> None:
        await worker.__aexit__(None, None, None)

    async def asend(self, count: int) -> None:
        for number in range(count):
            await task.enqueue(number)

    async def asend_many(self, count: int) -> None:
        for numbers in in_chunks(count):
            await worker.enqueue_many([task.enqueue(number) for number in numbers])

    async def aask(self) -> None:
        sent = await task.enqueue(0)
        await sent.result(timeout=int(PATIENCE))


peer = StreaqPeer()
