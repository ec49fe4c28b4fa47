"""The cache+memcached:// result backend: records in the memory of one or several memcached servers.

A cache: records go when a server restarts, and may go before their time when it needs the room (`dray doctor` looks).
The rule of the first final writer is kept by compare-and-set, so it holds between processes. The server drops expired
records by itself, to the second; this side goes by the exact time. No record is larger than memcached's item size
(1 MB, option `-I`), key and wrapping included.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from math import ceil
from typing import Any

import msgspec
from pymemcache.client.base import PooledClient
from pymemcache.exceptions import (
    MemcacheClientError,
    MemcacheError,
    MemcacheServerError,
)

from dray import BackendError, BackendUnavailable, Record, ResultBackend, Url, UrlError, mask

from .stored_record import Stored, merged, name_of, read, write

PORT = 11211
#: Longest time to live that memcached takes as a duration (seconds); beyond it, it must be an instant.
LONGEST_TTL = 30 * 86_400
#: Most keys asked for in one request.
CHUNK = 500
#: What servers say that will pass; all else that they say will not.
PASSING = ("out of memory", "temporary failure", "busy")


class MemcachedOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the URL."""

    #: What all keys begin with.
    prefix: str = "dray:"
    #: Seconds in which a server must be reached, and in which it must answer.
    connect_timeout: float = 5.0
    timeout: float = 5.0


class MemcachedBackend(ResultBackend):
    """`cache+memcached://h1,h2:11212`: each id belongs to one of the hosts. Options: `MemcachedOptions`.

    All processes must name the same hosts, in any order. A host that is away is not replaced by another one, as that
    would have two results of one id; its ids are `BackendUnavailable`.
    """

    durable = False

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        self._options = url.options_as(MemcachedOptions)
        if url.path.strip("/"):
            raise UrlError(f"{url}: memcached has no databases; to share a server, set prefix= instead of a path")
        if url.username is not None or url.password is not None:
            raise UrlError(f"{url}: passwords of memcached are not supported; keep it on a network of your own")
        if not re.fullmatch(r"[!-~]{0,100}", self._options.prefix):
            raise UrlError(f"{url}: a prefix is up to 100 printable ASCII characters, none of them a space")
        hosts = url.hosts or (("127.0.0.1", None),)
        self._addresses = [(host, port or PORT) for host, port in hosts]
        self._clients: list[Any] = []

    # Life

    def open(self) -> None:
        if not self._clients:
            self._clients = [
                PooledClient(
                    address,
                    connect_timeout=self._options.connect_timeout,
                    timeout=self._options.timeout,
                    no_delay=True,
                )
                for address in self._addresses
            ]
        for client in self._clients:
            with self._translated("reached"):
                client.version()

    def close(self) -> None:
        clients, self._clients = self._clients, []
        for client in clients:
            client.close()

    # Records

    def store(self, records: Sequence[Record], ttl: float | None) -> None:
        now = self.clock.time()
        expires = None if ttl is None else now + ttl
        for client, some in self._by_server({self._key(one.id): one for one in merged(records)}).items():
            for start in range(0, len(some), CHUNK):
                chunk = some[start : start + CHUNK]
                with self._translated("stored"):
                    found = self._clients[client].gets_many([key for key, _ in chunk])
                for key, record in chunk:
                    self._store_one(self._clients[client], key, record, expires, found.get(key))

    def _store_one(
        self, client: Any, key: str, record: Record, expires: float | None, found: tuple[bytes, bytes] | None
    ) -> None:
        """Store a record where `found` (value, version) was read, again and again while others write there too."""
        while True:
            now = self.clock.time()
            kept = read(found[0], record.id) if found is not None else None
            if kept is not None and kept.stays(record, now):
                return
            data = write(Stored.of(record, expires))
            with self._translated(f"stored for {record.id} ({len(data):,} bytes)"):
                if found is None:
                    done = client.add(key, data, expire=_lifetime(expires, now), noreply=False)
                else:
                    done = client.cas(key, data, found[1], expire=_lifetime(expires, now), noreply=False)
                if done:
                    return
                value, version = client.gets(key)
            found = None if value is None else (value, version)

    def fetch(self, ids: Sequence[str]) -> Mapping[str, Record]:
        found: dict[str, Record] = {}
        for client, some in self._by_server({self._key(id): id for id in ids}).items():
            keys = dict(some)
            for start in range(0, len(some), CHUNK):
                with self._translated("fetched"):
                    values = self._clients[client].get_many([key for key, _ in some[start : start + CHUNK]])
                for key, value in values.items():
                    kept = read(value, keys[key])
                    if kept is not None and not kept.is_over(self.clock.time()):
                        found[kept.id] = kept.record
        return {id: found[id] for id in ids if id in found}

    def forget(self, ids: Sequence[str]) -> None:
        for client, some in self._by_server({self._key(id): id for id in ids}).items():
            with self._translated("forgotten"):
                self._clients[client].delete_many([key for key, _ in some], noreply=False)

    def advice(self) -> Sequence[str]:
        said = []
        for client, (host, port) in zip(self._clients, self._addresses, strict=True):
            with self._translated("looked at"):
                stats = client.stats()
            evicted = int(stats.get(b"evictions", 0))
            if evicted:
                said.append(
                    f"memcached at {host}:{port} has dropped {evicted:,} item(s) before their time because its memory "
                    "was full: results may be missing. Give it more memory (-m), or set a shorter result_expires."
                )
        return said

    # Inside

    def _key(self, id: str) -> str:
        return self._options.prefix + name_of(id)

    def _by_server(self, values: Mapping[str, Any]) -> Mapping[int, list[tuple[str, Any]]]:
        """Return keys and values by the number of the server that each key belongs to."""
        if not self._clients and values:
            raise BackendUnavailable(f"{self.url} is closed")
        sorted_out: defaultdict[int, list[tuple[str, Any]]] = defaultdict(list)
        for key, value in values.items():
            # The highest draw wins: with a host more or less, only the ids of that host move.
            number = max(range(len(self._addresses)), key=lambda n: _draw(self._addresses[n], key))
            sorted_out[number].append((key, value))
        return sorted_out

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (MemcacheError, OSError) as error:
            said = mask(error.args[0].decode(errors="replace") if _is_bytes(error) else str(error) or repr(error))
            if "too large" in said:
                raise BackendError(
                    f"{self.url}: cannot be {doing}: memcached takes no items above its item size (1 MB unless it was "
                    "started with -I). Return a reference (a path, a key) instead of the data"
                ) from error
            refused = isinstance(error, MemcacheClientError) or (
                type(error) is MemcacheServerError and not any(word in said for word in PASSING)
            )
            kind = BackendError if refused else BackendUnavailable
            raise kind(f"{self.url} cannot be {doing}: {type(error).__name__}: {said}") from error


def _is_bytes(error: Exception) -> bool:
    return bool(error.args) and isinstance(error.args[0], bytes)


def _draw(address: tuple[str, int], key: str) -> bytes:
    return blake2b(f"{address[0]}:{address[1]}|{key}".encode(), digest_size=8).digest()


def _lifetime(expires: float | None, now: float) -> int:
    """Return when memcached may drop a record, in its own words: never before its time, a second or two after it."""
    if expires is None:
        return 0
    # memcached's clock ticks once a second, so that a second may be over as soon as it has begun.
    seconds = max(ceil(expires - now), 0) + 1
    return seconds if seconds <= LONGEST_TTL else ceil(expires) + 1
