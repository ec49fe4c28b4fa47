"""Broker and result backend away, refusing, forgetful or broken: the worker goes on, and nothing runs twice for it."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dray import BackendError, BrokerError, BrokerUnavailable, Record
from dray.testing.background import Background
from dray.testing.faults import wait_until

from .conftest import Gate, Shop

Make = Callable[..., Shop]
EMPTY = {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[str], int]:
    """`said("broker away")`: how many lines of the worker's log begin like that."""
    caplog.set_level(logging.INFO, "dray.worker")
    return lambda words: sum(record.getMessage().startswith(words) for record in caplog.records)


def test_a_task_is_settled_in_the_order_follow_up_result_ack(shop: Shop) -> None:
    order: list[str] = []

    def watch(verb: str, moment: str) -> None:
        if moment == "after" and verb in ("publish", "store", "ack"):
            order.append(verb)

    @shop.app.task(bind=True, max_retries=1)
    def step(self: Any) -> int:
        if not self.request.retries:
            raise self.retry(countdown=0)
        return 1

    @shop.app.task(ignore_result=True)
    def follow(x: int) -> None: ...

    step.apply_async(link=follow.s())
    shop.broker.observe(watch)
    shop.backend.observe(watch)
    shop.run(concurrency=1)
    assert order == ["publish", "store", "ack"] * 2 + ["ack"]


def test_a_broker_outage_is_survived_and_said_once(shop: Shop, said: Callable[[str], int]) -> None:
    @shop.app.task
    def step(n: int) -> int:
        return n

    with shop.app.worker():
        assert step.delay(1).get(timeout=10) == 1
        shop.broker.sleep()
        seen = shop.broker.calls["open"]
        wait_until(lambda: shop.broker.calls["open"] >= seen + 4)
        shop.broker.wake()
        wait_until(lambda: said("broker back"))
        assert step.delay(2).get(timeout=10) == 2
    assert said("broker away") == 1
    assert said("broker back") == 1


def test_a_broker_that_connects_but_does_not_deliver_is_not_called_back(shop: Shop, said: Callable[[str], int]) -> None:
    @shop.app.task
    def step() -> int:
        return 1

    with shop.app.worker():
        shop.broker.fail("receive", times=4)
        wait_until(lambda: said("broker back"))
        assert step.delay().get(timeout=10) == 1
    assert said("broker away") == 1
    assert said("broker back") == 1


def test_a_broker_that_refuses_for_a_while_does_not_stop_a_running_worker(
    shop: Shop, said: Callable[[str], int]
) -> None:
    @shop.app.task
    def step() -> int:
        return 1

    with shop.app.worker():
        step.delay().get(timeout=10)
        shop.broker.fail("receive", BrokerError("the file is read-only"), times=3)
        wait_until(lambda: said("broker back"))
        assert step.delay().get(timeout=10) == 1
    assert said("broker away: the file is read-only") == 1


def test_a_broker_that_is_not_there_at_the_start_is_an_error_there(shop: Shop) -> None:
    shop.broker.sleep()
    with pytest.raises(BrokerUnavailable):
        shop.app.worker().start()


@pytest.mark.parametrize("running", [False, True])
def test_a_bug_in_an_adapters_receive_ends_the_worker_loudly(shop: Shop, gate: Gate, running: bool) -> None:
    @shop.app.task
    def step() -> int:
        gate.pass_through()
        return 1

    result = step.delay() if running else None
    worker = shop.app.worker()
    working = Background(worker.run)
    if running:
        wait_until(lambda: gate.entered)
    shop.broker.fail("receive", RuntimeError("a bug"))
    gate.open()
    with pytest.raises(RuntimeError, match="a bug"):
        working.result()
    if result is not None:
        assert result.get(timeout=5) == 1


@pytest.mark.parametrize("verb", ["publish", "ack"])
@pytest.mark.parametrize("how", ["away", "reply lost", "long away"])
def test_an_outage_while_settling_repeats_nothing(shop: Shop, verb: str, how: str) -> None:
    ran: Counter[str] = Counter()

    @shop.app.task
    def first(n: int) -> int:
        ran["first"] += 1
        return n

    @shop.app.task
    def second(n: int) -> int:
        ran["second"] += 1
        return n

    results = [first.apply_async((n,), link=second.s()) for n in range(5)]
    if how == "reply lost":
        shop.broker.lose_reply_of(verb, times=2)
    else:
        shop.broker.fail(verb, times=1 if how == "away" else 4)
    with shop.app.worker(concurrency=1) as worker:
        assert [r.get(timeout=20) for r in results] == list(range(5))
        wait_until(lambda: shop.sizes() == EMPTY)
    assert ran == {"first": 5, "second": 5}
    assert worker._settler.stale == 0


