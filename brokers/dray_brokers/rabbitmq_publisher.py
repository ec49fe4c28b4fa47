"""Publishing with confirms: many messages on their way at once, and for each of them what became of it.

One channel in confirm mode. The server answers, sooner or later, for each number in the order of publishing: safe, or
refused. What could not be routed comes back before its answer. Callers wait for their own batch only.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, NamedTuple

from pika import BasicProperties
from pika.exceptions import AMQPError

from dray import BrokerError, BrokerUnavailable

from .rabbitmq_channel import RabbitChannel
from .rabbitmq_connection import Link
from .rabbitmq_errors import translated
from .rabbitmq_frames import content, publish_method

#: Most messages and bytes handed to the connection's thread in one go, and most messages of one batch on their way.
SLICE, SLICE_BYTES, WINDOW = 250, 4 << 20, 1000

#: What became of a message.
SAFE, REFUSED, UNROUTED, UNSURE = "safe", "refused", "unrouted", "unsure"


class Post(NamedTuple):
    """A message to be published."""

    exchange: str
    key: str
    properties: BasicProperties
    body: bytes
    #: True: it comes back when no queue gets it. False: then it is gone.
    mandatory: bool = True

    def frames(self, channel: int, most: int) -> bytes:
        """Return what is sent on a channel to publish it, in frames of at most so many bytes."""
        method = publish_method(channel, self.exchange, self.key, self.mandatory)
        return method + content(channel, self.properties, self.body, most)


class _Batch:
    """What became of each message of one call, as far as it is known. `fates` belongs to the connection's thread."""

    def __init__(self, posts: Sequence[Post]) -> None:
        self.posts = posts
        self.fates = [UNSURE] * len(posts)
        self.open = 0
        #: When no more are open, whoever waits wants to know.
        self.enough = 0
        self.returned: set[int] = set()
        #: Why the channel was closed under it, if it was.
        self.broken: BaseException | None = None
        #: Notified when `open` has fallen to `enough`, or the batch is broken, or the connection lost.
        self.moved = threading.Condition()

    def settle(self, indexes: Sequence[int], fate: str) -> None:
        with self.moved:
            for index in indexes:
                self.fates[index] = UNROUTED if index in self.returned else fate
            self.open -= len(indexes)
            if self.open <= self.enough:
                self.moved.notify_all()

    def breaks(self, reason: BaseException) -> None:
        with self.moved:
            self.broken = reason
            self.moved.notify_all()

    def look(self) -> None:
        """Have whoever waits look whether there is anything left to wait for."""
        with self.moved:
            self.moved.notify_all()


class Fates(NamedTuple):
    """What became of the messages of a batch, and why the channel was closed under it, if it was."""

    fates: Sequence[str]
    broken: BaseException | None


