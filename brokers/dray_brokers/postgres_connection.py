"""One PostgreSQL schema, safely used by many threads: connections, statements, errors, notifications.

Used by the PostgreSQL broker and, from the other package, by the PostgreSQL result backend
(docs/decisions/0009-one-connection-file-per-server.md).
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal
from urllib.parse import unquote

import msgspec
import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from dray import DrayError, Url, UrlError

from . import postgres_errors
from .postgres_listener import Listener
from .postgres_schema import Part, filled, found, quoted, upgrade

#: Times a statement is tried that the server rolled back to let another one through.
TRIES = 5
#: Longest schema name in bytes: notification channels are named after it, and PostgreSQL's names have 63.
LONGEST_SCHEMA = 48
#: What it may be made of: it is written in quotes, of both kinds.
SCHEMA = re.compile(r"""[^'"\\\x00-\x1f\x7f]+""")
#: The oldest server these statements are written for.
OLDEST_SERVER = 120000
#: Said before a statement that reads the head of a line, in its transaction. The planner goes by statistics that are a
#: minute old, or of the time when the table was empty, and would gladly sort a line that it believes to be short.
BY_INDEX = "SELECT set_config('enable_bitmapscan', 'off', true), set_config('enable_seqscan', 'off', true)"
#: A server that is silently gone is noticed after this many seconds.
SILENCE = 30

Switch = Literal["yes", "no"]
Rows = list[tuple[Any, ...]]


class PostgresOptions(msgspec.Struct, frozen=True):
    """What may follow the `?` of a postgresql:// URL."""

    #: The schema with dray's tables; several in one database do not know of each other.
    schema: str = "dray"
    #: "no": the tables are there already (`dray setup`), and this role need not be able to create any.
    create: Switch = "yes"
    #: Most connections of one process for statements. One more hears notifications.
    pool: Annotated[int, msgspec.Meta(ge=1)] = 5
    #: Seconds after which connecting to one host is given up, at least 2; also to wait for a free one of the pool.
    connect_timeout: Annotated[int, msgspec.Meta(ge=1)] = 5
    #: "no": do not LISTEN, look again and again instead. For poolers that give each transaction another connection.
    listen: Switch = "yes"
    #: "no": do not NOTIFY. PostgreSQL lets transactions that do so commit one after the other, whole database over.
    notify: Switch = "yes"
    #: "no": prepare no statements. For poolers (pgbouncer before 1.21) that do not know of them.
    prepare: Switch = "yes"
    #: What the server shows these connections as.
    application_name: str = "dray"
    #: Folder of the server's Unix socket.
    host: str | None = None
    #: libpq's own, under its names; what is not given comes from the environment (`PGPASSFILE`, `PGSSLMODE` ...).
    passfile: str | None = None
    service: str | None = None
    sslmode: str | None = None
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None
    sslcrl: str | None = None
    channel_binding: str | None = None
    #: "read-write" finds the primary among several hosts.
    target_session_attrs: str | None = None


#: Options that are handed to libpq as they are.
LIBPQ = (
    *("application_name", "connect_timeout", "host", "passfile", "service", "sslmode", "sslrootcert", "sslcert"),
    *("sslkey", "sslcrl", "channel_binding", "target_session_attrs"),
)


class PostgresServer:
    """The connections of this process to one schema. Every method may be called from any thread.

    A connection belongs to one call at a time and is kept for the next one. Those made before a fork are never used,
    nor closed, in the child. Statements are single and commit at once: nothing is held between two calls.
    """

    def __init__(self, url: Url, *, refused: type[DrayError], unavailable: type[DrayError]) -> None:
        self.url = url
        self.options = url.options_as(PostgresOptions)
        if not SCHEMA.fullmatch(self.options.schema) or len(self.options.schema.encode()) > LONGEST_SCHEMA:
            raise UrlError(
                f"{url}: schema is a name of 1 to {LONGEST_SCHEMA} bytes without quotes, backslashes or control "
                f"characters; got {self.options.schema!r}"
            )
        if url.hosts and self.options.host:
            raise UrlError(f"{url} names its host twice: before the path, and as ?host=")
        self.refused, self.unavailable = refused, unavailable
        self._schema = quoted(self.options.schema)
        self._texts: dict[str, str] = {}
        self._pool: _Pool | None = None

    def open(self, part: Part) -> str:
        """Connect anew, make or upgrade the tables of `part` where that is needed, and return the schema's own name.

        Whatever the error, everything is then closed.
        """
        self.close()
        self._pool = _Pool(self.options.pool)
        try:
            with self._in_words(), self._lent() as connection:
                place = self._checked(connection, part)
                if place is None:
                    upgrade(connection, self._schema, part)
                    place = self._checked(connection, part) or ""
                return place
        except DrayError:
            self.close()
            raise

    def setup(self, part: Part) -> list[str]:
        """Make or upgrade the tables of `part`, also when the URL says `create=no`; return what was done."""
        with self._in_words(), self.connect() as connection:
            self._refuse_newer(part, found(connection, self._schema, part).version)
            return upgrade(connection, self._schema, part)

    def close(self) -> None:
        """Close every connection, those in use as soon as their call ends. Safe twice."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    @property
    def is_open(self) -> bool:
        """Whether `open` has been called, and `close` has not."""
        return self._pool is not None

    def rows(self, sql: str, parameters: Mapping[str, object], *, by_index: bool = False) -> Rows:
        """Run one statement, in which {schema} stands for the schema, and return what it returns.

        `by_index`: it reads the head of a long line, and must not sort the whole line to find it.
        """
        text = self.text(sql)
        with self._in_words():
            for _ in range(TRIES - 1):
                try:
                    return self._rows(text, parameters, by_index)
                except postgres_errors.ROLLED_BACK:
                    # Two statements waited for each other, or met on one row; the server undid ours whole.
                    continue
            return self._rows(text, parameters, by_index)

    def rows_within(self, connection: psycopg.Connection[Any], sql: str, parameters: Mapping[str, object]) -> Rows:
        """Run one statement in the transaction of the caller's `connection`."""
        # A cursor of our own: the caller's connection may make cursors and rows of other kinds.
        with self._in_words(), psycopg.Cursor(connection, row_factory=tuple_row) as cursor:
            return cursor.execute(self.text(sql), parameters, binary=True).fetchall()

    def text(self, sql: str) -> str:
        """Return a statement with the schema put in."""
        text = self._texts.get(sql)
        if text is None:
            text = self._texts[sql] = filled(sql, self._schema)
        return text

    def listener(self, channel: str, subjects: Callable[[str], Iterable[str]]) -> Listener:
        """Return what hears `channel`; `subjects` reads from a notification what it is about.

        Made once per channel, and ended by `close`.
        """
        return self._own_pool().listener(self.channel(channel), lambda: self._listener(channel, subjects))

    def channel(self, name: str) -> str:
        """Return the name of a notification channel of this schema."""
        return f"{self.options.schema}.{name}"

    def connect(self) -> psycopg.Connection[Any]:
        """Open one connection; raises psycopg's errors."""
        options = msgspec.structs.asdict(self.options)
        given = {name: options[name] for name in LIBPQ if options[name] is not None}
        if self.url.hosts:
            given["host"] = ",".join(unquote(host) for host, _ in self.url.hosts)
            if any(port for _, port in self.url.hosts):
                given["port"] = ",".join(str(port or 5432) for _, port in self.url.hosts)
        credentials = {"user": self.url.username, "password": self.url.password, "dbname": self.url.path.strip("/")}
        given |= {name: value for name, value in credentials.items() if value}
        return psycopg.connect(
            **given,
            autocommit=True,
            prepare_threshold=5 if self.options.prepare == "yes" else None,
            client_encoding="utf8",
            keepalives_idle=SILENCE // 2,
            keepalives_interval=SILENCE // 6,
            keepalives_count=3,
            tcp_user_timeout=SILENCE * 1000,
        )

    def _rows(self, text: str, parameters: Mapping[str, object], by_index: bool) -> Rows:
        with self._lent() as connection:
            if not by_index:
                return connection.execute(text, parameters, binary=True).fetchall()
            # One round trip and one transaction.
            with connection.pipeline():
                connection.execute(BY_INDEX)
                cursor = connection.execute(text, parameters, binary=True)
            return cursor.fetchall()

    def _listener(self, channel: str, subjects: Callable[[str], Iterable[str]]) -> Listener:
        connect = self.connect if self.options.listen == "yes" else None
        return Listener(connect, self.channel(channel), subjects)

    def _checked(self, connection: psycopg.Connection[Any], part: Part) -> str | None:
        """Return the schema's own name, or None when the tables of `part` have to be made or upgraded."""
        if connection.info.server_version < OLDEST_SERVER:
            raise self.refused(
                f"{self.url} is PostgreSQL {connection.info.server_version // 10000}; dray needs "
                f"{OLDEST_SERVER // 10000} or newer"
            )
        there = found(connection, self._schema, part)
        self._refuse_newer(part, there.version)
        if there.version == len(part.versions):
            return there.place
        if self.options.create == "no":
            what = "no tables" if there.version == 0 else "older tables"
            raise self.refused(
                f"{self.url} has {what} for dray's {part.name} in schema {self.options.schema!r}, and create=no "
                "forbids to make them: run `dray setup` with a role that may, and without create=no"
            )
        return None

    def _refuse_newer(self, part: Part, version: int) -> None:
        if version > len(part.versions):
            raise self.refused(
                f"{self.url}: schema {self.options.schema!r} was made by a newer dray: its {part.name} tables have "
                f"version {version}, this dray knows up to {len(part.versions)}; upgrade dray, or choose another "
                "?schema="
            )

    def _own_pool(self) -> _Pool:
        pool = self._pool
        if pool is None:
            raise self.unavailable(f"{self.url} is not open; call open() first")
        if pool.pid != os.getpid():
            pool = self._pool = _Pool(self.options.pool)
        return pool

    @contextmanager
    def _lent(self) -> Iterator[psycopg.Connection[Any]]:
        pool = self._own_pool()
        if not pool.turns.acquire(timeout=self.options.connect_timeout):
            raise self.unavailable(
                f"{self.url}: all {self.options.pool} connections of this process were busy for "
                f"{self.options.connect_timeout} s; allow more with ?pool=NUMBER"
            )
        connection = None
        try:
            connection = pool.take() or self.connect()
            yield connection
        finally:
            if connection is not None:
                pool.put_back(connection)
            pool.turns.release()

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            passing, text = postgres_errors.in_words(error)
            raise (self.unavailable if passing else self.refused)(f"{self.url} {text}") from error
        except UnicodeError as error:
            raise self.refused(f"{self.url} takes no text that cannot be written as UTF-8 ({error})") from error


class _Pool:
    """What one process has open and is not using just now."""

    #: The process it was made in. None until all of it is there: an interrupt can come while it is being made.
    pid: int | None = None

    def __init__(self, size: int) -> None:
        self.turns = threading.BoundedSemaphore(size)
        self._lock = threading.Lock()
        self._idle: list[psycopg.Connection[Any]] = []
        self._listeners: dict[str, Listener] = {}
        self._closed = False
        self.pid = os.getpid()

    def take(self) -> psycopg.Connection[Any] | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def put_back(self, connection: psycopg.Connection[Any]) -> None:
        """Keep a connection for the next call, if it is as good as new."""
        if connection.closed:
            # The server has ended it, and so perhaps all others too, as it does when it goes down.
            self._close(self._all_idle())
        elif connection.info.transaction_status != TransactionStatus.IDLE:
            self._close([connection])
        else:
            with self._lock:
                if not self._closed:
                    self._idle.append(connection)
                    return
            self._close([connection])

    def listener(self, channel: str, make: Callable[[], Listener]) -> Listener:
        with self._lock:
            if channel not in self._listeners:
                self._listeners[channel] = make()
            return self._listeners[channel]

    def close(self) -> None:
        with self._lock:
            self._closed = True
            listeners, self._listeners = self._listeners, {}
        for listener in listeners.values():
            listener.close()
        self._close(self._all_idle())

    def _all_idle(self) -> list[psycopg.Connection[Any]]:
        with self._lock:
            idle, self._idle = self._idle, []
        return idle

    def _close(self, connections: Sequence[psycopg.Connection[Any]]) -> None:
        if self.pid != os.getpid():
            _inherited.extend(connections)
            return
        for connection in connections:
            connection.close()

    def __del__(self, getpid: Callable[[], int] = os.getpid) -> None:
        if self.pid not in (None, getpid()):
            _inherited.extend([*self._idle, *self._listeners.values()])


#: What was open before a fork, kept so that garbage collection does not touch it in the child.
_inherited: list[psycopg.Connection[Any] | Listener] = []
