"""One connection to RabbitMQ and the thread that owns it; all other threads hand it work and wait.

pika's connections are not thread-safe, and a heartbeat must not wait for a task: hence the thread. It runs nothing
but pika and short closures. The broker and the rpc result backend both stand on this.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import msgspec
import pika
from pika import exceptions

from dray import BrokerError, BrokerUnavailable, Url, UrlError

from .rabbitmq_channel import RabbitChannel, RabbitConnection
from .rabbitmq_errors import translated

T = TypeVar("T")

#: Ports where the URL names none.
PORT, TLS_PORT = 5672, 5671
#: Most bytes of a name, a routing key or a message id in AMQP.
MOST_NAME = 255


class RabbitOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL `amqp://user:password@host1:port,host2/vhost?option=value&...` may say."""

    #: Put before the name of every queue and exchange.
    prefix: str = ""
    #: What kind of queue is declared: "auto" is quorum from RabbitMQ 4.0 on and in clusters, else classic.
    queue_type: Literal["auto", "quorum", "classic"] = "auto"
    #: Seconds of silence after which either side gives the connection up; 0 leaves that to TCP.
    heartbeat: int = 60
    #: Seconds to connect to one host, its handshake included.
    connect_timeout: float = 5.0
    #: Seconds to wait for an answer or for the confirmation of what was published.
    timeout: float = 30.0
    #: Seconds to wait while the server, short of memory or disk, takes no messages.
    blocked_timeout: float = 10.0
    #: Seconds a task may take before the server takes its message back, for queues that we declare (RabbitMQ 3.12 or
    #: newer; `x-consumer-timeout`). 0 leaves it to the server: 30 minutes unless configured.
    consumer_timeout: float = 0.0
    #: Largest message (bytes). 16 MiB is what RabbitMQ takes from 4.0 on unless its `max_message_size` says otherwise.
    max_message_bytes: int = 16 << 20
    #: The management API, such as http://host:15672, for sizes and the list of queues; user and password are the URL's.
    management: str = ""
    #: TLS: file with the authorities to trust (else the system's), our own certificate and key, "no" to trust anyone.
    ca_certs: str = ""
    certfile: str = ""
    keyfile: str = ""
    verify: Literal["yes", "no"] = "yes"

    @classmethod
    def of(cls, url: Url) -> RabbitOptions:
        """Return the options of a URL, or raise `UrlError`."""
        options = url.options_as(cls)
        for name, least, most in (
            ("heartbeat", 0, 65_535),
            ("connect_timeout", 0.1, 120),
            ("timeout", 0.1, 3600),
            ("blocked_timeout", 0.1, 3600),
            ("consumer_timeout", 0, 4_294_967),
        ):
            if not least <= getattr(options, name) <= most:
                raise UrlError(f"{url}: {name} is a number of seconds from {least} to {most}")
        if not 4096 < options.max_message_bytes <= 512 << 20:
            raise UrlError(f"{url}: max_message_bytes is a number from 4097 to {512 << 20}")
        if len(options.prefix.encode()) > 100:
            raise UrlError(f"{url}: prefix takes up to 100 bytes")
        tls = options.ca_certs or options.certfile or options.keyfile or options.verify == "no"
        if tls and url.scheme != "amqps":
            raise UrlError(f"{url}: ca_certs, certfile, keyfile and verify are for amqps://")
        if options.management and not options.management.startswith(("http://", "https://")):
            raise UrlError(f"{url}: management is a URL such as http://host:15672")
        return options


def vhost_of(url: Url) -> str:
    """Return the virtual host a URL names: its path without the first slash; "/" when there is none."""
    return url.path[1:] or "/"


def parameters_of(url: Url, options: RabbitOptions) -> list[pika.ConnectionParameters]:
    """Return how to connect to each host of the URL, in order."""
    tls = url.scheme == "amqps"
    hosts = url.hosts or (("localhost", None),)
    return [
        pika.ConnectionParameters(
            host=host or "localhost",
            port=port or (TLS_PORT if tls else PORT),
            virtual_host=vhost_of(url),
            credentials=pika.PlainCredentials(url.username or "guest", url.password or "guest"),
            heartbeat=options.heartbeat,
            socket_timeout=options.connect_timeout,
            stack_timeout=options.connect_timeout,
            ssl_options=pika.SSLOptions(_tls(url, options), host or "localhost") if tls else None,
            client_properties={"product": "dray"},
            tcp_options={"TCP_KEEPIDLE": 60},
        )
        for host, port in hosts
    ]


