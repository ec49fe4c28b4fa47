"""The limit of memory://: a deque."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue

import msgspec
from contender import Answer, Ask, Spot

from limits.loop import BATCH, Call, Item, Loop, decode, encode


class MemoryLoop(Loop):
    """Calls in a deque, results in a dict."""

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot)
        self._line: deque[bytes] = deque()
        self._results: dict[int, bytes] = {}
        self._taken = 0

    def put(self, bodies: Sequence[bytes]) -> None:
        self._line.extend(bodies)

    def take(self) -> Sequence[Item]:
        items = [(self._taken + n, self._line.popleft()) for n in range(min(BATCH, len(self._line)))]
        self._taken += len(items)
        return items

    def settle(self, items: Sequence[Item], results: Sequence[bytes]) -> None:
        self._results.update((key, result) for (key, _), result in zip(items, results, strict=False))

    @contextmanager
    def answering(self) -> Iterator[Ask]:
        calls: SimpleQueue[bytes | None] = SimpleQueue()
        results: SimpleQueue[bytes] = SimpleQueue()

        def serve() -> None:
            while (body := calls.get()) is not None:
                results.put(encode(self.ledger.stamp(*decode(body).args)))

        def ask() -> Answer:
            sent = time.monotonic()
            calls.put(encode(Call("stamp", (0,))))
            started = msgspec.msgpack.decode(results.get(), type=float)
            return Answer(started - sent, time.monotonic() - sent)

        server = threading.Thread(target=serve)
        server.start()
        yield ask
        calls.put(None)
        server.join()
