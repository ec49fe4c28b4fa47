"""What all bare loops do: encode -> put; fetch a batch -> decode -> call -> store -> delete.

What dray adds is the price: no retries, leases, delays, checks, threads or logs; one sender and one worker.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import msgspec
from contender import Answer, Ask, Contender, Kind, Spot

#: Calls in one batch, where the server does not set another limit.
BATCH = 500
#: Seconds for which results are kept by servers that forget, as long as dray's.
KEPT = 86_400
#: Seconds after which a loop that waits for a call looks whether it should end, and after which no answer is an error.
PATIENCE, TOO_LONG = 0.2, 30.0


class Call(msgspec.Struct, array_like=True, frozen=True):
    """A message as small as it gets."""

    task: str
    args: tuple[int, ...]


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Call).decode

#: A call, and what is needed to store its result and delete it.
Item = tuple[Any, bytes]


class Loop(Contender):
    """The loop itself; a subclass adds where calls wait and results are kept."""

    #: Calls of one batch that is put.
    batch = BATCH

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot)
        self._tasks: dict[str, Callable[..., Any]] = {"def": self.ledger.tick, "async def": self.ledger.atick}

    @abstractmethod
    def put(self, bodies: Sequence[bytes]) -> None:
        """Store calls, all at once."""

    @abstractmethod
    def take(self) -> Sequence[Item]:
        """Borrow up to a batch of calls; none when there are no more."""

    @abstractmethod
    def settle(self, items: Sequence[Item], results: Sequence[bytes]) -> None:
        """Store results, if there are any, and delete calls that have run."""

    def send(self, count: int) -> None:
        for number in range(count):
            self.put((encode(Call("def", (number,))),))

    def send_many(self, count: int, kind: Kind = "def", stored: bool = False) -> None:
        for start in range(0, count, self.batch):
            self.put([encode(Call(kind, (number,))) for number in range(start, min(start + self.batch, count))])

    def work(self, kind: Kind, stored: bool) -> float:
        # There is nothing to start and to stop, and with few batches the first and the last would be missed.
        began = time.perf_counter()
        if kind == "async def":
            asyncio.run(self._awork(stored))
        else:
            self._work(stored)
        return time.perf_counter() - began

    def _work(self, stored: bool) -> None:
        while items := self.take():
            values = [self._run(body) for _, body in items]
            self.settle(items, _encoded(values) if stored else ())

    async def _awork(self, stored: bool) -> None:
        while items := self.take():
            # Side by side, as coroutines are meant to run, and not one after the other.
            values = await asyncio.gather(*(self._run(body) for _, body in items))
            self.settle(items, _encoded(values) if stored else ())

    def _run(self, body: bytes) -> Any:
        call = decode(body)
        return self._tasks[call.task](*call.args)


class SharedLoop(Loop):
    """A loop whose calls and results other processes see: its worker can be one of those."""

    @abstractmethod
    def call(self, body: bytes) -> bytes:
        """Send one call and return its result."""

    @abstractmethod
    def serve(self, answer: Callable[[bytes], bytes], ended: Callable[[], bool]) -> None:
        """Answer calls as soon as they come until it has `ended`."""

    @contextmanager
    def answering(self) -> Iterator[Ask]:
        spawning = multiprocessing.get_context("spawn")
        ready, stop = spawning.Event(), spawning.Event()
        process = spawning.Process(target=_answer, args=(type(self), self.spot, ready, stop), daemon=True)
        process.start()
        ready.wait()

        def ask() -> Answer:
            sent = time.monotonic()
            started = msgspec.msgpack.decode(self.call(encode(Call("stamp", (0,)))), type=float)
            return Answer(started - sent, time.monotonic() - sent)

        yield ask
        stop.set()
        process.join()


def _answer(kind: type[SharedLoop], spot: Spot, ready: Any, stop: Any) -> None:
    """Answer calls until told to stop: what the other process does."""
    with closing(kind(spot)) as loop:

        def answer(body: bytes) -> bytes:
            return encode(loop.ledger.stamp(*decode(body).args))

        ready.set()
        loop.serve(answer, stop.is_set)


def _encoded(values: Iterable[Any]) -> list[bytes]:
    return [encode(value) for value in values]
