"""Tenants take turns in a queue, on brokers that know nothing of them."""

from __future__ import annotations

from uuid import uuid4

import pytest

from dray import Dray
from dray.lanes import lane_of, lanes_of
from dray.testing.faults import wait_until

#: Of each place: the fixture that has the server, and the URL made of that server's.
PLACES = {
    "sqlite": ("tmp_path", lambda folder: f"sqlite:///{folder}/queue.db"),
    "redis": ("redis_server", lambda server: server.url),
    "rabbitmq": ("rabbitmq_server", lambda server: server.url),
    "postgresql": ("postgres_server", lambda server: server.url),
}
MANY, FEW = 1000, 10


@pytest.mark.parametrize("place", PLACES)
def test_a_tenant_with_ten_does_not_wait_for_one_with_a_thousand(place: str, request: pytest.FixtureRequest) -> None:
    fixture, url_of = PLACES[place]
    url, queue = url_of(request.getfixturevalue(fixture)), f"exports-{uuid4().hex[:8]}"
    ran: list[str] = []
    with Dray(
        "tenants",
        broker=url,
        result_backend="disabled",
        task_tenant_lanes={queue: 16},
        worker_prefetch_multiplier=1,
        set_as_current=False,
    ) as app:
        task = app.task(name="export", queue=queue)(ran.append)
        lanes = lanes_of(app.conf)[queue]
        assert lane_of(lanes, "big") != lane_of(lanes, "small")
        for tenant, count in (("big", MANY), ("small", FEW)):
            signature = task.s(tenant).set(tenant=tenant)
            for _ in range(count):
                signature.apply_async()
        with app.worker([queue], concurrency=1):
            wait_until(lambda: len(ran) >= MANY + FEW, 120)
        assert sorted(ran) == ["big"] * MANY + ["small"] * FEW
        # One of each in turns; the first may come before the other lane was looked at.
        assert [n for n, tenant in enumerate(ran) if tenant == "small"][-1] <= 2 * FEW + 2
        assert not any(count for sizes in app.broker.sizes([queue, *lanes]).values() for count in sizes.values())
