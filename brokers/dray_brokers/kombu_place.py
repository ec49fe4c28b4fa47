"""Where kombu's messages are, read off a URL: which transport, with which of kombu's options, and what it is good for.

What each transport does with a message that a worker holds was read in kombu 5.7 and measured for memory, filesystem,
redis, pyamqp and sqlalchemy by killing the worker; the others need services that were not at hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import kombu
import msgspec
from kombu.transport import TRANSPORT_ALIASES, get_transport_cls

from dray import FOREVER, Url, UrlError

#: Without its types, of which it has but a few.
_kombu: Any = kombu
#: What our schemes begin with; the rest is kombu's.
PREFIX = "kombu+"


class KombuOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of our own. `transport.NAME=VALUE` is an option of kombu's transport, `url.NAME=VALUE` of its URL."""

    #: Seconds in which connecting to one host must succeed, where the transport can be told.
    connect_timeout: float = 5.0
    #: Seconds in which a request must be answered, where the transport can be told.
    timeout: float = 20.0
    #: Seconds between heartbeats, where the transport has them; the other side is taken for dead after two. 0: none.
    heartbeat: float = 30.0
    #: Longest time in which an idle worker misses a message of another process (seconds). None: as the transport suits.
    poll: float | None = None
    #: What all queue names begin with on the other side.
    prefix: str = ""
    #: Seconds after which a message that is held comes out again, finished or not, where the transport has such a time.
    #: None: kombu's own. Every process must have the same.
    visibility_timeout: float | None = None


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to know about one of kombu's transports beforehand. The defaults promise nothing."""

    #: The extra of kombu that brings its driver.
    extra: str = ""
    #: Other processes see the same queues.
    shared: bool = True
    #: What is published survives the death of every process.
    durable: bool = True
    #: What a worker held when it was killed comes out again. False: it is gone.
    redelivers: bool = False
    #: The server itself takes back what a connection held when that ends.
    held_by_server: bool = False
    #: The server (RabbitMQ) writes down late that it made a queue: see `kombu_link.Link._seal`.
    sealed: bool = False
    #: Comes out in the order published.
    fifo: bool = False
    #: Seconds after which a message that is held comes out again; None when there is no such time.
    visibility: float | None = None
    #: Largest body it takes, beside kombu's own wrapping of it (bytes).
    max_bytes: int | None = None
    #: Seconds between two looks of an idle worker.
    poll: float = 1.0
    #: A queue receives only through an exchange bound to it.
    bound: bool = False
    #: Queue names become names of files.
    files: bool = False
    #: Transport options that suit us better than kombu's defaults.
    options: dict[str, Any] = {}


#: Looks must be short, because acks wait for them: no long polling.
_SHORT = {"wait_time_seconds": 1}
# Priorities are not used, and each step would cost a command in every look.
_REDIS = Traits(
    extra="redis",
    redelivers=True,
    fifo=True,
    visibility=3600.0,
    poll=0.1,
    options={"priority_steps": [0], "retry_on_timeout": False},
)
_AMQP = Traits(
    redelivers=True,
    held_by_server=True,
    sealed=True,
    fifo=True,
    poll=0.1,
    options={"confirm_publish": True},
)
_SQL = Traits(extra="sqlalchemy", fifo=True, poll=0.1)
_SQS = Traits(extra="sqs", redelivers=True, visibility=1800.0, max_bytes=580_000, options={"wait_time_seconds": 0})
_SLMQ = Traits(extra="slmq", redelivers=True, visibility=1800.0, max_bytes=45_000)
# Committing an offset acks all that was read before it, so that a killed worker loses what it was still busy with.
_KAFKA = Traits(extra="confluentkafka", max_bytes=740_000, options=_SHORT)

TRAITS = {
    "memory": Traits(shared=False, durable=False, fifo=True, poll=0.05),
    "filesystem": Traits(files=True, poll=0.05),
    "redis": _REDIS,
    "rediss": _REDIS,
    "sentinel": _REDIS,
    "amqp": _AMQP,
    "amqps": _AMQP,
    "pyamqp": _AMQP,
    "librabbitmq": msgspec.structs.replace(_AMQP, extra="librabbitmq", durable=False, options={}),
    "sqla": _SQL,
    "sqlalchemy": _SQL,
    "mongodb": Traits(extra="mongodb", max_bytes=11_000_000),
    "sqs": _SQS,
    "slmq": _SLMQ,
    "azureservicebus": Traits(
        extra="azureservicebus", redelivers=True, visibility=60.0, max_bytes=180_000, options=_SHORT
    ),
    "azurestoragequeues": Traits(extra="azurestoragequeues", max_bytes=47_000),
    "gcpubsub": Traits(extra="gcpubsub", redelivers=True, max_bytes=7_000_000, bound=True, options=_SHORT),
    "kafka": _KAFKA,
    "confluentkafka": _KAFKA,
    "zookeeper": Traits(extra="zookeeper", max_bytes=740_000),
    "consul": Traits(extra="consul", max_bytes=370_000),
    "etcd": Traits(extra="etcd"),
    "pgmq": Traits(extra="pgmq", redelivers=True, visibility=1800.0),
    "pyro": Traits(extra="pyro", durable=False),
    "qpid": Traits(extra="qpid", redelivers=True, held_by_server=True, fifo=True),
}
#: For a transport that is newer than this file.
UNKNOWN = Traits(durable=False)


