"""A ring of events in the store: one per app, into which many processes write blocks, the latest of which are kept.

    head       how many blocks have been written so far
    0 ... 255  block n is kept under n modulo 256: its number, and its events, in the order in which they were told

A block is appended under the condition that the head is where it was: of two processes that write at once one tries
again. Whoever reads knows by its number whether a block is still the one that was asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from .errors import DecodeError, StoreUnavailable
from .hookspecs import Event
from .store import Absent, Change, Equals, Put, Store, Write

if TYPE_CHECKING:
    from .app import Dray

logger = logging.getLogger(__name__)

#: Blocks that are kept, and the most bytes of events in one: 16 MiB for an app.
SLOTS, BLOCK_BYTES = 256, 64 * 1024
#: Seconds after which a ring is forgotten to which nothing was added.
KEPT = 86_400.0
#: Blocks that are read at once.
TOGETHER = 16
#: How often it is tried to append before others: then there is a crowd, and the events wait.
TRIES = 20

# What a plugin or a task puts into an event, of all things, is shown as `repr` does.
_encode = msgspec.msgpack.Encoder(enc_hook=repr).encode
_numbered = msgspec.msgpack.Decoder(tuple[int, list[msgspec.Raw]]).decode
_event = msgspec.msgpack.Decoder(Event).decode


def encoded(event: Event) -> msgspec.Raw:
    """Return an event as it is kept; raises whatever its contents raise when they are written."""
    return msgspec.Raw(_encode(event))


class Ring:
    """The ring of one app. Raises what the store raises."""

    def __init__(self, app: Dray) -> None:
        self._app = app
        self.part = f"events:{app.name}"
        #: Where the head was when this process looked last.
        self._head = 0
        #: A block that may have been written: the store did not say.
        self._doubtful: tuple[str, bytes] | None = None

    @property
    def _store(self) -> Store:
        return self._app.store("keeping events")

    @property
    def head(self) -> int:
        """How many blocks have been written."""
        return int(self._store.get(self.part, "head").get("head", b"0"))

    def append(self, events: Sequence[msgspec.Raw]) -> bool:
        """Add a block; return whether that was done: not, if others were faster again and again.

        After an error it is to be called with the same events again.
        """
        if self._doubtful is not None:
            key, block = self._doubtful
            self._doubtful = None
            if self._store.get(self.part, key).get(key) == block:
                self._head = self.head
                return True
        for _ in range(TRIES):
            number = self._head
            key, block = str(number % SLOTS), self._sealed(_encode((number, events)))
            writes: tuple[Write, ...] = (Put(key, block), Put("head", str(number + 1).encode()))
            unchanged = Equals("head", str(number).encode()) if number else Absent("head")
            try:
                (done,) = self._store.commit([Change(self.part, (unchanged,), writes, ("head",), KEPT)])
            except StoreUnavailable:
                # Whether it was applied nobody knows: the next time it is looked up first.
                self._doubtful = key, block
                raise
            self._head = int(done.values.get("head", b"0"))
            if done.applied:
                return True
        return False

    def read(self, first: int, last: int) -> Iterator[tuple[int, list[Event]]]:
        """Yield the blocks from `first` to before `last`, as far as they are still there, with their numbers."""
        for start in range(max(first, last - SLOTS), last, TOGETHER):
            wanted = range(start, min(start + TOGETHER, last))
            found = self._store.get(self.part, *(str(number % SLOTS) for number in wanted))
            for number in wanted:
                block = found.get(str(number % SLOTS))
                if block is not None and (events := self._opened(number, block)) is not None:
                    yield number, events

    def _sealed(self, block: bytes) -> bytes:
        sealing = self._app.sealing
        return block if sealing is None else sealing.seal(block, "events", self.part)

    def _opened(self, number: int, block: bytes) -> list[Event] | None:
        """Return the events in a block, if it is the one with that number, and can be read."""
        try:
            if (sealing := self._app.sealing) is not None:
                block = sealing.open(block, "events", self.part)
            written, raws = _numbered(block)
            return [_event(raw) for raw in raws] if written == number else None
        except (DecodeError, msgspec.DecodeError, ValueError) as error:
            logger.warning("a block of the events of %s is passed over: %s", self._app.name, error)
            return None


def blocks(events: Sequence[msgspec.Raw]) -> Iterator[list[msgspec.Raw]]:
    """Yield events in groups that fit into a block each."""
    group: list[msgspec.Raw] = []
    size = 0
    for event in events:
        if group and size + len(memoryview(event)) > BLOCK_BYTES:
            yield group
            group, size = [], 0
        group.append(event)
        size += len(memoryview(event))
    if group:
        yield group
