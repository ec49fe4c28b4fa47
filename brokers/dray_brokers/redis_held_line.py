"""A line that holds on to one connection to Redis: asking and being answered may lie apart, and in two threads.

A wait may be broken off and taken up again: the answer stays where it is until somebody reads it.
"""

from __future__ import annotations

from typing import Any

from redis.exceptions import AskError, MovedError

from .redis_connection import Line, RedisPlace
from .redis_errors import Words


class HeldLine(Line):
    """One thread asks at a time, and one is answered; `close` may be called from any, and ends their waits."""

    def __init__(self, place: RedisPlace, words: Words, socket_timeout: float | None = None) -> None:
        super().__init__(place, words, socket_timeout)
        self._connection: Any = None

    @property
    def is_held(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    def reach(self, key: str | None = None) -> None:
        """Connect; in a cluster to the node that has `key`, or to any."""
        self.call(lambda: self._reach(key))

    def tell(self, *parts: Any) -> None:
        """Send one command, and leave its answer to whoever reads it."""
        # A health check would read in this thread what another one waits for.
        self.call(lambda: self._connection.send_command(*parts, check_health=False))

    def heard(self, seconds: float) -> bool:
        """Wait up to `seconds`; return whether there is an answer, or the beginning of one."""
        return bool(self.call(lambda: self._connection.can_read(seconds)))

    def answer(self, *, pushed: bool = False) -> Any:
        """Return the next answer; with `pushed` also what nobody asked for, in the third version of the protocol."""
        return self.call(lambda: self._read(pushed))

    def hang_up(self) -> None:
        """Let go of the connection. Safe twice, and from any thread."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def _reach(self, key: str | None) -> None:
        client = self.client
        if self._place.kind == "cluster":
            node = client.get_default_node() if key is None else client.get_node_from_key(key)
            client = client.get_redis_connection(node)
        # Not lent from the pool, which takes a connection with an unread answer for a broken one.
        connection = client.connection_pool.make_connection()
        connection.connect()
        self._connection = connection

    def _read(self, pushed: bool) -> Any:
        try:
            return self._connection.read_response(push_request=pushed)
        except (AskError, MovedError) as error:
            if self._place.kind != "cluster":
                raise
            # Whoever connects anew learns where the keys are.
            raise self._words.unavailable(f"{self._words.url}: the cluster has moved these keys ({error})") from error

    def _hang_up(self) -> None:
        super()._hang_up()
        self.hang_up()
