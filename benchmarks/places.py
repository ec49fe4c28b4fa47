"""The brokers that are measured: each a URL and the bare loop that is its limit. Another broker is another line."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple, cast

from contender import Make, Spot
from services import SERVICES
from traffic import AmqpMethods, Meter, RedisCommands, RedisRequests, SqlStatements, SqsRequests


class Place(NamedTuple):
    """A broker and its limit."""

    #: `{folder}` stands for the folder of the trial, `{redis}` and others for the URLs of servers.
    url: str
    #: Module and class of the bare loop, loaded with its driver when it is needed.
    limit: str
    #: The result backend, where it is not the broker itself.
    results: str | None = None
    #: The servers that are needed, all emptied after each trial.
    servers: tuple[str, ...] = ()
    #: How many tasks of what is asked for: enough for about a second, where that is possible.
    share: float = 1.0
    #: What is counted, both for dray and the limit.
    meters: tuple[type[Meter], ...] = ()
    #: Tells how many bytes all that is kept takes, where that can be known.
    weigh: Callable[[Spot], float] | None = None
    #: Seconds after its start that an idle worker takes to settle down, and for which it is watched at least. A second
    #: after its start it opens the store, and on SQS its polls become longer and longer, up to 20 s.
    settles: float = 5.0

    @property
    def between_processes(self) -> bool:
        """Whether a worker in another process sees what this one sends."""
        return not self.url.startswith("memory:")

    def loop(self) -> Make:
        """Return what makes the bare loop."""
        module, _, name = self.limit.partition(":")
        return cast(Make, getattr(import_module(f"limits.{module}"), name))


def _files(spot: Spot) -> float:
    return sum(file.stat().st_size for file in spot.folder.glob("*.db*"))


def _on(name: str) -> Callable[[Spot], float]:
    return lambda spot: SERVICES[name].weigh(spot.servers[name])


_REDIS = (RedisRequests, RedisCommands)
_RABBIT = Place(
    "{rabbitmq}?queue_type=classic",
    "rabbitmq:RabbitLoop",
    "rpc://",
    ("rabbitmq",),
    1.0,
    (AmqpMethods,),
    _on("rabbitmq"),
)

PLACES = {
    "memory": Place("memory://", "memory:MemoryLoop", share=2.0),
    "sqlite": Place("sqlite:///{folder}/tasks.db", "sqlite:SqliteLoop", share=3.0, weigh=_files),
    "redis": Place("{redis}", "redis:RedisLoop", None, ("redis",), 4.0, _REDIS, _on("redis")),
    "rabbitmq": _RABBIT,
    "rabbitmq quorum": _RABBIT._replace(url="{rabbitmq}?queue_type=quorum", limit="rabbitmq:QuorumLoop", share=0.4),
    "postgresql": Place(
        "{postgresql}", "postgres:PostgresLoop", None, ("postgresql",), 1.5, (SqlStatements,), _on("postgresql")
    ),
    "sqs": Place("{sqs}", "sqs:SqsLoop", "{redis}", ("sqs", "redis"), 0.05, (SqsRequests, RedisCommands), settles=21.0),
    "kombu+redis": Place("kombu+{redis}", "kombu:KombuLoop", "{redis}", ("redis",), 0.1, _REDIS, _on("redis")),
}
