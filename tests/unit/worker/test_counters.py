"""Retries, deliveries and releases are counted apart; and an unknown task is handed back for the window of a deploy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dray import Dray, ManualClock, Task

from .conftest import Shop

Make = Callable[..., Shop]


def seen_by(app: Dray, name: str, **options: Any) -> list[tuple[int, int, int]]:
    """Register a task that fails; return where it notes its counters: retries, deliveries, releases."""
    seen: list[tuple[int, int, int]] = []

    @app.task(name=name, bind=True, dead_letter=True, **options)
    def task(self: Task[Any, Any]) -> None:
        seen.append((self.request.retries, self.request.delivery_count, self.request.releases))
        raise ValueError("no")

    return seen


def test_the_three_counters_are_seen_by_the_task_and_on_its_dead_letter(shop_with: Make) -> None:
    clock = ManualClock()
    shop = shop_with(clock, task_unknown_grace=60.0)
    shop.app.send_task("shop.new")
    for _ in range(2):  # a worker that does not know it
        shop.run()
        clock.advance(5)
    shop.app.broker.consumer(["default"], 5.0).receive(1, 0)  # a worker that is killed
    clock.advance(6)
    seen = seen_by(shop.app, "shop.new", autoretry_for=(ValueError,), max_retries=1, default_retry_delay=0)
    shop.run()
    assert seen == [(0, 2, 2), (1, 1, 2)]
    (letter,) = shop.app.dead_letters.find()
    assert (letter.retries, letter.deliveries, letter.releases) == (1, 1, 2)


def test_what_a_worker_gives_back_is_not_charged_as_a_delivery(shop: Shop) -> None:
    seen = seen_by(shop.app, "shop.task")
    shop.app.tasks["shop.task"].delay()
    consumer = shop.app.broker.consumer(["default"], 5.0)
    for _ in range(5):
        consumer.release(consumer.receive(1, 0))
    shop.run()
    assert seen == [(0, 1, 0)]


def test_outside_a_worker_all_counters_are_0_or_1(shop: Shop) -> None:
    task = shop.app.task(name="shop.task")(lambda: None)
    assert (task.request.retries, task.request.delivery_count, task.request.releases) == (0, 1, 0)


def test_what_has_waited_for_long_is_handed_back_as_well(shop_with: Make) -> None:
    clock = ManualClock()
    shop = shop_with(clock, task_unknown_grace=12.0)
    shop.app.send_task("shop.new")
    clock.advance(3600)
    came = 0
    while not shop.dead():
        came += shop.run()
        clock.advance(5)
    # After 0, 5 and 10 seconds it is handed back, and after 15 buried.
    assert came == 4


def test_the_window_is_a_minute_by_default() -> None:
    assert Dray(set_as_current=False).conf.task_unknown_grace == 60.0


def test_where_the_broker_has_no_delays_an_unknown_task_is_buried_at_once(shop_with: Make, monkeypatch: Any) -> None:
    import msgspec

    shop = shop_with(ManualClock(), task_unknown_grace=60.0)
    monkeypatch.setattr(
        shop.app.broker, "capabilities", msgspec.structs.replace(shop.app.broker.capabilities, max_delay=0.0)
    )
    shop.app.send_task("shop.new")
    shop.run()
    assert len(shop.dead()) == 1
