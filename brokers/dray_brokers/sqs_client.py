"""The connection to SQS: its options, the driver's clients, and requests made side by side.

There are two clients, because they wait differently: one for questions that are answered at once, and one, made when
a worker first needs it, for long polls. Both are made under a lock, are safe in any thread, and belong to one process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any, Literal, TypeVar

import boto3
import botocore.session
import msgspec
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import Loader, create_loader

from dray import BrokerError, Url, UrlError, __version__

from .sqs_errors import translated
from .sqs_wire import MOST_BYTES, MOST_RETENTION, MOST_WAIT

T = TypeVar("T")

#: Seconds to wait for an answer that should come at once, and what a long poll may take beyond its time.
ANSWER, BEYOND = 10.0, 5.0
#: Connections kept for the next request. An upper bound only: none is opened before it is needed.
KEPT = 128
#: What SQS is told who asks.
USER_AGENT = f"dray/{__version__} boto3/{boto3.__version__}"


class SqsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL `sqs://[key:secret@]?option=value&...` may say. Without a key boto3 looks for credentials as usual."""

    #: Region, such as eu-west-1; else what boto3 finds (AWS_REGION, the profile).
    region: str = ""
    #: Where SQS is, if it is not Amazon's: http://127.0.0.1:4566
    endpoint: str = ""
    #: A profile of ~/.aws/config.
    profile: str = ""
    #: The token that belongs to temporary keys in the URL.
    session_token: str = ""
    #: Put before the name of every queue: letters, digits, - and _.
    prefix: str = ""
    #: Predefined queues, `name:url,name:url`: only these are used, and none is looked up, listed or created.
    queues: str = ""
    #: Account number (12 digits) that owns the queues: their URLs are put together instead of looked up.
    account: str = ""
    #: "no": queues that are missing are an error, instead of being created.
    create: Literal["yes", "no"] = "yes"
    #: Longest time that a poll waits at an empty queue (seconds, 1 to 20). A shorter one costs more: 60 / wait requests
    #: a minute for each queue. A longer one is left behind for longer by a worker that stops: what it still brings to
    #: nobody comes out again when that loan ends.
    wait: int = MOST_WAIT
    #: Seconds that a queue we create keeps a message (60 to 1209600, which is 14 days).
    retention: int = MOST_RETENTION
    #: "yes": FIFO queues, whose names end with .fifo. Messages with the same key come one at a time, in order.
    fifo: Literal["yes", "no"] = "no"
    #: "no": keys are not passed on to standard queues, which let messages with different keys take turns.
    fair: Literal["yes", "no"] = "yes"
    #: Largest message (bytes, 4096 to 1048576), where a queue or server takes less than SQS does today.
    max_bytes: int = MOST_BYTES
    #: Requests that one call may make side by side.
    connections: int = 8
    #: Long polls of one worker at one queue at the same time, while the queue is busy.
    receivers: int = 4
    #: Seconds after which an unreachable host is given up.
    connect_timeout: float = 5.0

    @classmethod
    def of(cls, url: Url) -> SqsOptions:
        """Return the options of a URL, or raise `UrlError`."""
        if url.hosts or url.path.strip("/"):
            raise UrlError(f"{url}: sqs:// takes no host; write sqs://?region=eu-west-1, or the server with endpoint=")
        if (url.username is None) != (url.password is None):
            raise UrlError(f"{url}: a key needs its secret: sqs://key:secret@?region=...")
        options = url.options_as(cls)
        limits = {
            "wait": (1, MOST_WAIT),
            "retention": (60, MOST_RETENTION),
            "max_bytes": (1024 * 4, MOST_BYTES),
            "connections": (1, 64),
            "receivers": (1, 64),
            "connect_timeout": (0.1, 60),
        }
        for name, (least, most) in limits.items():
            if not least <= getattr(options, name) <= most:
                raise UrlError(f"{url}: {name} is a number from {least} to {most}")
        if not all(sign.isascii() and (sign.isalnum() or sign in "-_") for sign in options.prefix):
            raise UrlError(f"{url}: prefix takes letters, digits, - and _")
        if options.account and not (options.account.isdigit() and len(options.account) == 12):
            raise UrlError(f"{url}: account is a number of 12 digits")
        return options