def test_a_lost_reply_of_receive_costs_one_lease_and_no_message(shop: Shop) -> None:
    seen = []

    @shop.app.task(bind=True)
    def step(self: Any) -> None:
        seen.append(self.request.delivery_count)

    result = step.delay()
    shop.broker.lose_reply_of("receive")
    with shop.app.worker(lease=0.3):
        result.get(timeout=10)
    assert seen == [2]


def test_results_wait_for_the_backend_while_other_tasks_go_on(shop: Shop, said: Callable[[str], int]) -> None:
    ran: Counter[str] = Counter()
    lock = threading.Lock()

    @shop.app.task
    def wanted(n: int) -> int:
        with lock:
            ran["wanted"] += 1
        return n

    @shop.app.task(ignore_result=True)
    def ignored() -> None:
        with lock:
            ran["ignored"] += 1

    with shop.app.worker(concurrency=2, lease=1.0):
        shop.backend.sleep()
        results = [wanted.delay(n) for n in range(20)]
        wait_until(lambda: ran["wanted"] == 20)
        for _ in range(20):
            ignored.delay()
        wait_until(lambda: ran["ignored"] == 20)
        # Their messages stay lent, and renewed, until what they came to is safe.
        seen = shop.broker.calls["extend"]
        wait_until(lambda: shop.broker.calls["extend"] > seen + 4)
        assert shop.sizes()["leased"] == 20
        shop.backend.wake()
        assert [r.get(timeout=10) for r in results] == list(range(20))
        wait_until(lambda: shop.sizes() == EMPTY)
        # There is room for as many as before.
        assert wanted.delay(1).get(timeout=10) == 1
    assert ran == {"wanted": 21, "ignored": 20}
    assert said("result backend away") == 1
    assert said("result backend back") == 1


def test_broker_and_backend_away_at_once_are_both_come_back_to(shop: Shop, gate: Gate) -> None:
    @shop.app.task
    def step() -> int:
        gate.pass_through()
        return 1

    result = step.delay()
    with shop.app.worker(concurrency=1):
        wait_until(lambda: gate.entered)
        shop.broker.fail("ack", times=2)
        gate.open()
        wait_until(lambda: shop.broker.calls["ack"] >= 1)
        shop.backend.sleep()
        again = step.delay()
        wait_until(lambda: shop.sizes() == {**EMPTY, "leased": 1})
        opened = shop.backend.calls["open"]
        wait_until(lambda: shop.backend.calls["open"] > opened)
        shop.backend.wake()
        assert (result.get(timeout=10), again.get(timeout=10)) == (1, 1)
        wait_until(lambda: shop.sizes() == EMPTY)


def test_progress_during_a_backend_outage_is_said_once_and_kept_small(
    shop: Shop, gate: Gate, said: Callable[[str], int]
) -> None:
    @shop.app.task(bind=True)
    def step(self: Any) -> int:
        for n in range(2000):
            self.update_state(state="PROGRESS", meta={"done": n})
        gate.pass_through()
        return 1

    with shop.app.worker(lease=0.6):
        shop.backend.sleep()
        result = step.delay()
        wait_until(lambda: gate.entered and shop.backend.calls["open"] >= 4)
        assert said("result backend away") == 1
        shop.backend.wake()
        wait_until(lambda: result.state == "PROGRESS" and result.info == {"done": 1999})
        gate.open()
        assert result.get(timeout=10) == 1
    assert said("result backend back") == 1


def choosy(shop: Shop, bad: set[str], error: Exception) -> None:
    """Have the backend raise `error` for every batch that holds one of the ids in `bad`."""
    store = shop.backend.inner.store

    def choose(records: Sequence[Record], ttl: float | None) -> None:
        if any(record.id in bad and len(record.body) > 2000 for record in records):
            raise error
        store(records, ttl)

    shop.backend.inner.store = choose  # type: ignore[method-assign]


