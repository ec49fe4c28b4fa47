"""An app on memory with the real engine, and what most tests of the worker loop need around it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from dray import Dray, Envelope, Waiting
from dray.clock import SYSTEM_CLOCK, Clock
from dray.testing import memory_app
from dray.testing.faults import FlakyBackend, FlakyBroker


class Shop(NamedTuple):
    """An app, and the flaky adapters it stands on."""

    app: Dray
    broker: FlakyBroker
    backend: FlakyBackend

    def put(self, body: bytes, id: str = "planted", queue: str = "default") -> None:
        """Publish bytes as they are, past everything that a sender would refuse."""
        self.app.broker.publish([Envelope(id=id, queue=queue, body=body)])

    def dead(self, queue: str = "default") -> list[Waiting]:
        return list(self.app.broker.dead(queue, 1000))

    def sizes(self, queue: str = "default") -> dict[str, int]:
        return dict(self.app.broker.sizes([queue])[queue])

    def run(self, **options: Any) -> int:
        return self.app.worker(**options).run_until_idle()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait for seconds before trying again."""
    monkeypatch.setattr("dray.source.LONGEST_PAUSE", 0.1)
    monkeypatch.setattr("dray.outage.LONGEST_PAUSE", 0.1)


@pytest.fixture
def shop_with() -> Iterator[Callable[..., Shop]]:
    """`shop_with(clock=None, **settings)`: apps of their own, closed at the end."""
    made: list[Dray] = []

    def make(clock: Clock = SYSTEM_CLOCK, **settings: Any) -> Shop:
        app = memory_app(clock, **{"worker_concurrency": 4, **settings})
        made.append(app)
        return Shop(app, FlakyBroker.between(app), FlakyBackend.between(app))

    yield make
    for app in made:
        app.close()


@pytest.fixture
def shop(shop_with: Callable[..., Shop]) -> Shop:
    """An app with four threads for `def` tasks."""
    return shop_with()


class Gate:
    """Holds tasks until the test lets them go, and tells how many have come."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self._lock = threading.Lock()
        self.entered: list[Any] = []

    def pass_through(self, who: Any = None) -> None:
        with self._lock:
            self.entered.append(who)
        if not self.opened.wait(30):
            raise TimeoutError("nobody opened the gate")

    def open(self) -> None:
        self.opened.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open()


@pytest.fixture
def value() -> Callable[..., Any]:
    """`value(result)`: what became of it, at once: the value or the exception."""
    return lambda result: result.get(timeout=10, propagate=False)
