"""dramatiq on Redis or RabbitMQ.

Best is one process with few threads and a large prefetch, so that many messages come with one call; for tasks that
wait, 100 threads. Its middleware is the default one, and `AsyncIO` for coroutines. There is no call that sends many. On
RabbitMQ it publishes without confirms, as by default.
"""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware.asyncio import AsyncIO
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from protocol import PATIENCE, TASKS, Peer, trial

broker = RabbitmqBroker(url=trial.url) if trial.url.startswith("amqp") else RedisBroker(url=trial.url)
broker.add_middleware(AsyncIO())
if trial.keeps:
    broker.add_middleware(Results(backend=RedisBackend(url=trial.results)))
dramatiq.set_broker(broker)
results = {"store_results": True} if trial.keeps else {}
actor = dramatiq.actor(TASKS[trial.name], actor_name=trial.name, **results)


class DramatiqPeer(Peer):
    """dramatiq."""

    packages = ("dramatiq", "redis", "pika")
    default = "a process for each CPU, 8 threads in each"
    best = "1 process, 8 threads, prefetch 500; 100 threads for tasks that wait"
    kinds = ("def", "async def")
    bulk = False

    def worker(self) -> list[str]:
        if not trial.best:
            return ["-m", "dramatiq", "dramatiq_app"]
        # The only way to set it; read by the worker command.
        os.environ["dramatiq_queue_prefetch"] = "500"  # noqa: SIM112 - it is looked for in this spelling
        threads = "8" if trial.at_once == 1 else str(trial.at_once)
        return ["-m", "dramatiq", "-p", "1", "-t", threads, "dramatiq_app"]

    def send(self, count: int) -> None:
        for number in range(count):
            actor.send(number)

    def ask(self) -> None:
        actor.send(0).get_result(block=True, timeout=int(PATIENCE * 1000))


peer = DramatiqPeer()
