"""The limit of amqp://: pika's event loop, confirms a batch at a time, pushed messages, one ack for each batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from contender import Spot
from pika import BasicProperties, SelectConnection, URLParameters, spec

from limits.loop import BATCH, PATIENCE, TOO_LONG, Item, SharedLoop

CALLS, RESULTS = "limit.calls", "limit.results"
_PERSISTENT, _TRANSIENT = BasicProperties(delivery_mode=2), BasicProperties(delivery_mode=1)


class RabbitLoop(SharedLoop):
    """One connection, one channel, and pika's loop run until what is waited for has happened."""

    queue_type = "classic"
    _channel: Any = None

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot)
        self._awaited: Callable[[], bool] = lambda: False
        #: Numbers of what was published and is not confirmed yet, in order; how many were published; and are unread.
        self._open: deque[int] = deque()
        self._published = self._unread = 0
        self._came: deque[Item] = deque()
        self._told: deque[bytes] = deque()
        self._consuming = False
        self._answered = 0
        self._connection = SelectConnection(URLParameters(url_of(spot)), on_open_callback=self._opened)
        self._until(lambda: self._channel is not None and self._channel.is_open)
        self._ask(partial(self._channel.confirm_delivery, self._on_confirm))
        kind = {"x-queue-type": self.queue_type}
        self._ask(partial(self._channel.queue_declare, CALLS, durable=True, arguments=kind))
        self._ask(partial(self._channel.queue_declare, RESULTS, durable=True))
        self._ask(partial(self._channel.basic_qos, prefetch_count=2 * BATCH))

    def put(self, bodies: Sequence[bytes]) -> None:
        self._unread += len(bodies)
        self._publish(CALLS, bodies, _PERSISTENT)

    def take(self) -> Sequence[Item]:
        if not self._consuming:
            self._consume(CALLS, lambda tag, body: self._came.append((tag, body)))
            self._consuming = True
        wanted = min(BATCH, self._unread)
        self._until(lambda: len(self._came) >= wanted)
        self._unread -= wanted
        return [self._came.popleft() for _ in range(wanted)]

    def settle(self, items: Sequence[Item], results: Sequence[bytes]) -> None:
        if results:
            self._publish(RESULTS, results, _TRANSIENT)
        self._channel.basic_ack(items[-1][0], multiple=True)

    def call(self, body: bytes) -> bytes:
        if not self._consuming:
            self._consume(RESULTS, lambda tag, result: self._told.append(result))
            self._consuming = True
        self._publish(CALLS, [body], _PERSISTENT)
        self._until(lambda: bool(self._told), TOO_LONG)
        return self._told.popleft()

    def serve(self, answer: Callable[[bytes], bytes], ended: Callable[[], bool]) -> None:
        self._consume(CALLS, lambda tag, body: self._came.append((tag, body)))
        while not ended():
            self._until(lambda: bool(self._came), PATIENCE)
            while self._came:
                tag, body = self._came.popleft()
                self._hand_over(RESULTS, answer(body), _TRANSIENT)
                self._channel.basic_ack(tag)

    def close(self) -> None:
        self._connection.close()
        self._until(lambda: self._connection.is_closed)
        super().close()

    # Steps

    def _opened(self, connection: Any) -> None:
        self._channel = connection.channel(on_open_callback=self._look)
        connection.add_on_close_callback(self._look)

    def _publish(self, queue: str, bodies: Sequence[bytes], properties: BasicProperties) -> None:
        """Publish, and wait until the server has confirmed everything."""
        for body in bodies:
            self._hand_over(queue, body, properties)
        self._until(lambda: not self._open)

    def _hand_over(self, queue: str, body: bytes, properties: BasicProperties) -> None:
        self._channel.basic_publish("", queue, body, properties)
        self._published += 1
        self._open.append(self._published)

    def _on_confirm(self, frame: Any) -> None:
        number = frame.method.delivery_tag
        if not isinstance(frame.method, spec.Basic.Ack):
            raise RuntimeError(f"RabbitMQ refused message {number}")
        if frame.method.multiple:
            while self._open and self._open[0] <= number:
                self._open.popleft()
        else:
            self._open.remove(number)
        self._look()

    def _consume(self, queue: str, on_message: Callable[[int, bytes], None]) -> None:
        def arrived(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            on_message(method.delivery_tag, body)
            self._look()

        self._ask(partial(self._channel.basic_consume, queue, arrived))

    def _ask(self, method: Callable[..., Any]) -> None:
        """Call a method of the channel, and wait for the server's answer."""
        wanted = self._answered + 1

        def answered(frame: Any) -> None:
            self._answered += 1
            self._look()

        method(callback=answered)
        self._until(lambda: self._answered >= wanted)

    def _until(self, awaited: Callable[[], bool], patience: float | None = None) -> None:
        """Run the loop until something is the case, or patience is over."""
        if awaited():
            return
        self._awaited = awaited
        loop = self._connection.ioloop
        timer = None if patience is None else loop.call_later(patience, loop.stop)
        loop.start()
        if timer is not None:
            loop.remove_timeout(timer)
        self._awaited = lambda: False

    def _look(self, *said: Any) -> None:
        if self._awaited():
            self._connection.ioloop.stop()


class QuorumLoop(RabbitLoop):
    """The same on a quorum queue."""

    queue_type = "quorum"


def url_of(spot: Spot) -> str:
    """Return the server's URL as pika writes it, where `%2F` is the virtual host `/`."""
    return spot.servers["rabbitmq"].rstrip("/") + "/%2F"
