"""What every section stands on: how a subclass describes its broker, and the few tools the tests are written with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ...broker import Broker, Consumer
from ...clock import SYSTEM_CLOCK, ManualClock
from ...message import Delivery, Envelope

#: A loan or delay that no test outlives (seconds).
LONG = 300.0


def needs(broker: Broker, capability: str, what: float | str | None = None) -> None:
    """Skip the running test unless `broker` declares `capability`: at least `what` of it, or the very word `what`."""
    value = getattr(broker.capabilities, capability)
    if isinstance(what, str):
        enough, wanted = value == what, f"{capability} = {what}"
    elif what is not None:
        enough, wanted = value >= what, f"{capability} >= {what:g}"
    else:
        enough, wanted = bool(value), capability
    if not enough:
        pytest.skip(f"needs capability: {wanted}")


def envelope(id: str, queue: str = "q", body: bytes | None = None, **fields: Any) -> Envelope:
    """Return an envelope with a body that tells whose it is."""
    return Envelope(id=id, queue=queue, body=f"body of {id}".encode() if body is None else body, **fields)


def ids(found: Iterable[Any]) -> list[str]:
    """Return the ids of deliveries or waiting messages, in their order."""
    return [each.id for each in found]


class BrokerKit:
    """How a subclass describes its broker. Only `make_broker` is required."""

    #: Seconds of a short loan and of a short delay, in tests that let one run out. At least the broker's own grain.
    lease: float = 0.4
    #: Seconds a message that is there may take to come out; spent only by brokers that are slow, or wrong. A
    #: broker on a `ManualClock` sets this and `moment` to 0, because waiting does not move its clock.
    patience: float = 5.0
    #: Seconds to listen before saying that nothing comes.
    moment: float = 0.05
    #: Messages in the tests that let threads race.
    many: int = 2000

    def make_broker(self, tmp_path: Path) -> Broker:
        """Return a broker, not yet opened, onto an empty place of its own.

        When more than a temporary folder is needed (a server's fixture), override the fixture `broker` instead.
        """
        raise NotImplementedError("say how to make the broker: def make_broker(self, tmp_path): return ...")

    def second(self, broker: Broker) -> Broker:
        """Return another open connection to the same place; `broker` itself when it is not shared."""
        if not broker.capabilities.shared:
            return broker
        other = type(broker)(broker.url)
        other.clock = broker.clock
        other.open()
        return other

    def pass_time(self, broker: Broker, seconds: float) -> None:
        """Let `seconds` pass on the clock the broker goes by."""
        if isinstance(broker.clock, ManualClock):
            broker.clock.advance(seconds)
        else:
            SYSTEM_CLOCK.wait(threading.Event(), seconds)

    def cut(self, broker: Broker) -> None:
        """Break the broker's connection under it, as a network does. Without this override one test is skipped."""
        pytest.skip("the subclass does not say how to cut the connection: def cut(self, broker)")

    @pytest.fixture
    def broker(self, tmp_path: Path) -> Iterator[Broker]:
        """The broker under test, open."""
        broker = self.make_broker(tmp_path)
        broker.open()
        yield broker
        broker.close()

    @pytest.fixture(autouse=True)
    def _tidy(self, broker: Broker, record_property: Callable[[str, object], None]) -> Iterator[None]:
        """Tell the grade card what the broker declares; close the consumers a test has opened."""
        record_property("dray_capabilities", msgspec.json.encode(broker.capabilities).decode())
        yield
        self._close_consumers()

    # The tools of the tests.

    def send(self, broker: Broker, *messages: str | Envelope, **fields: Any) -> None:
        """Publish messages in batches the broker takes; a bare id stands for an envelope with these `fields`."""
        batch = [envelope(each, **fields) if isinstance(each, str) else each for each in messages]
        size = broker.capabilities.max_publish_batch
        for start in range(0, len(batch), size):
            broker.publish(batch[start : start + size])

    def consumer(self, broker: Broker, *queues: str, lease: float = LONG) -> Consumer:
        """Open a consumer of `queues` ("q" when none are given); it is closed when the test ends."""
        consumer = broker.consumer(queues or ("q",), lease)
        self.__dict__.setdefault("_consumers", []).append(consumer)
        return consumer

    def take(self, consumer: Consumer, n: int = 1, **options: Any) -> list[Delivery]:
        """Receive `n` deliveries, or as many as come while patience lasts."""
        end = SYSTEM_CLOCK.monotonic() + self.patience
        taken: list[Delivery] = []
        while len(taken) < n:
            left = max(0.0, end - SYSTEM_CLOCK.monotonic())
            came = consumer.receive(n - len(taken), left, **options)
            taken += came
            if not came and left <= 0:
                break
        return taken

    def left(self, consumer: Consumer) -> Sequence[str]:
        """Return the ids of what comes out within a moment: `[]` is what most tests hope for."""
        return ids(consumer.receive(10, self.moment))

    @contextmanager
    def another(self, broker: Broker) -> Iterator[Broker]:
        """Give a second connection; it is closed at the end, and all consumers before it."""
        other = self.second(broker)
        try:
            yield other
        finally:
            self._close_consumers()
            if other is not broker:
                other.close()

    def _close_consumers(self) -> None:
        for consumer in self.__dict__.pop("_consumers", ()):
            consumer.close()
