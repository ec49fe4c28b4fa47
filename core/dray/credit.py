"""How much a worker may borrow: enough to keep every slot busy for a tenth of a second, and never more.

Long tasks are not hoarded, for others could run them; short ones are not starved, for a batch costs one round trip.
What is heavy is not piled up in memory, however quickly it runs.
Where each request is dear, none is made for a few while others lie ready.
What kind of task a queue will bring is learned from what it brought: a queue of `def` tasks waits when the threads are
full while a queue of `async def` tasks goes on.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .lanes import homes_of

if TYPE_CHECKING:
    from .job import Job

#: Seconds of work that may lie ready.
AHEAD = 0.1
#: Most deliveries held for one executor, however short the tasks are; and most bytes of their bodies, unless those that
#: run have more.
MOST, MOST_BYTES = 2048, 16 * 1024 * 1024
#: Weight of what was just seen in the running averages.
LEARNING = 0.2


class Allowance(NamedTuple):
    """Which queues to look at, in this order, and how many to take at most."""

    queues: Sequence[str]
    limit: int


class _Lane:
    """What is known of one executor: its slots, how long its tasks take (seconds), how many it holds, of which size."""

    def __init__(self, slots: int, batch: int) -> None:
        self.slots = slots
        self.batch = batch
        self.duration = 1.0
        self.held = 0
        self.seen = False
        #: Bytes of a body, on the average; 0: nothing has come yet.
        self.size = 0.0

    def room(self, multiplier: float | None) -> int:
        return self._most(multiplier) - self.held

    def worthwhile(self, multiplier: float | None) -> int:
        """Return the room, but none while it is for a few only and half of what may lie ready still does."""
        most = self._most(multiplier)
        room, reserve = most - self.held, most - self.slots
        return room if room >= min(self.batch, (reserve + 1) // 2) else 0

    def _most(self, multiplier: float | None) -> int:
        if multiplier is not None:
            return int(self.slots * multiplier) or MOST
        ready = AHEAD / self.duration if self.duration > 0 else MOST
        most = min(MOST, int(MOST_BYTES / self.size)) if self.size else MOST
        return min(int(self.slots * max(1.0, ready)), max(most, self.slots))


class Credit:
    """Decides how much to receive. `allow` and `taken` are called by the source thread, `ended` by the settler."""

    def __init__(
        self,
        slots: Mapping[str, int],
        queues: Sequence[str],
        *,
        multiplier: float | None = None,
        caps: Mapping[str, int] | None = None,
        weights: Mapping[str, int] | None = None,
        expected: Mapping[str, str] | None = None,
        batch: int = 1,
        turns: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._lanes = {kind: _Lane(count, batch) for kind, count in slots.items()}
        self._queues = list(queues)
        self._multiplier = multiplier
        self._caps = dict(caps or {})
        self._weights = weights
        #: What stands for a queue, in turns: that from which something was taken longest ago comes first.
        self._turns = {queue: list(lanes) for queue, lanes in (turns or {}).items()}
        self._homes = homes_of(self._turns)
        #: Two threads count what is held: one up, the other down.
        self._lock = threading.Lock()
        self._held = dict.fromkeys(queues, 0)
        #: For each queue, the share of each kind among what it brought, as far as it is known.
        self._mix: dict[str, dict[str, float]] = {queue: {} for queue in queues}
        for queue, kind in (expected or {}).items():
            self._mix[queue] = {one: 1.0 if one == kind else 0.0 for one in slots}

    def allow(self) -> Allowance:
        """Return what may be received now; no queues when there is no room."""
        rooms = {queue: self._room(queue) for queue in self._queues}
        open_queues = [queue for queue in self._ordered() if rooms[queue] > 0]
        limit = min((rooms[queue] for queue in open_queues), default=0)
        if self._turns:
            open_queues = [lane for queue in open_queues for lane in self._turns.get(queue, (queue,))]
        return Allowance(open_queues, limit)

    def taken(self, queue: str, kind: str, count: int = 1, size: int = 0) -> None:
        """Note that jobs of this kind have come from this queue, their bodies `size` bytes together."""
        if (home := self._homes.get(queue)) is not None:
            self._turns[home].remove(queue)
            self._turns[home].append(queue)
            queue = home
        taking = self._lanes[kind]
        with self._lock:
            self._held[queue] = self._held.get(queue, 0) + count
            taking.held += count
        mix = self._mix.setdefault(queue, {})
        kept = (1.0 - LEARNING) ** count
        mean = size / count
        taking.size = mean + (taking.size - mean) * kept if taking.size else mean
        for one in self._lanes:
            seen = 1.0 if one == kind else 0.0
            mix[one] = seen + (mix.get(one, seen) - seen) * kept

    def ended(self, jobs: Iterable[Job]) -> None:
        """Note that jobs are settled."""
        lanes, held, homes = self._lanes, self._held, self._homes
        with self._lock:
            for job in jobs:
                lane, duration = lanes[job.kind], job.ran
                queue = job.delivery.queue
                held[homes.get(queue, queue)] -= 1
                lane.held -= 1
                if duration is None:
                    continue
                if not lane.seen:
                    lane.seen, lane.duration = True, duration
                lane.duration += LEARNING * (duration - lane.duration)

    def resize(self, kind: str, slots: int) -> None:
        """Note that so many jobs of this kind run at a time from now on."""
        self._lanes[kind].slots = slots

    def full(self, kind: str) -> bool:
        """Return whether there is no room for another job of this kind: all slots are taken, and enough lies ready."""
        return self._lanes[kind].room(self._multiplier) <= 0

    def slower(self, kind: str, duration: float) -> None:
        """Note that jobs of this kind take at least `duration`: they run that long already, and have not ended."""
        lane = self._lanes[kind]
        lane.seen, lane.duration = True, max(lane.duration, duration)

    def _room(self, queue: str) -> int:
        mix = self._mix[queue]
        rooms = [
            int(lane.worthwhile(self._multiplier) / share)
            for kind, lane in self._lanes.items()
            if (share := mix.get(kind, 1.0 if not mix else 0.0)) > 0.02
        ]
        room = min(rooms, default=0)
        if not mix and room <= 0 < max(rooms, default=0):
            # It has brought nothing yet, and for some kind of task there is room: one message tells which kind it is.
            room = 1
        return min(room, self._caps[queue] - self._held[queue]) if queue in self._caps else room

    def _ordered(self) -> list[str]:
        """Return the queues as declared; or drawn by weight, each with a chance to be next in proportion to it."""
        weights = self._weights
        if weights is None:
            return self._queues
        drawn = {queue: random.random() ** (1.0 / max(weights.get(queue, 1), 1)) for queue in self._queues}
        return sorted(self._queues, key=drawn.__getitem__, reverse=True)
