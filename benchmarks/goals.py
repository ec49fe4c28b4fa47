"""What is aimed at: each goal with the measure that decides it, and where its peers' figure stands."""

from __future__ import annotations

from typing import NamedTuple

#: What a goal compares: the figure itself; how close it comes to the bare loop; how many times better than the best
#: peer of one run it is.
FIGURE, LOOP, PEER = "figure", "loop", "peer"


class Goal(NamedTuple):
    """One line of the table. Goals of the same subject are missed together: what is said of them is one paragraph."""

    subject: str
    measure: str
    place: str
    figure: str
    #: At least that where more is better, at most that elsewhere.
    bound: float
    of: str = FIGURE
    #: The measure and figure of the comparison with peers, where they are measured too.
    beside: tuple[str, str] | None = None


def _rate(
    subject: str, measure: str, place: str, rate: float, times: float | None, beside: str = ""
) -> tuple[Goal, ...]:
    """Return the goals of a rate: the figure, and how it stands to peers, who may call the measure otherwise."""
    peers = (beside or measure, "rate")
    absolute = Goal(subject, measure, place, "rate", rate, FIGURE, peers)
    return (absolute, absolute._replace(bound=times, of=PEER)) if times else (absolute,)


def _latency(subject: str, measure: str, names: tuple[str, str, str]) -> tuple[Goal, ...]:
    bounds = zip(names, (0.5, 2.0, 1.0), ("start p50", "start p99", "result p50"), strict=True)
    return tuple(
        Goal(subject, measure, "redis", name, bound, FIGURE, ("latency", peer)) for name, bound, peer in bounds
    )


GOALS: tuple[Goal, ...] = (
    *_rate("Redis worker", "work def", "redis", 60_000, 12),
    Goal("Redis worker", "work def", "redis", "rate", 0.3, LOOP),
    *_rate("Redis worker, results stored", "work def, results stored", "redis", 25_000, 8, "work, results stored"),
    *_rate("Redis worker, coroutines", "work async def", "redis", 25_000, 7),
    Goal("Processes", "processes, empty", "redis", "gain", 1.5),
    Goal("Processes", "processes, computing", "redis", "gain", 1.9),
    Goal("Sending one by one", "enqueue one by one", "redis", "rate", 0.85, LOOP, ("enqueue one by one", "rate")),
    *_rate("Sending in bulk", "enqueue bulk", "redis", 150_000, 10),
    *_latency("Latency", "latency", ("start p50", "start p99", "result p50")),
    *_latency("Latency after a long rest", "latency after a long rest", ("start p50", "start max", "result p50")),
    Goal("Tasks that wait", "naps def", "redis", "share", 97, FIGURE, ("naps def", "of the ideal")),
    Goal("Tasks that wait", "naps async def", "redis", "share", 97, FIGURE, ("naps async def", "of the ideal")),
    *_rate("RabbitMQ worker", "work def", "rabbitmq", 25_000, 3.5),
    Goal("RabbitMQ, sending in bulk", "enqueue bulk", "rabbitmq", "rate", 12_000, FIGURE, ("enqueue bulk", "rate")),
    *_rate("SQLite worker", "work def", "sqlite", 40_000, 10),
    # Its fastest peer has coroutines only.
    *_rate("PostgreSQL worker", "work def", "postgresql", 25_000, None),
    *_rate("PostgreSQL worker", "work async def", "postgresql", 25_000, 2),
    Goal("PostgreSQL worker, long queue", "backlog", "postgresql", "rate at 200,000", 25_000),
    Goal("SQS", "work def", "sqs", "SQS requests", 0.22),
    Goal("SQS, idle", "idle worker", "sqs", "SQS requests", 3 / 60),
    # A script is one command of the worker's, whatever the server calls within it.
    Goal("Idle worker", "idle worker", "redis", "Redis requests", 1.0),
    Goal("Idle worker", "idle worker", "redis", "load", 0.3),
    Goal("Memory of a worker", "dray worker", "redis", "PSS", 25),
    Goal("Importing", "import dray", "", "time", 60),
    Goal("The command line", "dray --help", "", "time", 200),
    Goal("A worker is ready", "dray worker", "redis", "ready", 400),
    Goal("Growth of the queue", "backlog", "redis", "rate kept", 0.9),
    Goal("Growth of the queue", "backlog", "redis", "memory kept", 1.1),
    Goal("Many delayed tasks", "delayed tasks", "redis", "memory kept", 1.1),
    Goal("What the log costs", "log level info", "redis", "cost", 15),
    Goal("Size of a queued task", "queued task", "redis", "size", 250),
)
