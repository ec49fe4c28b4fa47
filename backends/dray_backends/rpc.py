"""The rpc:// result backend: each result goes to the process that sent the task, through RabbitMQ, and to no other.

Every process has a queue of its own, whose name (`address`) travels with what it sends. A worker publishes states and
results to that queue; the process keeps what arrives in memory, under the rule of the first final writer. Nothing is
stored on the server once it has arrived, and nobody else can ask for it: `durable` and `shared` are False.

When the connection is lost, the queue stays for a while, and what has come meanwhile is read on the next connection.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from pika import BasicProperties

from dray import BackendError, BackendUnavailable, BrokerError, BrokerUnavailable, Record, ResultBackend, Url
from dray_brokers.rabbitmq_channel import RabbitChannel
from dray_brokers.rabbitmq_connection import Link, RabbitOptions
from dray_brokers.rabbitmq_frames import Arrival
from dray_brokers.rabbitmq_publisher import SAFE, UNSURE, Post, Publisher
from dray_brokers.rabbitmq_wire import id_of, named

from .memory import MemoryBackend

logger = logging.getLogger("dray.rpc")

#: Milliseconds for which a process's queue stays while nobody reads it.
QUEUE_LIFE = 600_000
#: Most results on their way to a process that has not said yet that it has them.
PREFETCH = 1000
#: Seconds after which a waiting process looks whether its connection is still there.
LOOK = 1.0
#: How often a result is published when the channel is closed under it.
TRIES = 3
#: Our headers: a record's state, whether it is final, its rank, and for how many seconds it is kept (absent: for ever).
STATE, FINAL, RANK, TTL = "x-dray-state", "x-dray-final", "x-dray-rank", "x-dray-ttl"


class RpcBackend(ResultBackend):
    """`rpc://` beside an amqp:// broker, or `amqp://host/vhost?option=value` with the broker's options."""

    durable = False
    shared = False
    beside_broker = True

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        self._options = RabbitOptions.of(url)
        self.address = f"{self._options.prefix}dray.reply.{uuid4().hex}"
        self._kept = MemoryBackend(Url.parse("memory://"))
        #: One at a time connects: the others use what it got.
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._publisher: Publisher | None = None
        #: What our queue is read on.
        self._reading: RabbitChannel | None = None

    def open(self) -> None:
        self._kept.clock = self.clock
        with _as_backend_errors():
            self._connected()

    def close(self) -> None:
        with self._lock:
            link, self._link, self._publisher, self._reading = self._link, None, None, None
        if link is not None and link.is_open:
            try:
                with link.session() as session:
                    session.ask("queue_delete", f"deleting the queue {self.address}", queue=self.address)
            except BrokerError as error:
                # It goes by itself after a while.
                logger.debug("closing: %s", error)
            link.close()

    def store(self, records: Sequence[Record], ttl: float | None) -> None:
        posts = []
        for record in records:
            if record.reply_to == self.address:
                self._kept.store([_received(record)], ttl)
            elif record.reply_to:
                posts.append(_post(record, ttl))
            else:
                logger.debug("nobody waits for the result of %s: it says no address", record.id)
        if posts:
            with _as_backend_errors():
                self._publish(posts)

    def fetch(self, ids: Sequence[str]) -> Mapping[str, Record]:
        with _as_backend_errors():
            self._connected()
        return self._kept.fetch(ids)

    def forget(self, ids: Sequence[str]) -> None:
        self._kept.forget(ids)

    def wait(self, ids: Sequence[str], timeout: float) -> Mapping[str, Record]:
        end = self.clock.monotonic() + timeout
        while True:
            found = self.fetch(ids)
            left = end - self.clock.monotonic()
            if left <= 0 or any(record.final for record in found.values()):
                return found
            self._kept.wait(ids, min(left, LOOK))

    def purge(self) -> int:
        return self._kept.purge()

    def advice(self) -> Sequence[str]:
        return [
            "results go to the process that has sent the task, which keeps them in memory: no other can ask for them, "
            "and they are gone when it ends"
        ]

    # The connection

    def _connected(self) -> Publisher:
        """Return what publishes over the open connection, made anew if it is lost; our queue is read there."""
        with self._lock:
            reads = self._reading is not None and self._reading.is_open
            if self._link is None or not self._link.is_open or self._publisher is None or not reads:
                if self._link is not None:
                    self._link.close()
                link = Link(self.url, self._options, "results")
                link.open()
                try:
                    self._reading = self._read(link)
                except BrokerError:
                    link.close()
                    raise
                self._link, self._publisher = link, Publisher(link)
            return self._publisher

    def _read(self, link: Link) -> RabbitChannel:
        """Have what is in our queue, made if need be, kept by the connection's thread, and all that comes into it."""
        with link.session() as session:
            session.ask(
                "queue_declare",
                f"declaring the queue {self.address}",
                queue=self.address,
                durable=True,
                arguments={"x-queue-type": "classic", "x-expires": QUEUE_LIFE},
            )
        channel = link.channel()

        def on_cancelled(frame: Any) -> None:
            if channel is self._reading:
                logger.warning("%s was deleted on the server, with the results that were in it", self.address)
            if channel.is_open:
                # Whoever asks next has it made again.
                channel.close()

        def begin(future: Any) -> None:
            channel.on_arrivals = lambda tag, arrivals: self._keep(channel, arrivals)
            channel.add_on_cancel_callback(on_cancelled)
            channel.consume(self.address, "results", PREFETCH)
            future.set_result(None)

        link.call(f"reading the queue {self.address}", begin, channel)
        return channel

    def _keep(self, channel: RabbitChannel, arrivals: Sequence[Arrival]) -> None:
        kept: dict[float | None, list[Record]] = {}
        for arrival in arrivals:
            try:
                record, ttl = _arrived(arrival)
            except (KeyError, TypeError, ValueError):
                logger.warning("something that is no result has come to %s, and is dropped", self.address)
            else:
                kept.setdefault(ttl, []).append(record)
        for ttl, records in kept.items():
            self._kept.store(records, ttl)
        if channel.is_open:
            # Nothing comes in otherwise on this channel, so that all before it is kept as well.
            channel.basic_ack(arrivals[-1].tag, multiple=True)

    def _publish(self, posts: Sequence[Post]) -> None:
        for _ in range(TRIES):
            publisher = self._connected()
            fates, broken = publisher.send(posts)
            left = [(post, fate) for post, fate in zip(posts, fates, strict=True) if fate != SAFE]
            if not left:
                return
            if broken is not None and isinstance(why := publisher.why(broken), BrokerUnavailable):
                logger.debug("publishing once more: %s", why)
            elif broken is not None:
                raise why
            posts = [post for post, _ in left]
        words = "the channel was closed again and again" if any(f == UNSURE for _, f in left) else "refused"
        raise BrokerUnavailable(f"{self.url}: sending {len(left)} result(s): {words}")


