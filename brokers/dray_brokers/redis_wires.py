"""Commands to one Redis with nothing around them: written as bytes here, on connections that are kept for them.

For every command redis-py takes a connection out of its pool, tries it out, times and counts; that costs several times
what the command does. Here a connection goes from one command to the next, and is tried out when it has rested.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from time import monotonic
from typing import Any

from redis import Redis
from redis.exceptions import RedisError, ResponseError

#: Seconds after which a connection has rested: the server may have closed it meanwhile.
RESTED = 0.01


class Wires:
    """The connections of one client, of any kind but a cluster's. Every method may be called from any thread."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._pid = os.getpid()
        #: Those that nobody is using. The last one is taken first, so there are never more than threads that ask.
        self._free: list[Wire] = []

    def ask(self, *parts: Any) -> Any:
        """Send one command and return its answer, as the server gives it; or raise the driver's errors."""
        with self.take() as wire:
            wire.send(packed(parts))
            return wire.answer()

    def take(self) -> Wire:
        """Return a connection for a `with`, with which it ends up here again, or closed."""
        if self._pid != os.getpid():
            # Ours are the parent's too, and it goes on talking.
            self._free, self._pid = [], os.getpid()
        while True:
            try:
                wire = self._free.pop()
            except IndexError:
                return Wire(self._client, self._free)
            if wire.is_sound():
                return wire
            wire.hang_up()


class Wire:
    """One connection, used by one thread at a time: a command, its answer, the next."""

    def __init__(self, client: Redis, free: list[Wire]) -> None:
        # Taken out of the pool for good; who closes the pool closes it too.
        self._holder = client.client()  # type: ignore[no-untyped-call]
        self._connection = self._holder.connection
        self._free = free
        self._used = monotonic()

    def send(self, command: bytes) -> None:
        """Send a command that is packed."""
        self._connection.send_packed_command([command])

    def answer(self) -> Any:
        """Wait for the answer to what was sent and return it."""
        answer = self._connection.read_response()
        self._used = monotonic()
        return answer

    def is_sound(self) -> bool:
        """Whether the connection is still there, and nothing has come that nobody has asked for."""
        if monotonic() - self._used < RESTED:
            return True
        try:
            return not self._connection.can_read()
        except (RedisError, OSError):
            return False

    def hang_up(self) -> None:
        """Close the connection and leave it to the pool, which opens it again when there is need for one."""
        self._connection.disconnect()
        self._holder.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, where: object) -> None:
        if kind is None or issubclass(kind, ResponseError):
            self._free.append(self)
        else:
            # Even an interrupt: an answer may be on its way that is nobody's, and whoever came next would take it.
            self.hang_up()


def packed(parts: Sequence[Any]) -> bytes:
    """Return a command as Redis reads it: how many parts, and each behind its length."""
    pieces = [b"*%d\r\n" % len(parts)]
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        pieces += (b"$%d\r\n" % len(data), data, b"\r\n")
    return b"".join(pieces)