def test_a_result_the_backend_refuses_becomes_a_failure_and_costs_no_other(shop: Shop) -> None:
    @shop.app.task
    def step(n: int) -> str:
        return "x" * n

    results = [step.delay(n) for n in (1, 2, 5000, 3, 4)]
    choosy(shop, {results[2].id}, BackendError("larger than I take"))
    shop.run()
    assert [r.get(timeout=5, propagate=False) for r in results[:2] + results[3:]] == ["x", "xx", "xxx", "xxxx"]
    assert results[2].state == "FAILURE"
    assert "larger than I take" in str(results[2].get(timeout=5, propagate=False))
    assert shop.sizes() == EMPTY


def test_a_backend_that_refuses_everything_is_waited_for(shop: Shop) -> None:
    ran = []

    @shop.app.task
    def step(n: int) -> int:
        ran.append(n)
        return n

    shop.backend.fail("store", BackendError("the disk is read-only"), times=12)
    with shop.app.worker():
        results = [step.delay(n) for n in range(3)]
        assert [r.get(timeout=20) for r in results] == [0, 1, 2]
    assert sorted(ran) == [0, 1, 2]


def test_an_outcome_that_cannot_be_written_costs_no_other_and_is_buried_in_the_end(shop: Shop) -> None:
    ran: Counter[int] = Counter()

    @shop.app.task
    def step(n: int) -> str:
        ran[n] += 1
        return "x" * n

    results = [step.delay(n) for n in (1, 2, 5000, 3, 4)]
    choosy(shop, {results[2].id}, RuntimeError("a bug in the adapter"))
    with shop.app.worker(concurrency=1, lease=0.3):
        good = results[:2] + results[3:]
        assert [r.get(timeout=10) for r in good] == ["x", "xx", "xxx", "xxxx"]
        wait_until(lambda: shop.dead())
    (letter,) = shop.dead()
    assert letter.id == results[2].id
    assert "a bug in the adapter" in letter.reason
    assert ran == {1: 1, 2: 1, 3: 1, 4: 1, 5000: 3}


def test_a_delivery_the_broker_refuses_to_settle_costs_no_other(shop: Shop) -> None:
    ran: Counter[int] = Counter()

    @shop.app.task
    def step(n: int) -> int:
        ran[n] += 1
        return n

    results = [step.delay(n) for n in range(5)]
    refused = threading.Event()

    class Refusing:
        """Refuses the first delivery of one id, alone or in company."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def ack(self, deliveries: Sequence[Any]) -> Any:
            if any(d.id == results[2].id and d.delivery_count == 1 for d in deliveries):
                refused.set()
                raise BrokerError("not this one")
            return self._inner.ack(deliveries)

    consumer = shop.broker.inner.consumer
    shop.broker.inner.consumer = lambda queues, lease: Refusing(consumer(queues, lease))  # type: ignore[assignment,method-assign,return-value]
    with shop.app.worker(concurrency=1, lease=0.3):
        assert [r.get(timeout=10) for r in results] == list(range(5))
        while shop.app.broker.find([results[2].id]):
            # Others end meanwhile; while it alone is refused, it could be the broker that refuses.
            step.delay(9).get(timeout=10)
        wait_until(lambda: shop.sizes() == EMPTY)
    assert refused.is_set()
    # It came again when its lease was over, and was recognised: its result was stored before the ack was refused.
    assert {n: ran[n] for n in range(5)} == dict.fromkeys(range(5), 1)


def test_a_follow_up_that_can_never_be_sent_leaves_the_message_in_the_dead_letters(shop: Shop) -> None:
    @shop.app.task
    def first() -> str:
        return "x"

    @shop.app.task
    def second(x: str) -> None: ...

    result = first.apply_async(link=second.s().set(countdown=1e12))
    good = first.delay()
    shop.run()
    (letter,) = shop.dead()
    assert letter.id == result.id
    assert "cannot be sent" in letter.reason
    assert good.get(timeout=5) == "x"


def test_a_task_whose_own_result_backend_is_away_holds_up_no_other(shop: Shop, tmp_path: Path) -> None:
    folder = tmp_path / "not there yet"

    @shop.app.task(backend=f"sqlite:///{folder}/results.db")
    def kept_apart(n: int) -> int:
        return n

    @shop.app.task
    def kept_with_the_rest(n: int) -> int:
        return n

    apart = kept_apart.delay(1)
    with shop.app.worker():
        wait_until(lambda: shop.sizes()["leased"] == 1)
        assert kept_with_the_rest.delay(2).get(timeout=10) == 2
        wait_until(lambda: shop.sizes() == {**EMPTY, "leased": 1})
        folder.mkdir()
        assert apart.get(timeout=20) == 1
    assert shop.sizes() == EMPTY
