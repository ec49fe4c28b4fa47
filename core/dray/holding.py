"""How long an ack waits for others that fill its request, where a broker's requests are dear.

Nothing waits for its ack: the result is stored by then, and the job has made room for another. Killed meanwhile, the
message comes out again, as it would have a moment earlier.
"""

from __future__ import annotations

import math

from .clock import Clock

#: Seconds for which the oldest waits, while others end no further apart than that.
HOLD = 0.01


class Holding:
    """Says how many outcomes are settled now and how many wait, for one settler thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: Until when (monotonic) those that wait do so, if any do; and when the last round ended.
        self._until: float | None = None
        self._ended = -math.inf

    @property
    def any(self) -> bool:
        """Whether some wait."""
        return self._until is not None

    def left(self) -> float:
        """Return for how long those that wait still do so; for ever if there are none."""
        return math.inf if self._until is None else max(0.0, self._until - self._clock.monotonic())

    def ready(self, count: int, batch: int) -> int:
        """Return how many of `count`, the oldest, are settled now: what fills requests of `batch`, in the end all."""
        full = count - count % batch
        if full:
            return full
        may_wait = self.left() > 0 if self.any else self._clock.monotonic() < self._ended + HOLD
        return 0 if may_wait else count

    def round_ended(self, settled: int, waiting: int) -> None:
        """Note that a round has ended in which so many were settled, so that so many wait."""
        self._ended = self._clock.monotonic()
        if not waiting:
            self._until = None
        elif settled or self._until is None:
            # The oldest is another one now.
            self._until = self._ended + HOLD
