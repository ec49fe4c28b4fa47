"""The broker port: what carries envelopes from a sender to a worker. An adapter author needs this page only.

An adapter is two classes, `Broker` (one connection to the place where messages wait) and `Consumer` (one worker's
loans from it). Everything comes in batches; a loop over the batch is a legal implementation. All calls block.

Rules for all verbs:

- Translate the driver's errors: `BrokerUnavailable` when the broker cannot be reached (the engine reconnects and
  tries again), `BrokerError` for anything else. Nothing else may come out.
- Ids are text of up to 128 characters, bodies are any bytes. Queue names are text without whitespace.
- An empty batch is legal everywhere and does nothing.
- Only the broker's own clock decides when a message is due or a lease is over. A broker without one uses
  `self.clock`, which the engine sets before `open()`.
- `dray.testing.BrokerContract` holds an adapter to every sentence of this page that its capabilities claim.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from .capabilities import Capabilities
from .clock import SYSTEM_CLOCK, Clock
from .errors import NotSupported
from .message import Delivery, Envelope, Queue, Waiting
from .urls import Url


class Consumer(ABC):
    """One worker's loans from a fixed set of queues.

    Threads: `receive` is called from one thread; the settle verbs and `extend` are called from others, also while
    `receive` is blocking. `close` is called when none of them is running.

    A settle verb returns the deliveries it could *not* settle because the loan was over: someone else may have them.
    Settling twice is not an error; the second time the delivery is among those returned, or silently done already.
    When the loans have ended with the connection, the verbs return them all instead of raising `BrokerUnavailable`: a
    worker whose slots are taken by what it cannot settle would never call `receive`, and so never reconnect.
    """

    @abstractmethod
    def receive(self, limit: int, wait: float, queues: Sequence[str] | None = None) -> Sequence[Delivery]:
        """Borrow up to `limit` messages that are due, waiting up to `wait` seconds while there are none.

        Returns as soon as there is at least one, and an empty sequence when the time is up. `wait=0` never blocks.
        `queues` is a subset of this consumer's queues in the order to look at them (None: all, as opened): a queue
        is only looked at for the room that the ones before it left. Within a queue higher priorities come first,
        then the older ones.

        Each message is lent for the lease the consumer was opened with, and counted as delivered, in the same atomic
        step that takes it: a worker killed at any instant loses nothing, its loans come back when they run out.
        Loans of dead workers that have run out come back through this call too; no other traffic is needed.
        """

    @abstractmethod
    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Settle as done: they never come out again."""

    @abstractmethod
    def requeue(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> Sequence[Delivery]:
        """Give them back to come out again after `delay` seconds, behind what is already waiting.

        The delivery count stays as it is, so that a message that is always given back meets its limit.
        """

    def release(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Give back what was not started: due at once, in its old place, and without counting this delivery.

        Brokers that cannot take the count back leave `Capabilities.release_uncharged` False and this default.
        """
        return self.requeue(deliveries)

    @abstractmethod
    def bury(self, deliveries: Sequence[Delivery], reason: str) -> Sequence[Delivery]:
        """Move them to the dead letters of their queue, whole, with `reason` (a sentence for people).

        They stay there until replayed or discarded. A broker without dead letters drops them.
        """

    def extend(self, deliveries: Sequence[Delivery], seconds: float) -> Sequence[Delivery]:
        """Renew the loans so that they last `seconds` from now; return those whose loan was already over.

        Only called when `Capabilities.lease` is True.
        """
        return ()

    def wake(self) -> None:
        """Have the `receive` that waits, or the next one, return before its time if nothing is there. Raises nothing.

        It may be called from any thread, and is when the worker stops. By default nothing happens, and whoever stops
        has to wait as long as that `receive` does.
        """

    def resume(self) -> bool:
        """Go on after `BrokerUnavailable` from `receive`, the broker being open again; return whether that is possible.

        By default it is not: the loans ended with the connection, and the engine opens another consumer.
        """
        return False

    @abstractmethod
    def close(self) -> None:
        """End the loans. What was not settled comes out again, at once where the broker can do that. Safe twice."""


class Broker(ABC):
    """One connection to the place where messages wait. Made from a URL, opened before use.

    Threads: all verbs of an open broker may be called from any thread at the same time. A broker is not carried
    across a fork: the engine makes a new one in the child and forgets the old one without closing it.

    `open()` may be called again after `BrokerUnavailable`, to reconnect; consumers opened before are then dead
    and are opened again by the engine.
    """

    #: What this connection can do; asked of the object, after `open()`.
    capabilities: Capabilities = Capabilities()
    #: Time for brokers that have no clock of their own.
    clock: Clock = SYSTEM_CLOCK
    #: A name for where its queues are, equal for all connections that see the same queues, whatever they call the host;
    #: known after `open()`. "": scheme and path of the URL say it.
    place: str = ""

    def __init__(self, url: Url) -> None:
        self.url = url

    @abstractmethod
    def open(self) -> None:
        """Connect and create what is missing (files, tables, keys). Safe twice.

        Raises `BrokerUnavailable` when it cannot be reached now, `UrlError` or `BrokerError` when it never will.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection. Stored messages stay, unless the broker says `durable=False`. Safe twice."""

    @abstractmethod
    def publish(self, envelopes: Sequence[Envelope]) -> None:
        """Store the envelopes; return when the transport has all of them safe. Queues are created when missing.

        With `Capabilities.dedup`, an (id, attempt) that is still stored (waiting or lent) is left as it is, so that
        a publish may be repeated when its reply was lost. Raises `PublishError` naming the envelopes that were refused,
        all others being safe; on `BrokerUnavailable` any subset may be safe.
        """

    @abstractmethod
    def consumer(self, queues: Sequence[str], lease: float) -> Consumer:
        """Open a consumer of `queues`, in that order, whose loans last `lease` seconds unless extended.

        Queues that do not exist yet are legal: they are empty.
        """

    # Optional verbs. The defaults find nothing to do.

    def declare(self, queues: Sequence[Queue]) -> None:
        """Take note of queues that need more than a name, before any of them is used, also for later calls of `open()`.

        A queue with an exchange needs `Capabilities.exchanges`, one with `broadcast` needs that capability; others are
        not passed on. Raises `BrokerError` when one exists already with other arguments, saying which and what to do.
        """

    def setup(self, queues: Sequence[str]) -> Sequence[str]:
        """Create for good what `open()` and first use would create (queues, tables, indexes), with the rights at hand.

        Return a sentence for each thing made. `dray setup` calls this, so that workers and senders can do with less.
        """
        return ()

    def advice(self, queues: Sequence[str]) -> Sequence[str]:
        """Return sentences about what works but deserves a thought: eviction, persistence, limits (`dray doctor`).

        What there is no right to look at is left out, or said. Never changes anything.
        """
        return ()

    # Optional verbs, each behind a capability. The defaults refuse.

    def publish_within(self, connection: Any, envelopes: Sequence[Envelope]) -> None:
        """Store the envelopes in the open transaction of the caller's `connection` (`Capabilities.transactional`).

        `connection` is a connection of this broker's own driver to the same database. They exist when the caller
        commits, and never when it rolls back. Neither commits nor rolls back. Otherwise as `publish`.
        """
        raise NotSupported(f"{self.url.scheme}:// cannot take part in a transaction of the caller's")

    def cancel(self, ids: Sequence[str], ttl: float) -> None:
        """Remember for `ttl` seconds that these ids must not run (`Capabilities.cancel`).

        Covers every attempt of the id, whether it is waiting, lent or not yet published; survives restarts.
        """
        raise NotSupported(f"{self.url.scheme}:// cannot cancel messages")

    def cancelled(self, ids: Sequence[str]) -> set[str]:
        """Return those of `ids` that are cancelled (`Capabilities.cancel`). Asked about running tasks once a second."""
        raise NotSupported(f"{self.url.scheme}:// cannot cancel messages")

    def find(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return which of `ids` are stored, and as what: ready, delayed, leased or dead (`Capabilities.find`)."""
        raise NotSupported(f"{self.url.scheme}:// cannot look up messages by id")

    def queues(self) -> Sequence[str]:
        """Return the names of all queues that hold anything, dead letters included, sorted (`Capabilities.size`)."""
        raise NotSupported(f"{self.url.scheme}:// cannot list its queues")

    def sizes(self, queues: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        """Return for each queue how many are `ready`, `delayed`, `leased` and `dead` (`Capabilities.size`)."""
        raise NotSupported(f"{self.url.scheme}:// cannot tell the size of a queue")

    def peek(self, queue: str, limit: int) -> Sequence[Waiting]:
        """Return up to `limit` stored messages (not dead ones), next to come out first, untouched (`.peek`)."""
        raise NotSupported(f"{self.url.scheme}:// cannot list waiting messages")

    def purge(self, queue: str) -> int:
        """Delete every message that waits in `queue`, and return how many (`.purge`). What is lent or dead stays.

        Delayed ones are waiting too; those that the broker cannot count (`.size` is not "exact") may stay.
        """
        raise NotSupported(f"{self.url.scheme}:// cannot empty a queue")

    def dead(self, queue: str, limit: int, ids: Sequence[str] | None = None) -> Sequence[Waiting]:
        """Return up to `limit` dead letters of `queue`, oldest first; only `ids` when given (`.dead_letters`)."""
        raise NotSupported(f"{self.url.scheme}:// keeps no dead letters")

    def replay(self, queue: str, ids: Sequence[str] | None = None) -> int:
        """Move dead letters (all, or those with `ids`) back to `queue`, as if never delivered; return how many.

        One atomic step each: killed in the middle, every letter is either dead or waiting (`.dead_letters`).
        """
        raise NotSupported(f"{self.url.scheme}:// keeps no dead letters")

    def discard(self, queue: str, ids: Sequence[str] | None = None) -> int:
        """Delete dead letters (all, or those with `ids`) of `queue`; return how many (`.dead_letters`)."""
        raise NotSupported(f"{self.url.scheme}:// keeps no dead letters")
