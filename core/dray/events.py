"""`app.events`: what is kept of what happened, for monitors to read and to follow.

Kept are the events of processes that were asked to: of workers with `worker_send_task_events`, of senders with
`task_send_sent_event`. They are in the store (`event_ring`); each process takes its own there (`recorder`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import msgspec

from .event_ring import Ring
from .hookspecs import Event
from .recorder import Recorder

if TYPE_CHECKING:
    from .app import Dray

#: Seconds for which a look for new events waits for them.
WAIT = 0.5
#: Events that `follow` reads at once.
BATCH = 1000


class KeptEvent(Event, frozen=True, kw_only=True):
    """An event that was kept in the store."""

    #: Where it stands: what comes after it is `app.events.read(after=event.cursor)`.
    cursor: str = ""


class Events:
    """The events of one app. Thread-safe."""

    def __init__(self, app: Dray) -> None:
        self._app = app
        self._ring = Ring(app)
        self.recorder = Recorder(app)

    def record(self, *, work: bool = False, sent: bool = False) -> None:
        """Keep from now on what this process tells of work, or that it has sent something.

        Raises `NotSupported` when there is no store to keep it in.
        """
        if self._app.connections.store_url is None:
            self._app.store("keeping events (worker_send_task_events, task_send_sent_event)")
        self.recorder.work, self.recorder.sent = self.recorder.work or work, self.recorder.sent or sent
        self._app.hear(self.recorder.put)

    def read(self, after: str = "", limit: int = 1000) -> list[KeptEvent]:
        """Return up to `limit` events that are kept, the oldest first, or those after a cursor; [] if there are none.

        Only the latest are kept (16 MiB of them): whoever reads too slowly misses some. An event may be there twice,
        when the store did not answer while it was written.
        """
        block, position = _place(after)
        head = self._ring.head
        if block > head:
            block, position = 0, 0  # the ring was forgotten meanwhile, and is another one
        found: list[KeptEvent] = []
        for number, events in self._ring.read(block, head):
            for n, event in enumerate(events, 1):
                if number == block and n <= position:
                    continue
                # The next one comes from the next block, if this is the last of its own.
                cursor = f"{number}.{n}" if n < len(events) else f"{number + 1}.0"
                found.append(KeptEvent(cursor=cursor, **msgspec.structs.asdict(event)))
                if len(found) == limit:
                    return found
        return found

    def follow(self, after: str | None = None) -> Iterator[KeptEvent]:
        """Yield events as they come, for ever: those after a cursor (`""`: all that are kept); None: from now on."""
        cursor = self.last() if after is None else after
        while True:
            found = self.read(cursor, BATCH)
            yield from found
            cursor = found[-1].cursor if found else cursor
            if len(found) < BATCH:
                self._app.store("reading events").watch(self._ring.part, WAIT)

    async def aread(self, after: str = "", limit: int = 1000) -> list[KeptEvent]:
        """`read` for coroutines."""
        return await asyncio.to_thread(self.read, after, limit)

    async def afollow(self, after: str | None = None) -> AsyncIterator[KeptEvent]:
        """`follow` for coroutines."""
        cursor = await asyncio.to_thread(self.last) if after is None else after
        while True:
            found = await self.aread(cursor, BATCH)
            for event in found:
                yield event
            cursor = found[-1].cursor if found else cursor
            if len(found) < BATCH:
                store = self._app.store("reading events")
                await asyncio.to_thread(store.watch, self._ring.part, WAIT)

    def last(self) -> str:
        """Return the cursor behind the last event that is kept."""
        return f"{self._ring.head}.0"


def _place(cursor: str) -> tuple[int, int]:
    block, dot, position = cursor.partition(".")
    if not cursor:
        return 0, 0
    if not (dot and block.isdigit() and position.isdigit()):
        raise ValueError(f"after= is the cursor of an event, such as '17.3'; got {cursor!r}")
    return int(block), int(position)