class SqsClient:
    """Asks SQS. Thread-safe; of one process."""

    def __init__(self, url: Url, options: SqsOptions) -> None:
        self.url = url
        self._options = options
        self._lock = threading.Lock()
        self._session: boto3.session.Session | None = None
        self._asking: Any = None
        self._polling: Any = None
        self._pool: ThreadPoolExecutor | None = None

    @property
    def is_open(self) -> bool:
        """Whether `open` was called, and `close` not since."""
        return self._pool is not None

    @property
    def region(self) -> str:
        """The region that is asked."""
        return str(self._client().meta.region_name)

    @property
    def endpoint(self) -> str:
        """Where the requests go."""
        return str(self._client().meta.endpoint_url)

    def open(self) -> None:
        """Make what requests need. Safe twice. Asks nobody."""
        self._client()
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._options.connections, thread_name_prefix="dray-sqs")

    def close(self) -> None:
        """Let go of the connections. Polls under way end by themselves, and may still give back what they bring."""
        with self._lock:
            pool, self._pool = self._pool, None
            clients = [client for client in (self._asking, self._polling) if client is not None]
        if pool is not None:
            pool.shutdown(wait=False)
        for client in clients:
            client.close()

    def ask(self, verb: str, queue: str = "", **parameters: Any) -> dict[str, Any]:
        """Make one request (`verb` as the driver calls it, `queue` for error messages) and return the answer."""
        return self._ask(self._client(), verb, queue, parameters)

    def poll(self, queue: str, **parameters: Any) -> dict[str, Any]:
        """Make a ReceiveMessage that may take its time."""
        return self._ask(self._poller(), "receive_message", queue, parameters)

    def side_by_side(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """Do jobs in threads and return what they returned, in order; raise the first error when all have ended."""
        pool = self._pool
        if pool is None or len(jobs) < 2:
            return [job() for job in jobs]
        futures = [pool.submit(job) for job in jobs]
        wait(futures)
        return [future.result() for future in futures]

    def _ask(self, client: Any, verb: str, queue: str, parameters: dict[str, Any]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(client, verb)(**parameters)
        except (BotoCoreError, ClientError) as error:
            action = "".join(word.title() for word in verb.split("_"))
            raise translated(error, self.url, action, queue) from error
        return answer

    def _client(self) -> Any:
        if self._asking is None:
            with self._lock:
                if self._asking is None:
                    # One more try, for a kept connection may be closed by the other side just when it is used.
                    self._asking = self._made(ANSWER, attempts=2)
        return self._asking

    def _poller(self) -> Any:
        if self._polling is None:
            with self._lock:
                if self._polling is None:
                    # Not tried again: the first try may have been lent messages, and who polls comes back anyway.
                    self._polling = self._made(self._options.wait + BEYOND, attempts=1)
        return self._polling

    def _made(self, answer: float, attempts: int) -> Any:
        """Make a client. The session that makes them is not thread-safe; hence the caller's lock."""
        options, url = self._options, self.url
        try:
            if self._session is None:
                driver = botocore.session.get_session()
                driver.register_component("data_loader", _models(driver.get_config_variable("data_path")))
                self._session = boto3.session.Session(
                    botocore_session=driver,
                    aws_access_key_id=url.username,
                    aws_secret_access_key=url.password,
                    aws_session_token=options.session_token or None,
                    region_name=options.region or None,
                    profile_name=options.profile or None,
                )
            region = self._session.region_name or ("us-east-1" if options.endpoint else None)
            if region is None:
                raise BrokerError(f"{url}: no region; write sqs://?region=eu-west-1, or set AWS_REGION")
            config = Config(
                region_name=region,
                connect_timeout=options.connect_timeout / attempts,
                read_timeout=answer,
                retries={"mode": "standard", "total_max_attempts": attempts},
                max_pool_connections=KEPT,
                tcp_keepalive=True,
                # The driver's own is put together anew, twice, for every request, which is a tenth of its cost.
                user_agent=USER_AGENT,
                # What we send is well-formed, and the check would cost a fifth of every request.
                parameter_validation=False,
            )
            return self._session.client("sqs", config=config, endpoint_url=options.endpoint or None)
        except (BotoCoreError, ValueError) as error:
            # A ValueError is an endpoint that is no URL.
            if isinstance(error, BotoCoreError):
                raise translated(error, url, "connect", "") from error
            raise BrokerError(f"{url}: {error}") from error


@cache
def _models(path: str | None) -> Loader:
    """Return what reads the driver's descriptions of the service, which is most of what making a client costs."""
    return create_loader(path)
