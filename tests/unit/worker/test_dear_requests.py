"""What the engine does where every request to the broker is dear: it fills them, and only acks wait for that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec
import pytest

from dray import BrokerUnavailable, Consumer, Delivery, ManualClock, Message
from dray.credit import MOST, Credit
from dray.holding import HOLD
from dray.job import Ended, Job
from dray.outcome import Done
from dray.report import about
from dray.settle import Settler
from dray.testing.faults import wait_until

from .conftest import Shop

BATCH = 10


class Counter(Consumer):
    """Notes how many are acked at a time."""

    def __init__(self) -> None:
        self.acked: list[int] = []
        self.failing = 0

    def receive(self, limit: int, wait: float, queues: Sequence[str] | None = None) -> Sequence[Delivery]:
        return ()

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        if self.failing:
            self.failing -= 1
            raise BrokerUnavailable("away")
        self.acked.append(len(deliveries))
        return ()

    def requeue(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> Sequence[Delivery]:
        return ()

    def bury(self, deliveries: Sequence[Delivery], reason: str) -> Sequence[Delivery]:
        return ()

    def close(self) -> None: ...


class Till:
    """A settler before a broker with dear requests, and a clock that stands still."""

    def __init__(self, shop: Shop) -> None:
        inner = shop.broker.inner
        inner.capabilities = msgspec.structs.replace(inner.capabilities, request_batch=BATCH)
        self.app = shop.app
        self.clock = shop.app.clock
        self.task = self.app.task(name="shop.sell")(lambda: None)
        self.counter = Counter()
        self.settled: list[Job] = []
        self.parked: list[Job] = []
        self.settler = Settler(self.app, lambda: self.counter, self.settled.extend, self.parked.extend, 60.0)
        self._number = 0

    def end(self, count: int, *, result: bool = False) -> str:
        """Have so many tasks end; return the id of the last."""
        for _ in range(count):
            self._number += 1
            message = Message(id=f"m{self._number}", task="shop.sell", queue="default", payload=b"")
            delivery = Delivery(id=message.id, queue="default", body=b"", receipt=message.id)
            report = about(message, "SUCCESS") if result else None
            self.settler.put(Job(delivery, message, self.task, 1e12), Ended(Done(None), report))
        return f"m{self._number}"

    def later(self) -> None:
        """Let the moment pass for which an ack waits."""
        assert isinstance(self.clock, ManualClock)
        self.clock.advance(HOLD)

    def sells(self, *acked: int) -> None:
        """Wait until so many have been acked at a time."""
        wait_until(lambda: self.counter.acked == list(acked))


@pytest.fixture
def till(shop_with: Callable[..., Shop]) -> Iterator[Till]:
    made = Till(shop_with(ManualClock()))
    yield made
    assert made.settler.close(10)


# Settling


def test_what_ends_together_fills_requests_and_the_rest_follows_a_moment_later(till: Till) -> None:
    till.end(23)
    till.settler.start()
    wait_until(lambda: len(till.parked) == 3)
    assert till.counter.acked == [20]
    till.later()
    till.sells(20, 3)
    assert len(till.settled) == 23


def test_one_that_ends_by_itself_is_settled_at_once(till: Till) -> None:
    till.settler.start()
    for n in range(1, 4):
        till.end(1)
        till.sells(*[1] * n)
        till.later()


def test_what_ends_one_by_one_but_quickly_waits_until_it_fills_a_request(till: Till) -> None:
    till.settler.start()
    till.end(1)
    till.sells(1)
    for n in range(1, BATCH):
        till.end(1)
        wait_until(lambda n=n: len(till.parked) == n)  # type: ignore[misc]
    assert till.counter.acked == [1]
    till.end(1)
    till.sells(1, BATCH)


def test_a_result_is_there_before_the_ack_that_waits(till: Till) -> None:
    till.settler.start()
    till.end(1)
    till.sells(1)
    id = till.end(1, result=True)
    assert till.app.backend is not None
    wait_until(lambda: id in till.app.backend.fetch([id]))  # type: ignore[union-attr]
    assert till.counter.acked == [1]
    till.later()
    till.sells(1, 1)


def test_nothing_waits_for_others_when_the_worker_stops(till: Till) -> None:
    till.settler.start()
    till.end(1)
    till.sells(1)
    till.end(3)
    wait_until(lambda: len(till.parked) == 3)
    assert till.settler.close(10)
    assert till.counter.acked == [1, 3]


def test_what_waits_for_others_survives_an_outage(till: Till) -> None:
    till.settler.start()
    till.end(1)
    till.sells(1)
    till.end(3)
    wait_until(lambda: len(till.parked) == 3)
    till.counter.failing = 3
    till.later()
    till.sells(1, 3)
    assert len(till.settled) == 4


# Receiving


def test_what_is_heavy_is_not_piled_up_however_short_it_is() -> None:
    credit = Credit({"def": 4}, ["q"])
    credit._lanes["def"].duration = 0.0
    assert credit.allow().limit == MOST
    credit.taken("q", "def", 2, 2 * 1024 * 1024)
    assert credit.allow().limit == 16 - 2
    # As many as run at a time, whatever they weigh.
    credit.taken("q", "def", 2, 200 * 1024 * 1024)
    assert credit.allow().limit == 0
    credit.taken("q", "def", 20, 4_000)
    assert credit._lanes["def"].room(None) > 0


@pytest.mark.parametrize(
    ("multiplier", "held", "room"),
    [
        # Forty may be held, four of them run: nine more are not worth a request, ten are.
        (10, 31, 0),
        (10, 30, 10),
        # Eight may be held: half of the four that lie ready.
        (2, 7, 0),
        (2, 6, 2),
        # None may lie ready, so none waits for others.
        (1, 3, 1),
    ],
)
def test_no_request_is_made_for_a_few_while_others_lie_ready(multiplier: int, held: int, room: int) -> None:
    credit = Credit({"def": 4}, ["q"], multiplier=multiplier, batch=BATCH)
    credit.taken("q", "def", held)
    assert credit.allow() == ((["q"], room) if room else ([], 0))
