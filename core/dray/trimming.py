"""Keeps the dead letters bounded: now and then a worker deletes the oldest that are too many, or too old.

Each worker does it about once an hour, by itself; several at the same moment do no harm, but may delete a batch more
than they had to. Killed in the middle, the rest goes the next time.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .assisted import LETTERS_MOST, Assisted
from .broker import Broker
from .errors import BrokerError

if TYPE_CHECKING:
    from .app import Dray

logger = logging.getLogger("dray.worker")

#: Seconds until a worker trims for the first time (two numbers: between them), and between two times, about.
FIRST, EVERY = (60.0, 600.0), 3600.0
#: The same where looking at dead letters means to borrow all of them.
EVERY_BORROWED = 86_400.0
#: How many letters are looked at, and deleted, at once.
BATCH = 500


class Trimmer:
    """Trims the dead letters of a worker's queues. `tick` is called now and then by one thread, and returns at once."""

    def __init__(self, app: Dray, queues: Sequence[str]) -> None:
        self._app = app
        self._queues = list(queues)
        now = app.clock.monotonic()
        self._next = now + random.uniform(*FIRST)
        #: When the age of borrowed letters is looked at next; the rest of the time they are only counted.
        self._next_age = self._next
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def tick(self) -> None:
        """Begin to trim, on a thread of its own, if it is time: whoever renews leases must not wait for it."""
        conf, now = self._app.conf, self._app.clock.monotonic()
        if now < self._next or (conf.dead_letter_max is None and conf.dead_letter_expires is None):
            return
        if self._thread is not None and self._thread.is_alive():
            return
        self._next = now + EVERY * random.uniform(0.8, 1.2)
        self._thread = threading.Thread(target=self.trim, name="dray-trimmer", daemon=True)
        self._thread.start()

    def stop(self, patience: float = 1.0) -> None:
        """Stop after the batch in hand, waiting `patience` seconds for that."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(patience)

    def trim(self) -> None:
        """Trim every queue now. Never raises: what fails is tried again the next time."""
        try:
            broker = self._app.broker
            if not broker.capabilities.dead_letters:
                return
            borrowed = isinstance(broker, Assisted) and not broker.native.dead_letters
            now = self._app.clock.monotonic()
            aged = not borrowed or now >= self._next_age
            if aged:
                self._next_age = now + EVERY_BORROWED
            for queue in self._queues:
                self._trim(broker, queue, LETTERS_MOST if borrowed else BATCH, aged)
        except BrokerError as error:
            logger.warning("dead letters not trimmed, tried again in about an hour: %s", error)
        except Exception:
            logger.exception("dead letters not trimmed, tried again in about an hour")

    def _trim(self, broker: Broker, queue: str, batch: int, aged: bool) -> None:
        conf = self._app.conf
        most, longest = conf.dead_letter_max, conf.dead_letter_expires
        count = _count(broker, queue)
        if count == 0:
            return
        if longest is not None and aged:
            gone = self._delete(broker, queue, lambda: self._too_old(broker, queue, batch, longest))
            self._tell(queue, gone, f"older than {longest:g} s (dead_letter_expires)")
        if most is not None and count is not None and count > most:
            gone = self._delete(broker, queue, lambda: _too_many(broker, queue, batch, most))
            self._tell(queue, gone, f"more than {most:,} (dead_letter_max)")

    def _delete(self, broker: Broker, queue: str, choose: Callable[[], list[str]]) -> int:
        """Delete what `choose` returns, again and again until it returns nothing; return how many letters that were."""
        deleted = 0
        while not self._stopping.is_set() and (ids := choose()):
            gone = broker.discard(queue, ids)
            deleted += gone
            if not gone:
                break  # somebody else has them just now
        return deleted

    def _too_old(self, broker: Broker, queue: str, batch: int, longest: float) -> list[str]:
        """Return the ids of letters, the oldest first, all letters of which are too old: they go together."""
        limit = self._app.clock.time() - longest
        old = list(dict.fromkeys(each.id for each in broker.dead(queue, batch) if (each.buried or limit) < limit))
        if not old:
            return []
        young = {each.id for each in broker.dead(queue, LETTERS_MOST, old) if (each.buried or limit) >= limit}
        return [id for id in old if id not in young]

    def _tell(self, queue: str, count: int, why: str) -> None:
        if count:
            logger.warning("%d dead letter(s) of the queue %r deleted: %s", count, queue, why)
            self._app.notify("dead-letters-trimmed", queue=queue, count=count, why=why)


def _count(broker: Broker, queue: str) -> int | None:
    """Return how many dead letters there are; None where the broker cannot tell."""
    return broker.sizes([queue])[queue].get("dead", 0) if broker.capabilities.size else None


def _too_many(broker: Broker, queue: str, batch: int, most: int) -> list[str]:
    """Return the ids of the oldest letters beyond `most`, a batch of them; counted anew: others may trim as well."""
    over = (_count(broker, queue) or 0) - most
    return list(dict.fromkeys(letter.id for letter in broker.dead(queue, min(over, batch)))) if over > 0 else []
