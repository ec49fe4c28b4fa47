"""A message on its last delivery may be what ends its workers: it runs while nothing else does."""

from __future__ import annotations

import threading
import time

import pytest

from dray.testing.faults import wait_until

from .conftest import Gate, Shop

EMPTY = {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}


def deliver_in_vain(shop: Shop, times: int) -> None:
    """Have what waits delivered to workers that die."""
    for _ in range(times):
        consumer = shop.app.broker.consumer(["default"], 30)
        assert consumer.receive(100, 0)
        consumer.close()


@pytest.mark.parametrize("deliveries", [1, 2])
def test_only_the_last_delivery_of_a_message_runs_alone(shop: Shop, deliveries: int) -> None:
    lock, active, together = threading.Lock(), set[str](), [0]
    met = threading.Event()

    def come(who: str) -> None:
        with lock:
            active.add(who)
            if "suspect" in active:
                together.append(len(active))
        if len(active) > 1:
            met.set()

    @shop.app.task
    def suspect() -> None:
        come("suspect")
        # As long as it takes for another one to come beside it; or, alone, a moment in which one could.
        met.wait(10 if deliveries == 1 else 0.3)
        active.discard("suspect")

    @shop.app.task
    def innocent(n: int) -> None:
        come(f"innocent {n}")
        if deliveries == 1:
            met.wait(10)
        time.sleep(0.001)
        active.discard(f"innocent {n}")

    suspect.delay()
    deliver_in_vain(shop, deliveries)
    innocent.delay_many((n,) for n in range(50))
    assert shop.run() >= 51
    assert shop.sizes() == EMPTY
    assert max(together) == 1 if deliveries == 2 else max(together) > 1


def test_after_one_lease_others_run_beside_a_suspect_that_takes_long(shop: Shop, gate: Gate) -> None:
    @shop.app.task
    def suspect() -> None:
        gate.pass_through("suspect")

    @shop.app.task
    def innocent(n: int) -> int:
        return n

    slow = suspect.delay()
    deliver_in_vain(shop, 2)
    with shop.app.worker(lease=0.5):
        wait_until(lambda: gate.entered == ["suspect"])
        assert [result.get(timeout=10) for result in innocent.delay_many((n,) for n in range(5))] == list(range(5))
        assert not slow.ready()
        gate.open()
        wait_until(lambda: shop.sizes() == EMPTY)


def test_a_suspect_waits_for_long_tasks_for_one_lease_only(shop: Shop, gate: Gate) -> None:
    @shop.app.task
    def long() -> None:
        gate.pass_through("long")

    @shop.app.task
    def suspect() -> str:
        return "ran"

    late = suspect.delay()
    deliver_in_vain(shop, 2)
    (letter,) = shop.app.broker.peek("default", 1)
    assert letter.delivery_count == 2
    long.apply_async(priority=9)
    with shop.app.worker(lease=0.5):
        wait_until(lambda: gate.entered == ["long"])
        assert late.get(timeout=10) == "ran"
        gate.open()


def test_suspects_that_wait_for_their_turn_are_given_back_by_a_worker_that_stops(shop: Shop, gate: Gate) -> None:
    @shop.app.task
    def suspect(n: int) -> None:
        gate.pass_through(n)

    suspect.delay_many((n,) for n in range(3))
    deliver_in_vain(shop, 2)
    worker = shop.app.worker(concurrency=4, shutdown_timeout=20).start()
    try:
        wait_until(lambda: len(gate.entered) == 1)
        worker.request_stop()
    finally:
        gate.open()
        worker.stop()
    assert shop.sizes() == {**EMPTY, "ready": 2}
    assert {waiting.delivery_count for waiting in shop.app.broker.peek("default", 10)} == {2}


def test_what_was_lent_before_and_cannot_begin_at_once_is_given_back_uncharged(shop: Shop, gate: Gate) -> None:
    @shop.app.task
    def quick() -> None:
        """Until the worker is sure that it may take in a lot."""

    @shop.app.task
    def slow(n: int) -> None:
        gate.pass_through(n)

    held = {result.id for result in slow.delay_many([(n,) for n in range(10)], priority=0)}
    deliver_in_vain(shop, 1)
    quick.delay_many([()] * 1000, priority=9)
    worker = shop.app.worker(concurrency=2, shutdown_timeout=20).start()
    try:
        wait_until(lambda: len(gate.entered) == 2)
        # Quick ones may be there as well: those that came with slow ones that could begin at once.
        there = shop.app.broker.peek("default", 1010)
        counts = [each.delivery_count for each in there if each.id in held]
        assert len(counts) == 10
        # Two run, one may wait; the others have been lent in vain once, as before.
        assert counts.count(1) >= 7
    finally:
        gate.open()
        worker.stop()


def test_poison_is_buried_and_its_neighbours_are_not(shop: Shop) -> None:
    """Played through with deliveries in vain, as the acceptance tests do it with processes that die."""
    done: list[int] = []

    @shop.app.task
    def poison() -> None:
        raise AssertionError("it would have died")

    @shop.app.task
    def neighbour(n: int) -> None:
        done.append(n)

    poison.delay()
    neighbour.delay_many((n,) for n in range(5))
    deliver_in_vain(shop, 2)
    # On their last delivery each runs by itself. What dies then takes no other along: only it is delivered once more.
    consumer = shop.app.broker.consumer(["default"], 30)
    (first,) = consumer.receive(1, 0)
    assert first.delivery_count == 3
    consumer.close()
    assert shop.run() >= 6
    assert sorted(done) == list(range(5))
    (letter,) = shop.dead()
    assert letter.id == first.id
