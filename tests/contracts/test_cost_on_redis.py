"""What a task costs on Redis, counted and not timed: requests of the client, and commands that the server runs.

Each figure is the difference between a long run and a short one, so that starting and stopping do not count. A budget
that is exceeded is no reason to raise it: look first at what is asked, and for whom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from redis.connection import AbstractConnection

from dray import Dray
from tests.budgets import hold
from tests.contracts.redis_places import url_of
from tests.servers.redis import RedisServer, ask

SHORT, LONG = 500, 4500


class Asked(NamedTuple):
    """For one task."""

    requests: float
    commands: float


#: Sending one by one: 1 request, and 4 commands with those of its script.
SENDING = Asked(1.05, 4.2)
#: In a batch each task is one command of the script, which adds its name to those that are stored. All else the batch
#: shares; how large it is depends on the machine as well.
SENDING_MANY = Asked(0.003, 1.015)
WORKING = Asked(0.015, 1.12)
#: A result is stored and told to who waits for it: 2.05 commands more for each task, but no request.
STORING = Asked(0.015, 3.15)

Meter = Callable[[Callable[[int], object]], Asked]


@pytest.fixture
def cost(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Meter:
    """Tell what each of many tasks costs, by what a long run needs more than a short one."""
    requests = 0
    send = AbstractConnection.send_packed_command

    def counting(self: AbstractConnection, *args: object, **options: object) -> None:
        nonlocal requests
        requests += 1
        send(self, *args, **options)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", counting)

    def asked(work: Callable[[int], object], tasks: int) -> Asked:
        commands = _commands(redis_server)
        before = requests
        work(tasks)
        return Asked(requests - before, _commands(redis_server) - commands)

    def each(work: Callable[[int], object]) -> Asked:
        short, long = asked(work, SHORT), asked(work, LONG)
        return Asked(*((b - a) / (LONG - SHORT) for a, b in zip(short, long, strict=True)))

    return each


@contextmanager
def app_on(server: RedisServer, *, stored: bool = False) -> Iterator[Dray]:
    with Dray("costs", broker=url_of(server), set_as_current=False, task_ignore_result=not stored) as app:
        app.task(name="nothing")(lambda n: None).delay(0)  # opens what is opened once
        run_everything(app)
        yield app


def run_everything(app: Dray) -> None:
    app.worker(pool="solo").run_until_idle()


def send_many(app: Dray, tasks: int) -> None:
    app.tasks["nothing"].delay_many((n,) for n in range(tasks))


def test_sending_a_task_is_one_request_with_as_many_commands_as_it_had(cost: Meter, redis_server: RedisServer) -> None:
    with app_on(redis_server) as app:
        delay = app.tasks["nothing"].delay
        each = cost(lambda tasks: [delay(n) for n in range(tasks)])
    hold(each.requests, SENDING.requests)
    hold(each.commands, SENDING.commands)


def test_sending_many_is_a_small_part_of_a_request_for_each(cost: Meter, redis_server: RedisServer) -> None:
    with app_on(redis_server) as app:
        each = cost(lambda tasks: send_many(app, tasks))
    assert 0 < each.requests <= SENDING_MANY.requests
    assert 0 < each.commands <= SENDING_MANY.commands


@pytest.mark.parametrize("stored", [False, True], ids=["ignored", "stored"])
def test_a_task_that_runs_is_a_small_part_of_a_request(cost: Meter, redis_server: RedisServer, stored: bool) -> None:
    def work(tasks: int) -> None:
        send_many(app, tasks)
        run_everything(app)

    with app_on(redis_server, stored=stored) as app:
        # Time passes too, in which leases and the like are seen to.
        each = min(cost(work) for _ in range(3))
    if stored:
        assert 0 < each.requests <= STORING.requests
        hold(each.commands, STORING.commands)
    else:
        assert 0 < each.requests <= WORKING.requests
        assert 0 < each.commands <= WORKING.commands


def _commands(server: RedisServer) -> int:
    """Return how many commands a server has run, in scripts too."""
    return int(ask(server.port, "INFO", "stats")["total_commands_processed"])
