"""taskiq on Redis streams, or on RabbitMQ by aio-pika.

Best is one process, 100 tasks at once, 200 prefetched from RabbitMQ instead of ten, arguments not parsed by pydantic
and only warnings logged; its worker takes uvloop by itself. There is no call that sends many: calls are gathered.
Results are asked for every millisecond instead of every 0.2 s. For tasks that wait: a Redis list instead of a stream,
which is faster there; what a worker has taken from it is lost with the worker.
"""

from __future__ import annotations

import asyncio

from protocol import PATIENCE, TASKS, AsyncPeer, in_chunks, trial
from taskiq_aio_pika import AioPikaBroker
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

if trial.url.startswith("amqp"):
    broker = AioPikaBroker(trial.url, qos=200 if trial.best else 10)
elif trial.best and trial.at_once > 1:
    broker = ListQueueBroker(trial.url)
else:
    broker = RedisStreamBroker(trial.url)
if trial.keeps:
    broker = broker.with_result_backend(RedisAsyncResultBackend(trial.results, result_ex_time=3600))
tasks = {name: broker.task(task_name=name)(function) for name, function in TASKS.items()}
task = tasks[trial.name]


class TaskiqPeer(AsyncPeer):
    """taskiq."""

    packages = ("taskiq", "taskiq-redis", "taskiq-aio-pika")
    default = "2 processes"
    best = "1 process, 100 at once, `--no-parse`; for tasks that wait a list instead of a stream"
    kinds = ("async def", "def")

    def worker(self) -> list[str]:
        command = ["-m", "taskiq", "worker", "taskiq_app:broker"]
        if trial.best:
            command += ["--workers", "1", "--max-async-tasks", "100", "--max-prefetch", "100", "--no-parse"]
            command += ["--log-level", "WARNING"]
            command += ["--max-threadpool-threads", str(trial.at_once)] if trial.at_once > 1 else []
        return command

    async def aopen(self) -> None:
        await broker.startup()

    async def aclose(self) -> None:
        await broker.shutdown()

    async def asend(self, count: int) -> None:
        for number in range(count):
            await task.kiq(number)

    async def asend_many(self, count: int) -> None:
        for numbers in in_chunks(count, 100):
            await asyncio.gather(*(task.kiq(number) for number in numbers))

    async def aask(self) -> None:
        sent = await task.kiq(0)
        await sent.wait_result(check_interval=0.001 if trial.best else 0.2, timeout=PATIENCE)


peer = TaskiqPeer()
