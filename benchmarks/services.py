"""The servers of one run: started when something is measured on them, emptied after each trial, ended with the run.

They are started as for the tests (`tests/servers`): programs of this machine or containers, on free ports of loopback,
with data in a folder of their own. A server that somebody else runs is never used: it would be emptied.
"""

from __future__ import annotations

import contextlib
import json
import sys
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, ClassVar

_ROOT = str(Path(__file__).parents[1])


class Service(ABC):
    """A kind of server. Every method but `start` may ask a running one, by its URL."""

    #: Where to find what starts it.
    module: ClassVar[str]
    kind: ClassVar[str]

    def start(self) -> Any:
        """Start one; whatever the error, it says why there is none."""
        if _ROOT not in sys.path:
            sys.path.append(_ROOT)
        choosing, module = import_module("tests.servers.choosing"), import_module(f"tests.servers.{self.module}")
        kind = getattr(module, self.kind)
        return kind(choosing.choose(kind.service, own=True))

    @abstractmethod
    def version(self, url: str) -> str:
        """Return what is running there, with its version."""

    @abstractmethod
    def wipe(self, url: str) -> None:
        """Delete everything."""

    def weigh(self, url: str) -> float:
        """Return how many bytes everything takes that is kept there."""
        raise NotImplementedError


class RedisService(Service):
    module, kind = "redis", "RedisServer"

    def version(self, url: str) -> str:
        with self._client(url) as client:
            return f"Redis {client.info('server')['redis_version']}"

    def wipe(self, url: str) -> None:
        with self._client(url) as client:
            client.flushall()

    def weigh(self, url: str) -> float:
        with self._client(url) as client:
            return float(client.info("memory")["used_memory"])

    def _client(self, url: str) -> Any:
        from redis import Redis

        return Redis.from_url(url)


class RabbitService(Service):
    module, kind = "rabbitmq", "RabbitMqServer"

    def start(self) -> Any:
        self._server = super().start()
        return self._server

    def version(self, url: str) -> str:
        return f"RabbitMQ {self._asked('GET', '/api/overview')['rabbitmq_version']}"

    def wipe(self, url: str) -> None:
        for queue in self._asked("GET", "/api/queues/%2F"):
            # One that was deleted a moment ago may be listed still.
            with contextlib.suppress(OSError):
                self._asked("DELETE", f"/api/queues/%2F/{queue['name']}")

    def weigh(self, url: str) -> float:
        return sum(_size(file) for file in (self._server.folder / "mnesia").rglob("*"))

    def _asked(self, verb: str, path: str) -> Any:
        from base64 import b64encode
        from urllib.parse import urlsplit

        parts = urlsplit(self._server.management_url + path)
        request = urllib.request.Request(f"http://{parts.hostname}:{parts.port}{parts.path}", method=verb)
        request.add_header(
            "Authorization", "Basic " + b64encode(f"{parts.username}:{parts.password}".encode()).decode()
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")


class PostgresService(Service):
    module, kind = "postgres", "PostgresServer"

    def version(self, url: str) -> str:
        (found,) = self._row(url, "SHOW server_version")
        return f"PostgreSQL {found.split()[0]}"

    def wipe(self, url: str) -> None:
        self._row(url, "DROP SCHEMA IF EXISTS dray CASCADE")

    def weigh(self, url: str) -> float:
        (found,) = self._row(
            url,
            "SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class "
            "WHERE relkind = 'r' AND relnamespace = to_regnamespace('dray')",
        )
        return float(found)

    def _row(self, url: str, statement: str) -> tuple[Any, ...]:
        import psycopg

        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchone() or () if cursor.description else ()


class SqsService(Service):
    module, kind = "sqs", "MiniStackServer"

    def version(self, url: str) -> str:
        return f"MiniStack {metadata.version('ministack')} for SQS"

    def wipe(self, url: str) -> None:
        from limits.sqs import client

        sqs = client(url)
        for queue in sqs.list_queues().get("QueueUrls", ()):
            sqs.delete_queue(QueueUrl=queue)
        sqs.close()


def _size(file: Path) -> int:
    """Return the bytes of a file, which may be gone by now."""
    with contextlib.suppress(OSError):
        return file.stat().st_size if file.is_file() else 0
    return 0


SERVICES: Mapping[str, Service] = {
    "redis": RedisService(),
    "rabbitmq": RabbitService(),
    "postgresql": PostgresService(),
    "sqs": SqsService(),
}


class Servers:
    """What runs, and why the others do not."""

    def __init__(self, say: Callable[[str], None] = lambda text: None) -> None:
        self.urls: dict[str, str] = {}
        self.versions: list[str] = []
        #: Why there is none, by name.
        self.missing: dict[str, str] = {}
        self._say = say
        self._running: list[Any] = []

    def start(self, names: Iterable[str]) -> None:
        """Start what does not run yet."""
        for name in names:
            if name in self.urls or name in self.missing:
                continue
            self._say(f"starting {name}")
            try:
                server = SERVICES[name].start()
                self._running.append(server)
                self.versions.append(SERVICES[name].version(server.url))
                self.urls[name] = server.url
            except Exception as error:
                # No program and no container, no driver for Python, or it did not come up.
                self.missing[name] = " ".join(str(error).split())[:200] or type(error).__name__

    def close(self) -> None:
        """End them all."""
        for server in self._running:
            server.close()
        if self._running:
            import_module("tests.servers.process").end_everything()

    def wipe(self, names: Iterable[str]) -> None:
        """Delete everything on these."""
        for name in names:
            SERVICES[name].wipe(self.urls[name])


@contextlib.contextmanager
def running(say: Callable[[str], None]) -> Iterator[Servers]:
    """Give servers, and end them."""
    servers = Servers(say)
    try:
        yield servers
    finally:
        servers.close()