class Place:
    """Where a `kombu+...` URL leads. Raises `UrlError` for what cannot be read."""

    def __init__(self, url: Url) -> None:
        self.url = url
        self.transport = url.scheme.removeprefix(PREFIX).partition("+")[0]
        self.traits = TRAITS.get(self.transport, UNKNOWN)
        if self.transport not in TRANSPORT_ALIASES:
            raise UrlError(
                f"{url}: kombu has no transport {self.transport!r}; it has {', '.join(sorted(TRANSPORT_ALIASES))}"
            )
        own, transport, query = _sorted_out(url.options)
        try:
            self.options = msgspec.structs.replace(url, options=own).options_as(KombuOptions)
        except UrlError as error:
            raise UrlError(
                f"{error} Options of kombu's transport are written transport.NAME=..., those of its URL url.NAME=..."
            ) from None
        self.poll = self.traits.poll if self.options.poll is None else self.options.poll
        #: Longest time one message can be held (seconds).
        self.held_at_most = self.options.visibility_timeout or self.traits.visibility or FOREVER
        if self.traits.visibility is None and self.options.visibility_timeout is not None:
            raise UrlError(f"{url}: {self.transport} has no visibility_timeout; leave it out")
        #: The folder in which the files of kombu's filesystem transport are.
        self.folder = _folder(url) if self.traits.files else None
        self._transport_options = {**self._timeouts(), **self.traits.options, **self._folders(), **transport}
        if self.transport == "rediss":
            # Where nothing is said, kombu would not look at the server's certificate.
            query = {"ssl_cert_reqs": "required", **query}
        self._url = msgspec.structs.replace(url, scheme=url.scheme.removeprefix(PREFIX), options=query)

    def name_there(self, queue: str) -> str:
        """Return what a queue is called on the other side."""
        name = self.options.prefix + queue
        return quote(name, safe=" !#$&'()+,;=@[]^`{}~") if self.traits.files else name

    def connection(self, outbox: Path | None) -> Any:
        """Return a connection of kombu's, not connected yet; what it writes as files goes to `outbox`.

        Without the transport's driver this fails, or connecting does, in whatever way kombu's module fails.
        """
        options = dict(self._transport_options)
        if outbox is not None:
            options["data_folder_out"] = str(outbox)
        transport: Any = get_transport_cls(self.transport)
        # A cluster is one URL to some drivers; to all others a list of hosts is one URL after the other.
        single = transport.can_parse_url or len(self._url.hosts) < 2
        hosts = [self._url.hosts] if single else [(host,) for host in self._url.hosts]
        urls = [msgspec.structs.replace(self._url, hosts=some).reveal() for some in hosts]
        return _kombu.Connection(
            urls[0],
            alternates=urls if len(urls) > 1 else None,
            connect_timeout=self.options.connect_timeout,
            heartbeat=self.options.heartbeat,
            transport_options=options,
        )

    def _timeouts(self) -> dict[str, Any]:
        """Return how the transports that we know are told to give up waiting."""
        options = self.options
        told: dict[str, Any] = {}
        if self.transport in ("redis", "rediss", "sentinel"):
            told = {"socket_connect_timeout": options.connect_timeout, "socket_timeout": options.timeout}
        elif self.transport in ("amqp", "amqps", "pyamqp"):
            told = {"read_timeout": options.timeout, "write_timeout": options.timeout}
        elif self.traits is _SQL and "+sqlite" in self.url.scheme:
            # How long it waits for others that write; its own 5 s are too few for some workers on a busy machine.
            told = {"connect_args": {"timeout": options.timeout}}
        if options.visibility_timeout is not None:
            told["visibility_timeout"] = options.visibility_timeout
        return told

    def _folders(self) -> dict[str, Any]:
        if self.folder is None:
            return {}
        return {
            "data_folder_in": str(self.folder),
            "data_folder_out": str(self.folder),
            "processed_folder": str(self.folder / "processed"),
            "control_folder": str(self.folder / "control"),
        }


def _folder(url: Url) -> Path:
    if url.hosts or not url.path.strip("/"):
        raise UrlError(f"{url} names no folder; write {url.scheme}:///path/to/folder, with three slashes")
    return Path(url.path)


def _sorted_out(options: Any) -> tuple[dict[str, str], dict[str, Any], dict[str, str]]:
    """Return the options that are ours, those of the transport, and those of kombu's URL."""
    own: dict[str, str] = {}
    transport: dict[str, Any] = {}
    query: dict[str, str] = {}
    for name, value in options.items():
        whose, dot, rest = name.partition(".")
        if dot and whose == "transport":
            transport[rest] = _value(value)
        elif dot and whose == "url":
            query[rest] = value
        else:
            own[name] = value
    return own, transport, query


def _value(text: str) -> Any:
    """Return what `text` means as JSON, else the text itself: numbers and lists have to arrive as such."""
    try:
        return json.loads(text)
    except ValueError:
        return text
