"""The brokers that faults are tried on: how each is started, reached through a proxy, killed, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..servers.postgres import PostgresServer
from ..servers.rabbitmq import RabbitMqServer
from ..servers.redis import RedisServer
from ..servers.server import Server, given_or_started
from ..servers.sqs import MiniStackServer
from .wire import Amqp, Http, Postgres, Resp, Splitter

#: Broker -> its server, and the splitter of its protocol. SQLite has neither: it is a file.
SERVERS: dict[str, tuple[type[Server], Callable[[], Splitter]]] = {
    "redis": (RedisServer, Resp),
    "rabbitmq": (RabbitMqServer, Amqp),
    "postgresql": (PostgresServer, Postgres),
    "sqs": (MiniStackServer, Http),
}
BROKERS = ("sqlite", *SERVERS)
#: Those that can be killed: what they confirmed is on their disk. The SQS that tests have keeps its queues in memory.
DURABLE = ("redis", "rabbitmq", "postgresql")
#: Those that can only put a copy in the place of a message, and then remove it: killed in between, there are two of it.
COPYING = ("rabbitmq", "sqs")
#: How many messages a kill may leave behind twice, in the mean, there.
TWINS = 10
#: Those that lend without being asked in that moment, to whoever has a consumer or a long poll open, dead or alive.
PUSHING = ("rabbitmq", "sqs")


class Place:
    """One broker for a whole test run. Every fault has a queue of its own on it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._server: Any = None
        if name in SERVERS:
            self._server = given_or_started(SERVERS[name][0], durable=True)

    @property
    def server(self) -> Any:
        """The server, which a test may kill and start again."""
        return self._server

    @property
    def splitter(self) -> Callable[[], Splitter]:
        return SERVERS[self.name][1]

    @property
    def twins(self) -> int:
        """How many messages a kill may leave behind twice, in the mean: here they are given back as copies."""
        return TWINS if self.name in COPYING else 0

    @property
    def pushes(self) -> bool:
        """Whether messages may be counted as delivered that nobody has received."""
        return self.name in PUSHING

    def url(self, folder: Path) -> str:
        """Return where messages wait; for SQLite a file in `folder`."""
        return self._server.url if self._server is not None else f"sqlite:///{folder}/queue.db"

    def url_through(self, port: int) -> str:
        """Return the URL of the server as reached through a proxy on `port`."""
        return str(self._server.url.replace(f":{self._server.port}", f":{port}"))

    def restore(self) -> None:
        """Start what a test has left dead."""
        if self._server is not None:
            self._server.start()

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
