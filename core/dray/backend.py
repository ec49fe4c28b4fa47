"""The result backend port: where states and results are kept until they are asked for or expire.

A backend stores small opaque records by id. It knows one rule, the *first final writer* rule of `store`, and
nothing else of tasks. All calls block, come in batches, and may be made from any thread at the same time.

Translate the driver's errors: `BackendUnavailable` when it cannot be reached (the engine tries again and keeps the
result meanwhile), `BackendError` for anything else.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import msgspec

from .clock import SYSTEM_CLOCK, Clock
from .urls import Url

#: Seconds between two looks while waiting for a result: the first, and the longest.
FIRST_LOOK, LONGEST_LOOK = 0.002, 0.1


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One id's latest state, as a backend sees it."""

    id: str
    #: A name from `dray.states`, or the task's own.
    state: str
    #: True when nothing more will happen to this id.
    final: bool
    #: Opaque bytes: the engine's own record of the result.
    body: bytes
    #: Orders the writers of one id: a later delivery or a later retry has a higher rank.
    rank: int = 0
    #: The `ResultBackend.address` of the process that sent the task; "" when its backend has none.
    reply_to: str = ""


class ResultBackend(ABC):
    """A place for records. Made from a URL, opened before use; not carried across a fork."""

    #: Time for backends that have no clock of their own.
    clock: Clock = SYSTEM_CLOCK
    #: True: records survive the death of every process.
    durable: bool = True
    #: True: other processes see the same records.
    shared: bool = True
    #: True: a URL without a host (`rpc://`) means the server that the broker's URL names.
    beside_broker: bool = False
    #: Where records for this process have to be sent, for backends that send them to whoever asked instead of keeping
    #: them for everybody; it travels with each task and comes back in `Record.reply_to`. "" for all others.
    address: str = ""

    def __init__(self, url: Url) -> None:
        self.url = url

    @abstractmethod
    def open(self) -> None:
        """Connect and create what is missing. Safe twice; also called to reconnect."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection; the records stay. Safe twice."""

    @abstractmethod
    def store(self, records: Sequence[Record], ttl: float | None) -> None:
        """Keep each record for `ttl` seconds from now (None: until forgotten), replacing the one with its id...

        ...unless the kept one is final and the new one is not final or has a lower rank: then the kept one stays, and
        nobody is told. Thus progress never overwrites a result, and a worker that lost its lease never
        overwrites the result of the one that took over. Atomic per record; the last of a batch wins within the batch.
        """

    @abstractmethod
    def fetch(self, ids: Sequence[str]) -> Mapping[str, Record]:
        """Return the records that are kept and not expired, by id; unknown ids are simply missing."""

    @abstractmethod
    def forget(self, ids: Sequence[str]) -> None:
        """Delete the records. Unknown ids are ignored."""

    def wait(self, ids: Sequence[str], timeout: float) -> Mapping[str, Record]:
        """Wait until one of `ids` is final or `timeout` seconds have passed; return what `fetch` then returns.

        This default looks again and again, less and less often. Backends that can be told override it.
        """
        end = self.clock.monotonic() + timeout
        pause = FIRST_LOOK
        never = threading.Event()
        while True:
            found = self.fetch(ids)
            left = end - self.clock.monotonic()
            if left <= 0 or any(record.final for record in found.values()):
                return found
            self.clock.wait(never, min(pause, left))
            pause = min(pause * 1.5, LONGEST_LOOK)

    def setup(self) -> Sequence[str]:
        """Create for good what `open()` would create, with the rights at hand; say in a sentence what was made."""
        return ()

    def advice(self) -> Sequence[str]:
        """Return sentences about what works but deserves a thought, for `dray doctor`. Never changes anything."""
        return ()

    def purge(self) -> int:
        """Delete records whose time is up; return how many. Backends whose server does that return 0."""
        return 0