class Publisher:
    """Publishes over one link. `send` may be called from any thread; its state belongs to the link's thread."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._channel: RabbitChannel | None = None
        #: Numbers as the server counts them: the next one, and the lowest that was not confirmed along with others.
        self._next = self._lowest = 1
        self._pending: dict[int, tuple[_Batch, int]] = {}
        #: Those that somebody waits for, in any thread.
        self._awaited: set[_Batch] = set()
        link.on_lost.append(self._on_lost)

    def send(self, posts: Sequence[Post]) -> Fates:
        """Publish, and return when every answer is there.

        Raises `BrokerUnavailable` when the connection is lost, or the answers do not come in time; then nothing is
        known of those still open.
        """
        batch = _Batch(posts)
        channel = self._opened()
        with self._waited_for(batch):
            start = 0
            while start < len(posts) and batch.broken is None:
                start = self._hand_over(channel, batch, start)
                self._wait(batch, WINDOW - SLICE if start < len(posts) else 0)
        self._link.check()
        return Fates(batch.fates, batch.broken)

    @contextmanager
    def _waited_for(self, batch: _Batch) -> Iterator[None]:
        """Have the batch hear of it when the connection is lost."""
        self._awaited.add(batch)
        try:
            yield
        finally:
            self._awaited.discard(batch)

    def _hand_over(self, channel: RabbitChannel, batch: _Batch, start: int) -> int:
        """Write a slice of the batch, and leave the sending to the connection's thread; return where the next begins.

        Written here, so that what has been handed over is on its way meanwhile.
        """
        pieces: list[bytes] = []
        number, most, size = channel.channel_number, self._link.largest_frame, 0
        try:
            for post in batch.posts[start : start + SLICE]:
                pieces.append(post.frames(number, most))
                size += len(pieces[-1])
                if size >= SLICE_BYTES:
                    break
        except Exception as error:
            # A name that is too long for AMQP, say.
            batch.breaks(error)
            return start
        indexes, frames = range(start, start + len(pieces)), b"".join(pieces)
        with batch.moved:
            batch.open += len(indexes)
        self._link.post(lambda: self._send(channel, batch, indexes, frames))
        return indexes.stop

    def _opened(self) -> RabbitChannel:
        """Return the channel, opened when it is first needed or was closed."""
        with self._lock:
            self._link.check()
            if self._channel is None or not self._channel.is_open:
                channel = self._link.channel()
                self._link.call("asking for confirms", lambda future: self._begin(channel, future), channel)
                self._channel = channel
            return self._channel

    def _wait(self, batch: _Batch, most: int) -> None:
        """Wait until at most so many are open, or raise what keeps the server from answering."""
        options, link = self._link.options, self._link

        def enough() -> bool:
            return batch.open <= most or batch.broken is not None or not link.is_open

        with batch.moved:
            batch.enough = most
            if batch.moved.wait_for(enough, min(options.blocked_timeout, options.timeout)):
                return
            if not link.blocked and batch.moved.wait_for(enough, max(0.0, options.timeout - options.blocked_timeout)):
                return
        if link.blocked:
            raise BrokerUnavailable(
                f"{link.url}: publishing: the server takes no messages at the moment: {link.blocked}; "
                "they are stored when it does again, or free memory or disk there"
            )
        raise BrokerUnavailable(f"{link.url}: publishing: not confirmed in {options.timeout:g} s")

    # On the connection's thread

    def _begin(self, channel: RabbitChannel, future: Future[None]) -> None:
        self._next = self._lowest = 1
        channel.add_on_return_callback(self._on_return)
        channel.add_on_close_callback(self._on_close)
        channel.confirm_delivery(self._on_answer, lambda frame: future.set_result(None))

    def _send(self, channel: RabbitChannel, batch: _Batch, indexes: range, frames: bytes) -> None:
        try:
            channel.send(frames)
        except AMQPError as error:
            batch.breaks(error)
            return
        self._pending.update(enumerate(((batch, index) for index in indexes), self._next))
        self._next += len(indexes)

    def _on_answer(self, frame: Any) -> None:
        """Note for one number, or all up to it, whether the server has it safe."""
        tag, fate = frame.method.delivery_tag, SAFE if frame.method.NAME == "Basic.Ack" else REFUSED
        numbers = [tag]
        if frame.method.multiple:
            numbers, self._lowest = list(range(self._lowest, tag + 1)), tag + 1
        settled: dict[_Batch, list[int]] = {}
        for number in numbers:
            if (found := self._pending.pop(number, None)) is not None:
                settled.setdefault(found[0], []).append(found[1])
        for batch, indexes in settled.items():
            batch.settle(indexes, fate)

    def _on_return(self, channel: Any, method: Any, properties: BasicProperties, body: bytes) -> None:
        """Find the message that came back: the oldest open one that looks like it."""
        for batch, index in self._pending.values():
            post = batch.posts[index]
            same = (post.exchange, post.key, post.body) == (method.exchange, method.routing_key, body)
            if same and index not in batch.returned and post.properties == properties:
                batch.returned.add(index)
                return

    def _on_close(self, channel: Any, reason: BaseException) -> None:
        pending, self._pending = self._pending, {}
        for batch in {batch for batch, _ in pending.values()}:
            batch.breaks(reason)

    def _on_lost(self) -> None:
        for batch in list(self._awaited):
            batch.look()

    def why(self, error: BaseException) -> BrokerError:
        """Return in words why the channel was closed."""
        return translated(error, self._link.url, "publishing")