def _tls(url: Url, options: RabbitOptions) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.ca_certs or None)
        if options.certfile:
            context.load_cert_chain(options.certfile, options.keyfile or None)
    except (OSError, ssl.SSLError) as error:
        raise UrlError(f"{url}: the files for TLS cannot be used: {error}") from None
    if options.verify == "no":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Link:
    """One connection, opened once: when it is lost, a new one is made. Thread-safe; of one process.

    Nothing raises anything but `BrokerError`, or its child `BrokerUnavailable`.
    """

    def __init__(self, url: Url, options: RabbitOptions, purpose: str) -> None:
        self.url = url
        self.options = options
        self._purpose = purpose
        self._lock = threading.Lock()
        self._connection: RabbitConnection | None = None
        #: Why it is not open; None while it is.
        self._lost: BrokerError | None = BrokerUnavailable(f"{url}: not connected")
        self._given_up = False
        #: What fails when the connection is lost.
        self._waiting: set[Future[Any]] = set()
        #: Called, on any thread, once it is lost.
        self.on_lost: list[Callable[[], None]] = []
        #: Most bytes of a frame, as agreed with the server.
        self.largest_frame = 0
        #: Why the server takes no messages at the moment; "" when it does.
        self.blocked = ""
        #: What the server says of itself.
        self.server: dict[str, Any] = {}

    # Life

    def open(self) -> None:
        """Connect to the first host that answers. Called once."""
        # pika tells of every step that fails, in several lines each; what we raise says it in one.
        log = logging.getLogger("pika")
        if log.level == logging.NOTSET:
            log.setLevel(logging.CRITICAL)
        parameters = parameters_of(self.url, self.options)
        opened: Future[None] = Future()
        threading.Thread(
            target=self._serve, args=(parameters, opened), name=f"dray-rabbitmq-{self._purpose}", daemon=True
        ).start()
        try:
            # The handshake of each host has its own limit; beyond that, looking up a name may hang.
            opened.result(self.options.connect_timeout * len(parameters) + 1.0)
        except FutureTimeout:
            self._given_up = True
            raise BrokerUnavailable(
                f"{self.url}: connecting: no answer in {self.options.connect_timeout:g} s"
            ) from None

    def close(self) -> None:
        """Close the connection; what is unsettled comes out again. Safe twice."""
        connection = self._connection
        if connection is None or self._lost is not None:
            return
        closed: Future[None] = Future()
        self._waiting.add(closed)
        connection.ioloop.add_callback_threadsafe(lambda: connection.close() if connection.is_open else None)
        try:
            closed.result(self.options.connect_timeout)
        except (BrokerError, FutureTimeout):
            pass

    @property
    def is_open(self) -> bool:
        """Whether the connection is there, as far as we have heard."""
        return self._lost is None

    def check(self) -> None:
        """Raise why the connection is not there, if it is not."""
        if self._lost is not None:
            raise self._lost

    # Handing work to the thread

    def post(self, work: Callable[[], None]) -> None:
        """Have `work` done on the connection's thread. Silently not done when the connection or channel is lost."""
        connection = self._connection
        if connection is not None and self._lost is None:
            connection.ioloop.add_callback_threadsafe(lambda: _unless_closed(work))

    def call(self, doing: str, work: Callable[[Future[T]], None], channel: RabbitChannel | None = None) -> T:
        """Have `work` done on the connection's thread, and return what comes to be the result of its future."""
        future: Future[T] = Future()
        with self._lock:
            self.check()
            connection = self._connection
            assert connection is not None
            self._waiting.add(future)

        def begin() -> None:
            try:
                if channel is not None:
                    # Closed already, it would have nobody else to say so.
                    channel.check()
                    channel.waiting.add(future)
                work(future)
            except Exception as error:
                if not future.done():
                    future.set_exception(error)

        connection.ioloop.add_callback_threadsafe(begin)
        try:
            return future.result(self.options.timeout)
        except FutureTimeout:
            raise BrokerUnavailable(f"{self.url}: {doing}: no answer in {self.options.timeout:g} s") from None
        except Exception as error:
            raise translated(error, self.url, doing) from error
        finally:
            with self._lock:
                self._waiting.discard(future)
            if channel is not None:
                channel.waiting.discard(future)

    def channel(self) -> RabbitChannel:
        """Open a channel."""

        def work(future: Future[RabbitChannel]) -> None:
            assert self._connection is not None
            self._connection.channel(on_open_callback=lambda channel: _resolve(future, channel))

        return self.call("opening a channel", work)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Give a channel for questions, which may fail and take it along; it is closed at the end."""
        session = Session(self, self.channel())
        try:
            yield session
        finally:
            session.close()

    # The thread

    def _serve(self, parameters: list[pika.ConnectionParameters], opened: Future[None]) -> None:
        """Connect to the first host that answers, and serve that connection until it ends."""
        failures: list[BrokerError] = []
        for each in parameters:
            where = f"{each.host}:{each.port}"
            failed: list[BaseException] = []
            try:
                if self._try(each, opened, failed):
                    return
            except BaseException as error:
                # A bug, of ours or of pika's, in a callback: whoever waits must hear of it.
                if opened.done():
                    self._fail(error)
                    raise
                failed.append(error)
            failures.append(translated(failed[0], self.url if len(parameters) == 1 else where, "connecting"))
        kind = BrokerUnavailable if any(isinstance(each, BrokerUnavailable) for each in failures) else BrokerError
        text = "; ".join(str(each) for each in failures)
        opened.set_exception(kind(text if len(parameters) == 1 else f"{self.url}: none of its hosts: {text}"))

    def _try(self, parameters: Any, opened: Future[None], failed: list[BaseException]) -> bool:
        """Serve a connection until it ends; return whether there was one."""

        def on_open(connection: Any) -> None:
            self.server = dict(connection.server_properties or {})
            self.largest_frame = connection.params.frame_max
            self._lost = None
            if self._given_up:
                connection.close()
            else:
                opened.set_result(None)

        def on_open_error(connection: Any, error: BaseException) -> None:
            failed.append(error)
            connection.ioloop.stop()

        def on_close(connection: Any, error: BaseException) -> None:
            self._fail(error)
            connection.ioloop.stop()

        connection = self._connection = RabbitConnection(parameters, on_open, on_open_error, on_close)
        connection.on_lost = self._fail
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        try:
            connection.ioloop.start()
        finally:
            connection.ioloop.close()
        return not failed

    def _on_blocked(self, connection: Any, frame: Any) -> None:
        self.blocked = str(frame.method.reason) or "resource alarm"

    def _on_unblocked(self, connection: Any, frame: Any) -> None:
        self.blocked = ""

    def _fail(self, error: BaseException) -> None:
        """Have it be known, once, that the connection is lost."""
        # What the server refuses an open connection passes: it is told to go (320), or a bug has shown itself.
        lost = BrokerUnavailable(str(translated(error, self.url, "connected")))
        with self._lock:
            if self._lost is not None:
                return
            self._lost = lost
            waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_exception(lost)
        for told in self.on_lost:
            told()


class Session:
    """Questions and declarations, one after the other, on a channel of their own. Of one thread."""

    def __init__(self, link: Link, channel: RabbitChannel) -> None:
        self.link = link
        self._channel = channel

    def ask(self, verb: str, doing: str, **arguments: Any) -> Any:
        """Call a method of pika's channel that the server answers; return the answer. A refusal ends the session."""

        def work(future: Future[Any]) -> None:
            getattr(self._channel, verb)(**arguments, callback=lambda frame: _resolve(future, frame.method))

        return self.link.call(doing, work, self._channel)

    def renew(self) -> None:
        """Go on after a refusal."""
        if not self._channel.is_open:
            self._channel = self.link.channel()

    def close(self) -> None:
        """End the session."""
        channel = self._channel
        self.link.post(lambda: channel.close() if channel.is_open else None)


def _resolve(future: Future[Any], value: Any) -> None:
    # It may have failed already, when the answer was too late.
    if not future.done():
        future.set_result(value)


def _unless_closed(work: Callable[[], None]) -> None:
    try:
        work()
    except (exceptions.AMQPError, exceptions.ConnectionWrongStateError, exceptions.ChannelWrongStateError):
        # Who uses the channel hears of its end by its callback.
        pass
