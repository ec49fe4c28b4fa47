"""Who takes part: every peer with its pinned requirements, the brokers it is measured on, and how much it gets to do.

Another peer is a line here and a file in `apps/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

OURS = "dray"
#: How a side is set up: as the library comes, and as fast as it is known to become.
DEFAULT, BEST = "default", "best"
CONFIGS = (DEFAULT, BEST)


class Place(NamedTuple):
    """A broker. `{folder}` stands for the folder of the trial, the names of servers for their URLs."""

    url: str
    #: Where results go, if not to the broker.
    results: str = ""
    servers: tuple[str, ...] = ()


PLACES: Mapping[str, Place] = {
    "redis": Place("{redis}", "{redis}", ("redis",)),
    "rabbitmq": Place("{rabbitmq}", "{redis}", ("rabbitmq", "redis")),
    "sqlite": Place("sqlite:///{folder}/tasks.db"),
    "postgresql": Place("{postgresql}", "", ("postgresql",)),
}

#: The environments: what is installed in each. dray runs in the one of the benchmark.
REQUIREMENTS: Mapping[str, tuple[str, ...]] = {
    "celery": ("celery[redis]==5.7.0", "redis==8.1.0", "hiredis==3.5.0"),
    "rq": ("rq==2.12.0", "redis==8.1.0", "hiredis==3.5.0"),
    "arq": ("arq==0.28.0", "redis==5.3.1", "hiredis==3.5.0", "uvloop==0.23.0"),
    "dramatiq": ("dramatiq[redis,rabbitmq]==2.2.1", "redis==8.1.0", "hiredis==3.5.0", "pika==1.4.4"),
    "taskiq": (
        "taskiq==0.13.0",
        "taskiq-redis==1.2.4",
        "taskiq-aio-pika==0.6.1",
        "redis==8.1.0",
        "hiredis==3.5.0",
        "uvloop==0.23.0",
    ),
    "huey": ("huey==3.5.4", "redis==8.1.0", "hiredis==3.5.0"),
    # It imports typing_extensions without asking for it.
    "saq": ("saq[redis]==0.26.4", "typing_extensions==4.16.0", "redis==7.4.1", "hiredis==3.5.0", "uvloop==0.23.0"),
    "streaq": ("streaq==7.2.0", "coredis==6.9.0", "hiredis==3.5.0", "uvloop==0.23.0"),
    "procrastinate": ("procrastinate==3.10.0", "psycopg[binary]==3.3.9", "uvloop==0.23.0"),
    "pgqueuer": ("pgqueuer==1.6.0", "asyncpg==0.32.0", "uvloop==0.23.0"),
}


class Side(NamedTuple):
    """One library on one broker."""

    name: str
    place: str
    #: How many tasks of a throughput trial it gets to run, as a part of what is asked for, in the default
    #: configuration and in the best: so that a trial takes about as long for all. Of calls to send it gets a tenth at
    #: least.
    default: float
    best: float

    @property
    def app(self) -> str:
        """The module in `apps/`."""
        return f"{self.name}_app"

    def share(self, config: str) -> float:
        """Return how many tasks it gets in this configuration, as a part of what is asked for."""
        return self.best if config == BEST else self.default


#: In the order of each round.
SIDES: tuple[Side, ...] = (
    Side(OURS, "redis", 1.0, 3.0),
    Side("celery", "redis", 0.1, 0.1),
    Side("rq", "redis", 0.01, 0.03),
    Side("arq", "redis", 0.04, 0.15),
    Side("dramatiq", "redis", 0.3, 0.3),
    Side("taskiq", "redis", 0.25, 0.25),
    Side("huey", "redis", 0.25, 0.25),
    Side("saq", "redis", 0.2, 0.2),
    Side("streaq", "redis", 0.1, 0.1),
    Side(OURS, "rabbitmq", 0.5, 1.0),
    Side("celery", "rabbitmq", 0.15, 0.15),
    Side("dramatiq", "rabbitmq", 0.4, 0.4),
    Side("taskiq", "rabbitmq", 0.2, 0.2),
    Side(OURS, "sqlite", 1.0, 2.0),
    Side("huey", "sqlite", 0.15, 0.2),
    Side(OURS, "postgresql", 0.5, 1.5),
    Side("procrastinate", "postgresql", 0.05, 0.05),
    Side("pgqueuer", "postgresql", 0.5, 0.5),
)
