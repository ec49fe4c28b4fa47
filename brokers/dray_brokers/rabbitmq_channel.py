"""pika's connection and channel, changed in three places where pika's way would cost messages or time.

- A message that arrives while its consumer is being cancelled is kept. pika rejects it, which the server counts.
- Frames written in one go leave in one piece. pika makes a system call of each, three for a message.
- Several `basic.get` may be under way. pika allows one.

All of it belongs to the thread that runs the connection's loop. Nothing of pika's but what is overridden or called
here is private; tests/contracts/test_rabbitmq_details.py would show a version in which that has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, NamedTuple

from pika import SelectConnection, spec
from pika.channel import Channel


class Arrival(NamedTuple):
    """A message as it came in on a channel."""

    tag: int
    redelivered: bool
    properties: spec.BasicProperties
    body: bytes
    #: What waited behind it when it was fetched with `get`; 0 when it was pushed.
    behind: int = 0


class RabbitConnection(SelectConnection):
    """A connection whose output can be held back, to leave in one piece."""

    _held_back: list[bytes] | None = None

    def _create_channel(self, channel_number: int, on_open_callback: Any) -> RabbitChannel:
        return RabbitChannel(self, channel_number, on_open_callback)

    @contextmanager
    def in_one_piece(self) -> Iterator[None]:
        """Send what is written within the block when the block ends."""
        held_back = self._held_back = []
        try:
            yield
        finally:
            self._held_back = None
            if held_back and self.is_open:
                self._output_marshaled_frames([b"".join(held_back)])

    def _output_marshaled_frames(self, marshaled_frames: Sequence[bytes]) -> None:
        if self._held_back is not None:
            self._held_back += marshaled_frames
        else:
            super()._output_marshaled_frames([b"".join(marshaled_frames)])


class RabbitChannel(Channel):
    """A channel that passes on everything that arrives, and knows who waits for an answer on it."""

    #: Who is told of each message that a consumer tag brings.
    on_arrival: Callable[[str, Arrival], None]
    #: Who is told of each answer to `get`: the message, or None when the queue was empty.
    on_got: Callable[[Arrival | None], None]

    def __init__(self, connection: Any, channel_number: int, on_open_callback: Any) -> None:
        super().__init__(connection, channel_number, on_open_callback)
        #: What fails when the channel is closed.
        self.waiting: set[Future[Any]] = set()
        self.add_on_close_callback(self._fail_waiting)
        self.add_callback(lambda frame: None, [spec.Basic.QosOk], one_shot=False)

    def consume(self, queue: str, tag: str, credit: int) -> None:
        """Have up to `credit` messages pushed under `tag`. The server does not answer.

        A tag is never used twice: a quorum queue of RabbitMQ 3.10 crashes the channel over the second use.
        """
        self._send_method(spec.Basic.Qos(prefetch_count=credit))
        self._send_method(spec.Basic.Consume(queue=queue, consumer_tag=tag, nowait=True))

    def cancel(self, tag: str, answer: bool) -> None:
        """Have no more pushed under `tag`; with `answer`, `spec.Basic.CancelOk` comes after the last message."""
        self._send_method(spec.Basic.Cancel(consumer_tag=tag, nowait=not answer))

    def get(self, queue: str) -> None:
        """Ask for one message; `on_got` hears of it, in the order of asking."""
        self._send_method(spec.Basic.Get(queue=queue))

    def _on_deliver(self, method_frame: Any, header_frame: Any, body: bytes) -> None:
        method = method_frame.method
        self.on_arrival(
            method.consumer_tag, Arrival(method.delivery_tag, method.redelivered, header_frame.properties, body)
        )

    def _on_getok(self, method_frame: Any, header_frame: Any, body: bytes) -> None:
        method = method_frame.method
        self.on_got(
            Arrival(method.delivery_tag, method.redelivered, header_frame.properties, body, method.message_count)
        )

    def _on_getempty(self, method_frame: Any) -> None:
        self.on_got(None)

    def _fail_waiting(self, channel: Any, reason: Exception) -> None:
        waiting, self.waiting = self.waiting, set()
        for future in waiting:
            if not future.done():
                future.set_exception(reason)
