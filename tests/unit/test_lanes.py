"""Lanes: which queue a tenant's calls are put into, and that workers take from all of them in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from dray import Dray, ManualClock, NotSupported, Queue, chain, states
from dray.credit import Credit
from dray.lanes import lane_of, lanes_of
from dray.queues import declared
from dray.testing import memory_app

LANES = 4


@pytest.fixture
def app_with() -> Iterator[Callable[..., Dray]]:
    made: list[Dray] = []

    def make(**settings: Any) -> Dray:
        made.append(memory_app(ManualClock(), **{"task_tenant_lanes": {"exports": LANES}, **settings}))
        return made[-1]

    yield make
    for app in made:
        app.close()


def noting(app: Dray, **options: Any) -> tuple[Any, list[Any]]:
    """Return a task with these options in the queue `exports`, and the arguments with which it ran, in order."""
    ran: list[Any] = []
    return app.task(name="t", queue="exports", **options)(lambda who: ran.append(who)), ran


def stand_in(app: Dray, tenant: str) -> str:
    return lane_of(lanes_of(app.conf)["exports"], tenant)


def waiting(app: Dray) -> dict[str, int]:
    """Return how many messages are ready in each queue that has some."""
    return {queue: sizes["ready"] for queue, sizes in app.broker.sizes(app.broker.queues()).items() if sizes["ready"]}


def test_ten_of_one_tenant_do_not_wait_for_the_thousand_of_another(app_with: Callable[..., Dray]) -> None:
    app = app_with(worker_prefetch_multiplier=1, worker_concurrency=1)
    task, ran = noting(app)
    assert stand_in(app, "acme") != stand_in(app, "tiny")
    for _ in range(1000):
        task.apply_async(("acme",), tenant="acme")
    for _ in range(10):
        task.apply_async(("tiny",), tenant="tiny")
    app.worker(["exports"]).run_until_idle()
    assert ran[:20] in (["acme", "tiny"] * 10, ["tiny", "acme"] * 10)
    assert len(ran) == 1010


def test_what_has_no_tenant_takes_turns_with_those_that_have_one(app_with: Callable[..., Dray]) -> None:
    app = app_with(worker_prefetch_multiplier=1, worker_concurrency=1)
    task, ran = noting(app)
    task.delay_many(("nobody",) for _ in range(5))
    for tenant in ("acme", "tiny"):
        for _ in range(5):
            task.apply_async((tenant,), tenant=tenant)
    app.worker(["exports"]).run_until_idle()
    assert all(set(ran[n : n + 3]) == {"nobody", "acme", "tiny"} for n in range(0, 15, 3))


def test_tenants_are_spread_over_the_lanes_the_same_way_for_ever(app_with: Callable[..., Dray]) -> None:
    lanes = lanes_of(app_with().conf)["exports"]
    assert lanes == ["exports__t0", "exports__t1", "exports__t2", "exports__t3"]
    # Written out: what an older dray has sent is to be in the same order with what a newer one sends.
    assert [lane_of(lanes, tenant)[-1] for tenant in ("acme", "tiny", "ä")] == ["2", "1", "3"]
    assert {lane_of(lanes, str(n)) for n in range(100)} == set(lanes)


def test_a_queue_without_lanes_refuses_tenants_also_when_a_function_chose_it(app_with: Callable[..., Dray]) -> None:
    app = app_with(task_routes=lambda name, args, *more: args[0])
    routed = app.task(name="routed")(lambda queue: None)
    routed.apply_async(("exports",), tenant="acme")
    with pytest.raises(NotSupported, match="task_tenant_lanes"):
        routed.apply_async(("other",), tenant="acme")
    assert waiting(app) == {stand_in(app, "acme"): 1}


def test_a_retry_stays_in_its_lane(app_with: Callable[..., Dray]) -> None:
    app = app_with()
    fails = app.task(name="fails", queue="exports", autoretry_for=(ValueError,))(lambda: int("x"))
    result = fails.apply_async(tenant="acme")
    app.worker(["exports"]).run_until_idle()
    assert result.state == states.RETRY
    assert app.broker.sizes([stand_in(app, "acme")])[stand_in(app, "acme")]["delayed"] == 1


def test_a_step_of_a_chain_may_have_a_tenant(app_with: Callable[..., Dray]) -> None:
    app = app_with()
    task, ran = noting(app)
    chain(task.si("first"), task.si("second").set(tenant="acme")).apply_async()
    worker = app.worker(["exports"])
    worker.run_until_idle()
    assert ran == ["first", "second"]


def test_lanes_share_the_limits_of_their_queue(app_with: Callable[..., Dray]) -> None:
    app = app_with(task_queue_limits={"exports": {"rate_limit": "1/h"}})
    task, ran = noting(app)
    for tenant in ("acme", "tiny"):
        task.apply_async((tenant,), tenant=tenant)
    app.worker(["exports"]).run_until_idle()
    assert len(ran) == 1


def test_lanes_share_what_a_worker_may_run_of_their_queue() -> None:
    turns = {"q": ["q", "q__t0", "q__t1"]}
    credit = Credit({"def": 8}, ["q", "other"], multiplier=1, caps={"q": 2}, turns=turns)
    assert credit.allow() == (["q", "q__t0", "q__t1", "other"], 2)
    credit.taken("q__t0", "def")
    assert credit.allow() == (["q", "q__t1", "q__t0", "other"], 1)
    credit.taken("q", "def")
    assert credit.allow() == (["other"], 6)


def test_a_worker_of_one_lane_alone_may_be_asked_for(app_with: Callable[..., Dray]) -> None:
    app = app_with()
    task, ran = noting(app)
    for tenant in ("acme", "tiny"):
        task.apply_async((tenant,), tenant=tenant)
    app.worker([stand_in(app, "tiny")]).run_until_idle()
    assert ran == ["tiny"]
    app.worker(["exports", stand_in(app, "acme")]).run_until_idle()
    assert ran == ["tiny", "acme"]


def test_where_the_brokers_keys_take_turns_there_are_no_lanes(
    app_with: Callable[..., Dray], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_with()
    task, ran = noting(app)
    fair = msgspec.structs.replace(app.broker.capabilities, key="fair")
    monkeypatch.setattr(app.broker, "capabilities", fair)
    task.apply_async(("acme",), tenant="acme")
    assert waiting(app) == {"exports": 1}
    asked: list[list[str]] = []
    consumer = app.broker.consumer
    monkeypatch.setattr(app.broker, "consumer", lambda queues, lease: asked.append(queues) or consumer(queues, lease))
    app.worker(["exports"]).run_until_idle()
    assert (asked, ran) == ([["exports"]], ["acme"])


def test_lanes_are_kept_like_their_queue_and_a_broadcast_has_none(app_with: Callable[..., Dray]) -> None:
    queues = [
        Queue(name="exports", arguments={"x-queue-type": "quorum"}),
        Queue(name="news", broadcast=True),
    ]
    app = app_with(task_queues=queues, task_tenant_lanes={"exports": 2, "news": 2})
    assert lanes_of(app.conf).keys() == {"exports"}
    kept = {queue.name: queue.arguments for queue in declared(app.conf)}
    assert kept["exports__t0"] == kept["exports__t1"] == kept["exports"]
