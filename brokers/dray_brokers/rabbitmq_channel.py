"""pika's connection and channel, changed where pika's way would cost messages or time.

- A message that arrives while its consumer is being cancelled is kept. pika rejects it, which the server counts.
- Messages that came whole are read many at a time (rabbitmq_frames.py). pika reads frame by frame.
- As much is received at a time as is there. pika takes 4 KiB, and gives other threads a turn before each.
- Frames written in one go leave in one piece. pika makes a system call of each, three for a message.
- Several `basic.get` may be under way. pika allows one.

All of it belongs to the thread that runs the connection's loop. Nothing of pika's but what is overridden or called
here is private; tests/contracts/test_rabbitmq_details.py would show a version in which that has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from pika import SelectConnection, spec
from pika.channel import Channel
from pika.exceptions import ChannelClosed, ChannelWrongStateError

from .rabbitmq_frames import Arrival, Run, frame_end, read_run

#: Most bytes received at a time.
RECEIVED = 1 << 16


class RabbitConnection(SelectConnection):
    """A connection that reads messages by the hundred, and whose output can be held back, to leave in one piece."""

    #: Who is told that the connection is lost, and why, before its channels' callbacks tell anybody else.
    on_lost: Callable[[Exception], None]
    #: What has come and is not whole yet; and who reads what comes, by the numbers of their channels.
    _unread = b""
    _held_back: list[bytes] | None = None

    def __init__(self, *arguments: Any) -> None:
        self._readers: dict[int, RabbitChannel] = {}
        super().__init__(*arguments)

    def _create_channel(self, channel_number: int, on_open_callback: Any) -> RabbitChannel:
        channel = self._readers[channel_number] = RabbitChannel(self, channel_number, on_open_callback)
        return channel

    def _proto_connection_made(self, transport: Any) -> None:
        # No more than a hint: where pika does not know it, it stays with 4 KiB.
        transport._MAX_RECV_BYTES = RECEIVED
        super()._proto_connection_made(transport)

    def _on_data_available(self, data_in: bytes) -> None:
        """Read the messages that came whole, and leave all other frames to pika, one by one."""
        data, start = self._unread + data_in, 0
        while True:
            if (run := read_run(data, start)) is not None:
                self._deliver(run, run.end - start)
                start = run.end
            elif (end := frame_end(data, start)) is not None:
                super()._on_data_available(data[start:end])
                start = end
            else:
                break
        self._unread = data[start:]

    def _deliver(self, run: Run, size: int) -> None:
        # By these pika tells whether the server is alive.
        self.bytes_received += size
        self.frames_received += 3 * len(run.arrivals)
        self._readers[run.channel].on_arrivals(run.consumer_tag, run.arrivals)

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

    #: Who is told of the messages that a consumer tag brings.
    on_arrivals: Callable[[str, Sequence[Arrival]], None]
    #: Who is told of each answer to `get`: the message, or None when the queue was empty.
    on_got: Callable[[Arrival | None], None]

    def __init__(self, connection: Any, channel_number: int, on_open_callback: Any) -> None:
        super().__init__(connection, channel_number, on_open_callback)
        #: What fails when the channel is closed.
        self.waiting: set[Future[Any]] = set()
        #: Why it was closed.
        self._ended: Exception | None = None
        self.add_on_close_callback(self._fail_waiting)
        self.add_callback(lambda frame: None, [spec.Basic.QosOk], one_shot=False)

    def check(self) -> None:
        """Raise why it is not open, if it is not.

        Sent on a channel that is being closed or is, by whichever side, anything ends the connection, and takes all
        its other channels along: "CHANNEL_ERROR - expected 'channel.open'". pika looks before it sends; what is sent
        past it has to be asked about here.
        """
        if self._ended is not None:
            raise self._ended.with_traceback(None)
        if not self.is_open:
            raise ChannelWrongStateError(f"channel {self.channel_number} is being closed")

    def send(self, frames: bytes) -> None:
        """Send frames that were written for this channel."""
        if not self.is_open:
            # Not why, as `check` says it: another's message may have cost the channel, and this one is sent once more.
            raise ChannelWrongStateError(f"channel {self.channel_number} is closed")
        self.connection._output_marshaled_frames([frames])

    def consume(self, queue: str, tag: str, credit: int) -> None:
        """Have up to `credit` messages pushed under `tag`. The server does not answer.

        A tag is never used twice: a quorum queue of RabbitMQ 3.10 crashes the channel over the second use.
        """
        self.check()
        self._send_method(spec.Basic.Qos(prefetch_count=credit))
        self._send_method(spec.Basic.Consume(queue=queue, consumer_tag=tag, nowait=True))

    def cancel(self, tag: str, answer: bool) -> None:
        """Have no more pushed under `tag`; with `answer`, `spec.Basic.CancelOk` comes after the last message."""
        self.check()
        self._send_method(spec.Basic.Cancel(consumer_tag=tag, nowait=not answer))

    def get(self, queue: str) -> None:
        """Ask for one message; `on_got` hears of it, in the order of asking."""
        self.check()
        self._send_method(spec.Basic.Get(queue=queue))

    def _on_deliver(self, method_frame: Any, header_frame: Any, body: bytes) -> None:
        method = method_frame.method
        arrival = Arrival(method.delivery_tag, method.redelivered, header_frame.properties, body)
        self.on_arrivals(method.consumer_tag, [arrival])

    def _on_getok(self, method_frame: Any, header_frame: Any, body: bytes) -> None:
        method = method_frame.method
        self.on_got(
            Arrival(method.delivery_tag, method.redelivered, header_frame.properties, body, method.message_count)
        )

    def _on_getempty(self, method_frame: Any) -> None:
        self.on_got(None)

    def _fail_waiting(self, channel: Any, reason: Exception) -> None:
        self._ended = reason
        if not isinstance(reason, ChannelClosed):
            # pika tells the channels first. Who hears of it by one and connects again must not find this one open.
            self.connection.on_lost(reason)
        waiting, self.waiting = self.waiting, set()
        for future in waiting:
            if not future.done():
                future.set_exception(reason)
