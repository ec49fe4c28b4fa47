"""A `receive` that waits returns when its consumer is woken, whatever stands around that consumer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dray import Broker, Delivery, Url
from dray.assisted import Assisted
from dray.failover import Failover
from dray.testing import FlakyBroker
from dray_brokers.memory import MemoryBroker
from dray_brokers.sqlite import SqliteBroker


def memory() -> Broker:
    return MemoryBroker(Url.parse("memory://"))


MADE: dict[str, Callable[[Path], Broker]] = {
    "memory": lambda folder: memory(),
    "sqlite": lambda folder: SqliteBroker(Url.parse(f"sqlite:///{folder}/queue.db")),
    "assisted": lambda folder: Assisted(memory(), None, 0.0),
    "failover": lambda folder: Failover([memory()]),
    "flaky": lambda folder: FlakyBroker(memory()),
}


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("early", [False, True], ids=["while it waits", "before it waits"])
def test_a_receive_returns_when_its_consumer_is_woken(kind: str, early: bool, tmp_path: Path) -> None:
    broker = MADE[kind](tmp_path)
    broker.open()
    consumer = broker.consumer(["q"], lease=30.0)
    came: list[list[Delivery]] = []
    begins = threading.Event()

    def receive() -> None:
        begins.set()
        came.append(list(consumer.receive(1, 3600.0)))

    waiting = threading.Thread(target=receive, daemon=True)
    if early:
        consumer.wake()
    waiting.start()
    assert begins.wait(10)
    if not early:
        consumer.wake()
    waiting.join(10)
    assert came == [[]]
    broker.close()
