"""Places on a Redis for one test each: a prefix that nobody else uses, below the one that narrow rights allow."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from dray import Envelope, Url
from dray_backends.redis import RedisBackend
from dray_backends.redis_store import RedisStore
from dray_brokers.redis import RedisBroker
from tests.servers.redis import RedisTlsServer
from tests.servers.server import Server

#: A loan or time to live that no test outlives (seconds).
LONG = 300.0


def url_of(server: Server | str, **options: object) -> Url:
    """Return the URL of a place of one's own on a server, with these options."""
    text = server if isinstance(server, str) else server.url
    options.setdefault("prefix", f"{RedisTlsServer.prefix}:{secrets.token_hex(6)}")
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return Url.parse(f"{text}{'&' if '?' in text else '?'}{query}")


@contextmanager
def open_broker(server: Server | str, **options: object) -> Iterator[RedisBroker]:
    with closing(RedisBroker(url_of(server, **options))) as broker:
        broker.open()
        yield broker


@contextmanager
def open_backend(server: Server | str, **options: object) -> Iterator[RedisBackend]:
    with closing(RedisBackend(url_of(server, **options))) as backend:
        backend.open()
        yield backend


@contextmanager
def open_store(server: Server | str, **options: object) -> Iterator[RedisStore]:
    with closing(RedisStore(url_of(server, **options))) as store:
        store.open()
        yield store


def envelope(id: str, queue: str = "q", **fields: Any) -> Envelope:
    return Envelope(id=id, queue=queue, body=fields.pop("body", b"body"), **fields)


def ids(found: Any) -> list[str]:
    return [each.id for each in found]