def _post(record: Record, ttl: float | None) -> Post:
    headers: dict[str, Any] = {STATE: record.state, FINAL: record.final}
    if record.rank:
        headers[RANK] = record.rank
    if ttl is not None:
        headers[TTL] = str(ttl)
    # Transient: a result does not outlive the process it goes to, and seldom waits. When its queue is gone, nobody
    # waits for it any more, and that is no error: it may be dropped.
    expiration = None if ttl is None else str(max(1, int(ttl * 1000)))
    properties: BasicProperties = named(record.id, headers, expiration=expiration)
    return Post("", record.reply_to, properties, record.body, mandatory=False)


def _arrived(arrival: Arrival) -> tuple[Record, float | None]:
    """Return the record that has come, and for how many seconds it is kept."""
    headers = arrival.properties.headers or {}
    ttl = headers.get(TTL)
    record = Record(
        id=id_of(arrival.properties),
        state=str(headers[STATE]),
        final=bool(headers[FINAL]),
        body=arrival.body,
        rank=int(headers.get(RANK, 0)),
    )
    return record, None if ttl is None else float(ttl)


def _received(record: Record) -> Record:
    """Return a record as it looks where it has arrived."""
    return Record(id=record.id, state=record.state, final=record.final, body=record.body, rank=record.rank)


@contextmanager
def _as_backend_errors() -> Iterator[None]:
    try:
        yield
    except BrokerUnavailable as error:
        raise BackendUnavailable(str(error)) from error
    except BrokerError as error:
        raise BackendError(str(error)) from error
