"""The result backend away from the start, and under load: tasks run, and their results are written later. F13."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dray.clock import SYSTEM_CLOCK
from dray.testing.faults import wait_until

from ..servers.redis import RedisServer
from .proxy import Proxy
from .site import Site, pause
from .wire import Resp


@pytest.fixture
def results(site: Site, redis_server: RedisServer) -> Iterator[Proxy]:
    """A result backend that can be out of reach. It is nothing but that: the broker has no part in it."""
    with Proxy(redis_server.port, Resp) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0?prefix={site.queue}"
        # The sender goes the same way: it must be able to send.
        site.environment.update(DRAY_RESULT_BACKEND=url, DRAY_STORE_URL="disabled")
        yield proxy


def written(site: Site, ids: list[str]) -> bool:
    return {site.app.AsyncResult(id).state for id in ids} == {"SUCCESS"}


@pytest.mark.fault("F13", "the result backend is away from the start, and comes", quick=("redis",))
def test_tasks_are_sent_and_run_without_a_result_backend(site: Site, results: Proxy) -> None:
    results.be_away()
    ids = [site.send("work", n) for n in range(40)]
    worker = site.worker()
    site.settled(20)
    assert not site.missing()
    assert worker.alive
    results.be_back()
    back = SYSTEM_CLOCK.monotonic()
    wait_until(lambda: written(site, ids), timeout=20, look=0.1)
    seconds = SYSTEM_CLOCK.monotonic() - back
    site.account(seconds)


@pytest.mark.fault("F13", "the result backend goes away under load, and comes back", quick=("redis",))
def test_results_of_tasks_that_ended_meanwhile_are_written_later(site: Site, seed: int, results: Proxy) -> None:
    ids = [site.send("work", n, 0.02) for n in range(100)]
    worker = site.worker()
    site.wait_for_runs(site.random.randint(10, 60), 0)
    results.be_away()
    ids += [site.send("work", n, 0.02) for n in range(50)]
    pause(site.random.uniform(1, 4))
    results.be_back()
    back = SYSTEM_CLOCK.monotonic()
    site.settled(30)
    wait_until(lambda: written(site, ids), timeout=20, look=0.1)
    seconds = SYSTEM_CLOCK.monotonic() - back
    assert worker.alive
    site.account(seconds)
