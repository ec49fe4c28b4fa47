"""The recorder: takes the events of one process to the store, in batches and on a thread of its own.

Work never waits for it: what it cannot take, because the store is away or slow, it drops and counts. Killed, a process
takes with it what it has told in the last half second.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from .errors import StoreError
from .event_ring import Ring, blocks, encoded
from .hookspecs import Event
from .message import Message

if TYPE_CHECKING:
    from .app import Dray

logger = logging.getLogger(__name__)

#: Seconds between two writes, and most events that wait for one.
EVERY, MOST = 0.5, 10_000
#: Longest arguments of a message (bytes), and longest text among an event's details (characters), that are kept.
LONGEST_PAYLOAD, LONGEST_TEXT = 2048, 2000
#: Seconds that an end waits for what has not been written yet.
LAST_WORDS = 2.0


class Recorder:
    """Keeps events of one app. `put` may be called from any thread, and returns at once."""

    def __init__(self, app: Dray) -> None:
        self._app = app
        #: Whether what tasks and workers do is kept, and whether that they were sent.
        self.work = self.sent = False
        self._waiting: deque[Event] = deque()
        #: How many events were not kept.
        self.dropped = 0
        self._told_dropped = 0
        self._away = False
        self._ring = Ring(app)
        #: What has been packed to be written, and how many events that are.
        self._blocks: deque[list[msgspec.Raw]] = deque()
        self._blocked = 0
        self._pid = 0
        self._starting = threading.Lock()

    def put(self, event: Event) -> None:
        """Take an event, if it is of a kind that is kept."""
        if not (self.sent if event.type == "task-sent" else self.work):
            return
        if self._pid != os.getpid():
            self._start()
        if len(self._waiting) + self._blocked >= MOST:
            self.dropped += 1
        else:
            self._waiting.append(event)

    def stop(self) -> None:
        """Write what there is, trying for a moment. It begins again with the next event."""
        if self._pid == os.getpid():
            self._stopping.set()
            self._thread.join(LAST_WORDS)
            self._pid = 0

    def _start(self) -> None:
        """Begin: at the first event, in each process. What a fork has copied is the parent's to write."""
        pid = os.getpid()
        with self._starting:
            if self._pid == pid:
                return
            if self._pid:
                self._waiting.clear()
                self._blocks.clear()
                self._blocked = 0
            self._stopping, self._ring = threading.Event(), Ring(self._app)
            self._thread = threading.Thread(target=self._run, name="dray-recorder", daemon=True)
            self._thread.start()
            self._pid = pid

    # The thread

    def _run(self) -> None:
        stopping, clock = self._stopping, self._app.clock
        while not clock.wait(stopping, EVERY):
            self._write()
        self._write()

    def _write(self) -> None:
        """Write what has come. Never raises: what cannot be written waits, and then keeps others from being taken."""
        try:
            self._pack()
            while self._blocks and self._ring.append(self._blocks[0]):
                self._blocked -= len(self._blocks.popleft())
            if self._away:
                self._away = False
                logger.info("events are kept again; %d were dropped so far", self.dropped)
        except StoreError as error:
            if not self._away:
                self._away = True
                logger.warning("events are not kept just now, and dropped if that lasts: %s", error)
        except Exception:
            logger.exception("%d event(s) dropped", self._blocked)
            self.dropped += self._blocked
            self._blocks.clear()
            self._blocked = 0

    def _pack(self) -> None:
        """Put what has come into blocks, and among it, how many could not be taken."""
        came = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if came and self.dropped > self._told_dropped:
            count, self._told_dropped = self.dropped - self._told_dropped, self.dropped
            came.append(Event(type="events-dropped", at=self._app.clock.time(), details={"count": count}))
        raws = []
        for event in came:
            try:
                raws.append(encoded(slim(event)))
            except Exception as error:
                self.dropped += 1
                logger.warning("an event cannot be kept: %s: %s", event.type, error)
        self._blocks.extend(blocks(raws))
        self._blocked += len(raws)


def slim(event: Event) -> Event:
    """Return an event without what makes it large."""
    message = None if event.message is None else _slim(event.message)
    details = {name: _cut(value) for name, value in event.details.items()}
    return msgspec.structs.replace(event, message=message, details=details)


def _slim(message: Message) -> Message:
    payload = message.payload if len(message.payload) <= LONGEST_PAYLOAD else b""
    return message.but(args=(), kwargs={}, payload=payload, link=(), link_error=())


def _cut(value: object) -> object:
    return value[:LONGEST_TEXT] if isinstance(value, str) else value
