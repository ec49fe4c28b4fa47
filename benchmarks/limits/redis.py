"""The limit of redis://: a list of calls, and a list of those that are lent; fetched and acked by scripts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import redis
from contender import Spot

from limits.loop import BATCH, KEPT, PATIENCE, TOO_LONG, Item, SharedLoop

TAKE = """
local taken = redis.call('LPOP', KEYS[1], ARGV[1])
if taken then redis.call('RPUSH', KEYS[2], unpack(taken)) end
return taken
"""
ACK = "redis.call('LTRIM', KEYS[1], ARGV[1], -1)"
CALLS, LENT, RESULTS, RESULT = "limit:calls", "limit:lent", "limit:results", "limit:result:"


class RedisLoop(SharedLoop):
    """One connection. Killed, it leaves what it had taken in the second list."""

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot)
        self._redis = redis.Redis.from_url(spot.servers["redis"], protocol=2)
        self._take = self._redis.register_script(TAKE)
        self._ack = self._redis.register_script(ACK)
        self._stored = 0

    def put(self, bodies: Sequence[bytes]) -> None:
        self._redis.rpush(CALLS, *bodies)

    def take(self) -> Sequence[Item]:
        return [(None, body) for body in self._take(keys=[CALLS, LENT], args=[BATCH]) or ()]

    def settle(self, items: Sequence[Item], results: Sequence[bytes]) -> None:
        self.store(results)
        self._ack(keys=[LENT], args=[len(items)])

    def call(self, body: bytes) -> bytes:
        self.put([body])
        return self.result()

    def result(self) -> bytes:
        """Wait for the result of a call."""
        came: Any = self._redis.blpop([RESULTS], TOO_LONG)
        if came is None:
            raise RuntimeError("no answer")
        return bytes(came[1])

    def store(self, results: Sequence[bytes]) -> None:
        """Store results only: also for loops whose server keeps none."""
        if not results:
            return
        with self._redis.pipeline(transaction=False) as pipeline:
            for result in results:
                self._stored += 1
                pipeline.set(f"{RESULT}{self._stored}", result, ex=KEPT)
            pipeline.execute()

    def tell(self, result: bytes) -> None:
        """Give the result of a call to who waits for it."""
        self._redis.rpush(RESULTS, result)

    def serve(self, answer: Callable[[bytes], bytes], ended: Callable[[], bool]) -> None:
        while not ended():
            came: Any = self._redis.blpop([CALLS], PATIENCE)
            if came is not None:
                self.tell(answer(came[1]))

    def close(self) -> None:
        self._redis.close()
        super().close()
