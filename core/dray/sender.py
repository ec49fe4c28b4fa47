"""The way out: every message that leaves an app passes here, on its way from a task to the broker.

`publish`: middleware -> arguments written -> checked against what the broker can do -> body -> envelope -> broker
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from . import signalling, signals, states
from .capabilities import FOREVER, Capabilities
from .codec import Writer, pack
from .context import current
from .errors import BackendError, BackendUnavailable, BrokerUnavailable, DecodeError, NotSupported, SerializationError
from .message import REPLACED_ATTEMPTS, Envelope, Message, Waiting
from .middleware import Middleware
from .report import about, record
from .routes import Routes
from .sealing import message_in
from .transactions import driver_connection

if TYPE_CHECKING:
    from .app import Dray
    from .broker import Broker

logger = logging.getLogger("dray")

#: Takes a message with its arguments and returns it as it will travel, with its payload.
Encode = Callable[[Message], Message]


class Sender:
    """Sends the messages of one app. Thread-safe."""

    def __init__(self, app: Dray, routes: Routes) -> None:
        self.app = app
        self._routes = routes
        self._sealing = app.sealing
        if app.conf.task_send_sent_event:
            app.events.record(sent=True)

    def publish(self, messages: Iterable[Message], writer: Writer, options: Mapping[str, Any]) -> list[Message]:
        """Send messages in as few round trips as the broker allows; return them as they travelled.

        Everything that can be refused is refused before the first is sent. The messages are the sender's from here
        on: `writer` writes their arguments into them.
        """
        app, broker = self.app, self.app.broker
        can = broker.capabilities
        if options.get("connection") is not None:
            options = {**options, "connection": self._transaction(options["connection"], can)}
        sent: list[Message] = []
        envelopes: list[Envelope] = []
        encode: Encode = writer.fill
        if signals.before_task_publish.receivers:
            encode = signalling.announced(app, encode)
        if app.middleware:
            encode, messages = self._through_middleware(encode), map(_with_own_headers, messages)
        asked = address = ""
        for message in messages:
            written = encode(message)
            if not written.ignore_result:
                if written.task != asked:
                    asked, address = written.task, app.reply_to(written.task)
                if address:
                    written = written.but(reply_to=address)
            sent.append(written)
            envelopes.append(self._envelope(written, can))
        if options.get("idempotency_key") is not None:
            self._forget_failures(sent)
        if not can.find:
            # Nobody else could tell a waiting id from an unknown one. Before the publish: results come after this.
            self._store_pending(sent)
        size = can.max_publish_batch
        for start in range(0, len(envelopes), size):
            self._send(broker, envelopes[start : start + size], options)
        running = current.get()
        if running is not None and not running.called_directly:
            running.children.extend(message.id for message in sent)
        self.published(sent)
        return sent

    def published(self, messages: Iterable[Message]) -> None:
        """Say that the broker has messages now."""
        if self.app.listening:
            for message in messages:
                self.app.notify("task-sent", message)
        if signals.after_task_publish.receivers:
            signalling.published(self.app, messages)

    def prepare(self, message: Message, encode: Encode) -> Message:
        """Pass a message through the middleware and have its arguments written; return it as it will travel."""
        return self._through_middleware(encode)(_with_own_headers(message))

    def _through_middleware(self, encode: Encode) -> Encode:
        """Return `encode` with the middleware around it."""

        def innermost(message: Message) -> Message:
            # What the middleware has in hand stays as it is; what is written into is a copy.
            return encode(message.but())

        call: Encode = innermost
        for one in reversed(self.app.middleware):
            call = _around(one, call)
        return call

    def enclose(self, message: Message) -> Envelope:
        """Return the envelope for a message, or raise what the broker at hand would have to refuse."""
        return self._envelope(message, self.app.broker.capabilities)

    def _envelope(self, message: Message, can: Capabilities) -> Envelope:
        delay = 0.0 if message.eta is None else self._delay(message, message.eta, can)
        if message.priority and can.priority_levels < 2:
            raise NotSupported(f"sending {message.task} with priority {message.priority}: the broker has no priorities")
        self._routes.check(message, can)
        body = pack(message)
        if self._sealing is not None:
            body = self._sealing.seal(body, "message", message.id)
        if can.max_message_bytes is not None and len(body) > can.max_message_bytes:
            raise SerializationError(
                f"sending {message.task}: {len(body):,} bytes are more than the broker takes "
                f"({can.max_message_bytes:,}): send a reference (a path, a key, an id), or try compression='gzip'"
            )
        return Envelope(
            id=message.id,
            queue=message.queue if message.key is None else self._routes.lane(message, can),
            body=body,
            priority=message.priority,
            delay=delay,
            attempt=message.retries + message.handed_back + message.replaced * REPLACED_ATTEMPTS,
            key=message.key,
            exchange="" if message.queue else message.exchange,
            routing_key="" if message.queue else message.routing_key,
        )

    def _delay(self, message: Message, eta: float, can: Capabilities) -> float:
        delay = max(0.0, eta - self.app.clock.time())
        if can.max_delay < min(delay, FOREVER):
            limit = f"keeps delays up to {can.max_delay:g} s only" if can.max_delay else "has no delays"
            raise NotSupported(f"sending {message.task} with a delay of {delay:g} s: the broker {limit}")
        return min(delay, FOREVER)

    def _transaction(self, connection: object, can: Capabilities) -> object:
        """Return the driver's connection below the caller's, or raise what says why it cannot be used."""
        if not can.transactional:
            raise NotSupported(
                f"connection=: {self.app.broker.url} cannot take part in a transaction of yours; send after the commit"
            )
        return driver_connection(connection)

    def _send(self, broker: Broker, envelopes: Sequence[Envelope], options: Mapping[str, Any]) -> None:
        caller = options.get("connection")
        if caller is not None:
            # Never tried again: after an error the transaction is the caller's to end.
            broker.publish_within(caller, envelopes)
            return
        try:
            broker.publish(envelopes)
        except BrokerUnavailable as error:
            wanted = options.get("retry")
            if not (self.app.conf.task_publish_retry if wanted is None else wanted):
                raise
            self._send_again(
                envelopes, error, {**self.app.conf.task_publish_retry_policy, **(options.get("retry_policy") or {})}
            )

    def _send_again(self, envelopes: Sequence[Envelope], error: BrokerUnavailable, policy: Mapping[str, Any]) -> None:
        """Reconnect and publish once more, as often as the policy says; raise the last error when that was in vain.

        Repeating is safe where the broker recognises an (id, attempt) that it has; elsewhere a task can run twice.
        """
        attempts, pause = policy["max_retries"], float(policy["interval_start"])
        never = threading.Event()
        for attempt in count(1):
            if attempts is not None and attempt > attempts:
                raise error
            logger.warning("sending %d message(s): %s; trying again", len(envelopes), error)
            self.app.clock.wait(never, pause * random.uniform(0.8, 1.2))
            pause = min(pause + float(policy["interval_step"]), float(policy["interval_max"]))
            try:
                self.app.broker.open()
                self.app.broker.publish(envelopes)
                return
            except BrokerUnavailable as another:
                error = another

    def replay(self, queue: str, ids: Sequence[str]) -> int:
        """Put dead letters back into their queue, as if never delivered, and what is stored about them: PENDING again.

        First the result, then the letter: the other way round a worker could have stored the new result already, and
        the old one, if it stayed, would outrank the new one. A crash in between leaves a letter that is still dead.
        """
        app, broker = self.app, self.app.broker
        places = {app.connections.backend_url, *(task.resolved.backend or None for task in app.tasks.values())}
        for place in filter(None, places):
            app.connections.backend_at(place).forget(ids)
        if not broker.capabilities.find:
            self._store_pending([m for letter in broker.dead(queue, len(ids), ids) if (m := self._readable(letter))])
        return broker.replay(queue, ids)

    def _readable(self, letter: Waiting) -> Message | None:
        try:
            return message_in(self.app.sealing, letter.body, letter.id)
        except DecodeError:
            return None

    def _forget_failures(self, messages: Sequence[Message]) -> None:
        """Forget what earlier calls for the same keys failed with, or it would be taken for what these come to.

        A call that ends with a value just now, between the two requests, is forgotten with it, and runs once more.
        """
        for message in messages:
            place = self.app.backend_url_of(message.task) or self.app.connections.backend_url
            try:
                backend = self.app.connections.backend_at(place) if place else None
                found = backend.fetch([message.id]).get(message.id) if backend is not None else None
                if backend is not None and found is not None and found.final and found.state != states.SUCCESS:
                    backend.forget([message.id])
            except BackendError as error:
                # The worker does it, when it takes the call.
                logger.warning("%s[%s] sent, and perhaps failed before: %s", message.task, message.id, error)

    def _store_pending(self, messages: Sequence[Message]) -> None:
        pending = [
            record(self.app, m.id, about(m, states.PENDING), 0, reply_to=m.reply_to)
            for m in messages
            if not m.ignore_result
        ]
        try:
            if pending:
                self.app.connections.store(pending, self.app.conf.result_expires)
        except BackendUnavailable as error:
            # They are sent all the same; until they have ended, their ids are unknown.
            logger.warning("%d message(s) sent unknown to the result backend: %s", len(pending), error)


def _with_own_headers(message: Message) -> Message:
    """Return a copy for others to look at: blank messages share their headers, which they may change in place."""
    return message.but(headers=dict(message.headers))


def _around(middleware: Middleware, call_next: Encode) -> Encode:
    return lambda message: middleware.publish(message, call_next)
