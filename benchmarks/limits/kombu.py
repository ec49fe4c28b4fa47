"""The limit of kombu+redis://: kombu itself, message by message, and results in Redis."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence

from contender import Spot
from kombu import Connection, Queue

from limits.loop import BATCH, PATIENCE, Item, SharedLoop
from limits.redis import RedisLoop


class KombuLoop(SharedLoop):
    """One of kombu's simple queues: a message is written, read and acked at a time."""

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot)
        self._results = RedisLoop(spot)
        self._connection = Connection(spot.servers["redis"])
        self._queue = self._connection.SimpleQueue(Queue("limit", routing_key="limit"))

    def put(self, bodies: Sequence[bytes]) -> None:
        for body in bodies:
            self._queue.put(body)

    def take(self) -> Sequence[Item]:
        items: list[Item] = []
        try:
            while len(items) < BATCH:
                message = self._queue.get_nowait()
                items.append((message, message.body))
        except queue.Empty:
            pass
        return items

    def settle(self, items: Sequence[Item], results: Sequence[bytes]) -> None:
        self._results.store(results)
        for message, _ in items:
            message.ack()

    def call(self, body: bytes) -> bytes:
        self.put([body])
        return self._results.result()

    def serve(self, answer: Callable[[bytes], bytes], ended: Callable[[], bool]) -> None:
        while not ended():
            try:
                message = self._queue.get(timeout=PATIENCE)
            except queue.Empty:
                continue
            self._results.tell(answer(message.body))
            message.ack()

    def close(self) -> None:
        self._queue.close()
        self._connection.release()
        self._results.close()
        super().close()
