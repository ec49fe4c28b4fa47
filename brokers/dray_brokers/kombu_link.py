"""One connection of kombu's with one channel, used by one thread at a time, its errors translated."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

import kombu
from kombu.exceptions import TimeoutError as NoAnswer
from kombu.transport import virtual

from dray import BrokerError, BrokerUnavailable, mask

from .kombu_place import Place

logger = logging.getLogger("dray.brokers.kombu")

#: Without its types, of which it has but a few.
_kombu: Any = kombu

#: Errors by name, for their drivers need not be installed: those that pass although their transport counts them among
#: the refusals, and those that stay although it counts them among the losses of a connection.
PASSING = {"OutOfMemoryError", "ReadOnlyError", "BusyLoadingError", "MasterDownError", "ClusterDownError"}
LASTING = {
    *("AuthenticationError", "AuthenticationWrongNumberOfArgsError", "AuthorizationError", "NoPermissionError"),
    *("AccessRefused", "NotAllowed", "NotFound", "PreconditionFailed", "ConfigurationError", "InvalidURI"),
}
#: What virtual transports raise for a message that they cannot read. They have taken it away by then.
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError)
#: How kombu's modules fail, when they are imported or used, without the driver they were written for.
NO_DRIVER = (ImportError, NameError, AttributeError)
#: AMQP's reply code for a queue that is missing.
NOT_FOUND = 404
#: Milliseconds for which a seal is kept that could not be deleted.
KEEP_SEAL = 60_000
#: Seconds for which the heart listens to what the other side has sent.
LISTEN = 0.001


class Refused(BrokerError):
    """One message was refused, and the link is as good as before."""


class Link:
    """A connection and its channel. `using` gives the channel to one thread at a time.

    After an error the link is broken. One that `heals` connects anew when it is next used; one that does not holds
    what was lent through it, raises `BrokerUnavailable` from then on, and can still be asked to `give_back`.
    """

    def __init__(self, place: Place, heals: bool) -> None:
        self._place = place
        self._heals = heals
        #: Held by the thread that uses the link.
        self.turn = threading.RLock()
        self._connection: Any = None
        self._channel: Any = None
        self._producer: Any = None
        self._returned: list[str] = []
        #: Why it is broken; "" while it is not.
        self._broken = ""
        self._declared: set[str] = set()
        self._heart: _Heart | None = None
        #: Where the filesystem transport writes; see `_hand_over`.
        self._outbox = place.folder / "outbox" / uuid4().hex if place.folder is not None else None

    # Life

    def open(self) -> None:
        """Connect, unless it is connected and whole. Raises what `using` raises."""
        with self.turn:
            if self._channel is None or self._broken:
                self._connect()

    def close(self) -> None:
        """End the connection. Never raises; safe twice."""
        with self.turn:
            heart, self._heart = self._heart, None
            if heart is not None:
                heart.stop()
            connection, self._connection, self._channel, self._producer = self._connection, None, None, None
            if connection is not None:
                # Whatever goes wrong now, the other side sees the connection end.
                with suppress(Exception):
                    connection.collect() if self._broken and self._place.traits.held_by_server else connection.close()
            with suppress(OSError):
                self._hand_over()
                if self._outbox is not None:
                    self._outbox.rmdir()
            self._declared.clear()

    def _connect(self) -> None:
        self.close()
        self._broken = ""
        try:
            if self._place.folder is not None and self._outbox is not None:
                for folder in (self._place.folder / "control", self._place.folder / "processed", self._outbox):
                    folder.mkdir(parents=True, exist_ok=True)
            self._connection = self._place.connection(self._outbox)
            # Each host once: whether to try again is the engine's decision.
            self._connection.ensure_connection(
                max_retries=max(len(self._connection.alt) - 1, 0),
                interval_start=0,
                interval_step=0,
                reraise_as_library_errors=False,
            )
            self._open_channel()
        except NO_DRIVER as error:
            hint = f"; is its driver installed? pip install 'kombu[{self._place.traits.extra}]'"
            raise BrokerError(f"cannot connect to {self._place.url}: {mask(str(error))}{hint}") from error
        except Exception as error:
            raise self._fails("connect to", error) from error
        if self._connection.supports_heartbeats and self._place.options.heartbeat > 0:
            self._heart = _Heart(self, self._place.options.heartbeat)

    def _open_channel(self) -> None:
        self._channel = self._connection.channel()
        self._producer = _kombu.Producer(self._channel, auto_declare=False)
        if self._place.traits.held_by_server and hasattr(self._channel, "events"):
            # Without a listener an unroutable message would be an error in the middle of waiting for its confirm.
            self._channel.events["basic_return"].add(lambda error, *what: self._returned.append(str(error)))

    # Use

    @contextmanager
    def using(self, doing: str) -> Iterator[Any]:
        """Give the channel to this thread alone, to be `doing` ("publish to"); break the link on any error.

        Raises `BrokerUnavailable` for what passes by itself, `BrokerError` for all else.
        """
        with self.turn:
            if self._heals:
                self.open()
            elif self._broken or self._channel is None:
                raise BrokerUnavailable(f"{self._place.url}: the connection was lost: {self._broken or 'it is closed'}")
            try:
                yield self._channel
            except BrokerError:
                raise
            except Exception as error:
                raise self._fails(doing, error) from error

    @property
    def broken(self) -> bool:
        """Whether the connection was lost."""
        return bool(self._broken)

    @property
    def tells_size(self) -> bool:
        """Whether the transport can say how many messages wait."""
        return _overrides(self._channel, "_size")

    @property
    def purges(self) -> bool:
        """Whether the transport can empty a queue."""
        return _overrides(self._channel, "_purge")

    def declare(self, queue: str) -> None:
        """Create `queue` if it is missing. One that exists stays as it is, whatever its arguments."""
        if queue in self._declared:
            return
        with self.using("declare a queue of"):
            name = self._place.name_there(queue)
            if self._place.traits.bound:
                _kombu.Queue(name, _kombu.Exchange(name), routing_key=name).bind(self._channel).declare()
            elif _is_virtual(self._channel):
                self._channel.queue_declare(queue=name, durable=True, auto_delete=False)
            elif not (waiting := self._count(name)):
                if waiting is None:
                    self._channel.queue_declare(queue=name, durable=True, auto_delete=False)
                if self._place.traits.sealed:
                    # An empty one too: who made it may have done so this moment, and we are about to publish to it.
                    self._seal()
            self._declared.add(queue)

    def publish(self, queue: str, message: dict[str, Any]) -> None:
        """Publish the message that `kombu_wire` wrote; `Refused` says why this one alone was not taken."""
        self.declare(queue)
        with self.using("publish to"):
            try:
                self._producer.publish(
                    routing_key=self._place.name_there(queue),
                    exchange="",
                    delivery_mode=2,
                    mandatory=True,
                    confirm_timeout=self._place.options.timeout,
                    **message,
                )
                self._hand_over()
            except TimeoutError as error:
                self._fails("publish to", error)
                raise BrokerUnavailable(
                    f"{self._place.url} did not take a message within {self._place.options.timeout:g} s: the server is "
                    "frozen, or has an alarm for its memory or disk"
                ) from error
            except Exception as error:
                if type(error).__name__ == "MessageNacked":
                    raise Refused("the server did not take it: the queue is full") from error
                if type(error).__name__ in ("PreconditionFailed", "ContentTooLarge") and self._heals:
                    # The server has closed the channel, with all that was lent through it; the connection goes on.
                    self._open_channel()
                    raise Refused(mask(str(error))) from error
                raise
            if self._returned:
                reasons, self._returned = self._returned, []
                raise Refused(f"no queue took it: {reasons[0]}")

    def fetch(self, queue: str) -> Any:
        """Return kombu's next message of `queue`; None when there is none."""
        with self.using("receive from") as channel:
            try:
                return channel.basic_get(self._place.name_there(queue))
            except UNREADABLE as error:
                if not _is_virtual(channel):
                    raise
                # Nothing is left of it that could be buried.
                said = f"{type(error).__name__}: {mask(str(error))}"
                logger.error("kombu cannot read a message in %s of %s and dropped it: %s", queue, self._place.url, said)
                return None

    def reject(self, tag: Any) -> None:
        """Have what was lent come out again at once."""
        with self.using("give back to") as channel:
            channel.basic_reject(tag, requeue=True)
            self._hand_over()

    def give_back(self, tag: Any) -> None:
        """Do that at the end, and through a broken link too: the other side may be there again."""
        with self.turn:
            # Servers that watch their connections do it themselves as soon as this one ends.
            if self._channel is not None and not self._place.traits.held_by_server:
                self._broken = ""
                self.reject(tag)

    def count(self, queue: str) -> int | None:
        """Return how many messages wait in `queue`; None when there is no such queue."""
        with self.using("count messages of"):
            return self._count(self._place.name_there(queue))

    def purge(self, queue: str) -> int:
        """Empty `queue`; return how many messages there were."""
        with self.using("purge a queue of") as channel:
            name = self._place.name_there(queue)
            waiting = self._count(name)
            if waiting is None:
                return 0
            gone = channel.queue_purge(name)
            return int(waiting if gone is None else gone)

    def _count(self, name: str) -> int | None:
        if _is_virtual(self._channel):
            # Not by a passive declaration: on Redis that forgets the key prefix (kombu 5.7).
            return int(self._channel._size(name))
        # Asking for a queue that is missing costs the channel that asked.
        with self._connection.channel() as channel:
            try:
                return int(channel.queue_declare(queue=name, passive=True).message_count)
            except self._connection.channel_errors as error:
                if getattr(error, "reply_code", None) == NOT_FOUND:
                    return None
                raise

    def _seal(self) -> None:
        """Have RabbitMQ write down for good that it made a queue.

        Killed with -9 in the two seconds before it has (3.10.8), it takes the queue back with all that it has confirmed
        in it. One more queue takes along what is not written yet (docs/decisions/0020); it is deleted at once.
        """
        name = f"{self._place.options.prefix}dray.seal.{uuid4().hex}"
        # A refusal costs the channel that asked.
        with self._connection.channel() as channel:
            try:
                # Of the kind that a queue has when nobody says which, as ours: only its own kind takes a queue along.
                channel.queue_declare(queue=name, durable=True, auto_delete=False, arguments={"x-expires": KEEP_SEAL})
                channel.queue_delete(queue=name)
            except self._connection.channel_errors as error:
                # This user may make queues of certain names only, or the virtual host takes no more of them.
                logger.debug(
                    "%s: not made sure at once that a new queue survives a crash: %s", self._place.url, mask(str(error))
                )

    def _hand_over(self) -> None:
        """Move what the filesystem transport has written to where others look for it, each file as a whole.

        kombu writes its files where they are read: measured, a reader beside a writer takes one in seventy of 400 bytes
        before it is written, and that message is lost. Killed before the move, publishing has not returned yet.
        """
        if self._outbox is not None and self._place.folder is not None and self._outbox.is_dir():
            for name in sorted(os.listdir(self._outbox)):
                os.rename(self._outbox / name, self._place.folder / name)

    # When things go wrong

    def beat(self) -> None:
        """Send a heartbeat if one is due, and read what the other side has sent: heartbeats, a close."""
        with self.turn:
            if self._broken or self._connection is None or not self._connection.connected:
                return
            try:
                self._connection.heartbeat_check()
                with suppress(NoAnswer):
                    self._connection.drain_events(timeout=LISTEN)
            except Exception as error:
                # Told to whoever uses the link next.
                self._fails("keep in touch with", error)

    def _fails(self, doing: str, error: Exception) -> BrokerError:
        """Break the link, and return what to raise."""
        said = mask(" ".join(str(error).split())) or type(error).__name__
        self._broken = f"{type(error).__name__}: {said}"
        kind = BrokerUnavailable if self._passes(error) else BrokerError
        return kind(f"cannot {doing} {self._place.url}: {type(error).__name__}: {said}")

    def _passes(self, error: Exception) -> bool:
        names = {each.__name__ for each in type(error).__mro__}
        if names & LASTING:
            return False
        if names & PASSING or isinstance(error, OSError | NoAnswer):
            return True
        if self._connection is None:
            return False
        if not self._connection.connected:
            # py-amqp fails in many ways on a connection that has gone.
            return True
        transport = self._connection.get_transport_cls()
        losses = getattr(transport, "recoverable_connection_errors", None) or transport.connection_errors
        return isinstance(error, losses)


class _Heart:
    """A thread that keeps one link's connection alive, however long nobody uses it."""

    def __init__(self, link: Link, every: float) -> None:
        self._stop = threading.Event()
        self._link, self._pause = link, every / 4
        threading.Thread(target=self._beat, name="dray-kombu-heart", daemon=True).start()

    def stop(self) -> None:
        """Let it end, without waiting for that: it may be waiting for us."""
        self._stop.set()

    def _beat(self) -> None:
        while not self._stop.wait(self._pause):
            self._link.beat()


def _is_virtual(channel: Any) -> bool:
    """Tell whether a channel is one that kombu plays on something that has none."""
    return isinstance(channel, virtual.Channel)


def _overrides(channel: Any, verb: str) -> bool:
    """Tell whether a transport does something itself that kombu's virtual transports only pretend to do."""
    return not _is_virtual(channel) or getattr(type(channel), verb) is not getattr(virtual.AbstractChannel, verb)
