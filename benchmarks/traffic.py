"""Counts what goes over the wire: what this process asks of a server, and what the server makes of it."""

from __future__ import annotations

import functools
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary


class Meter(ABC):
    """Counts one kind of traffic, from when it was made or earlier: only differences mean something."""

    #: What is counted.
    name: ClassVar[str]

    def __init__(self, servers: Mapping[str, str]) -> None:
        """Begin to count; `servers` are the URLs of those that run, by name."""

    @abstractmethod
    def read(self) -> float:
        """Return how many there were."""

    def close(self) -> None:
        """Let go of connections."""


class _Tally:
    """Counts in any thread."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self, number: int) -> None:
        with self._lock:
            self.count += number


class DriverMeter(Meter):
    """Counts calls of certain methods of a driver in this process, all its connections together.

    The methods are replaced once, and stay so: both sides of a measure are counted in the same way.
    """

    _tallies: ClassVar[dict[type[DriverMeter], _Tally]] = {}

    def __init__(self, servers: Mapping[str, str]) -> None:
        super().__init__(servers)
        kind = type(self)
        if kind not in self._tallies:
            self._tallies[kind] = _Tally()
            for owner, name, many in self.methods():
                setattr(owner, name, _counted(getattr(owner, name), self._tallies[kind].add, many))

    @abstractmethod
    def methods(self) -> Sequence[tuple[type, str, Callable[..., int]]]:
        """Return what is called for each of what is counted: class, method, and how many these arguments are."""

    def read(self) -> float:
        return self._tallies[type(self)].count


def _counted(method: Callable[..., Any], count: Callable[[int], None], many: Callable[..., int]) -> Callable[..., Any]:
    @functools.wraps(method)
    def counted(*args: Any, **options: Any) -> Any:
        if number := many(*args):
            count(number)
        return method(*args, **options)

    return counted


def _always(*args: Any) -> int:
    return 1


class RedisRequests(DriverMeter):
    """What redis-py writes at once: a command, a script, or a whole pipeline."""

    name = "Redis requests"

    def methods(self) -> Sequence[tuple[type, str, Callable[..., int]]]:
        from redis.connection import AbstractConnection

        return [(AbstractConnection, "send_packed_command", _always)]


class RedisCommands(Meter):
    """What the server executes, in scripts too, whoever asked for it."""

    name = "Redis commands"

    def __init__(self, servers: Mapping[str, str]) -> None:
        super().__init__(servers)
        parts = urlsplit(servers["redis"])
        # Not by the driver, whose requests are counted as well.
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 6379))
        self._asked = 0

    def read(self) -> float:
        self._socket.sendall(b"INFO stats\r\n")
        said = b""
        while not said.endswith(b"\r\n") or b"total_commands_processed" not in said:
            said += self._socket.recv(65536)
        count = int(said.partition(b"total_commands_processed:")[2].split()[0])
        self._asked += 1
        # Each question counts from the next one on.
        return count - (self._asked - 1)

    def close(self) -> None:
        self._socket.close()


class AmqpMethods(DriverMeter):
    """AMQP methods, to the server and from it. One publishes, confirms, delivers or acks; the last three in numbers,
    where one ack stands for many."""

    name = "AMQP methods"

    def methods(self) -> Sequence[tuple[type, str, Callable[..., int]]]:
        from pika.adapters.base_connection import BaseConnection

        begun: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()

        def sent(connection: Any, data: bytes) -> int:
            return _methods(data)[0]

        def received(connection: Any, data: bytes) -> int:
            number, begun[connection] = _methods(begun.get(connection, b"") + data)
            return number

        return [(BaseConnection, "_adapter_emit_data", sent), (BaseConnection, "_proto_data_received", received)]


def _methods(data: bytes) -> tuple[int, bytes]:
    """Return how many frames with a method there are in what went over the wire, and the one that is not whole yet."""
    number, start = 0, 0
    while len(data) - start >= 7 and data[start] < ord("A"):
        kind, _, size = struct.unpack_from(">BHI", data, start)
        if start + size + 8 > len(data):
            break
        number += kind == 1
        start += size + 8
    return number, data[start:]


class SqsRequests(DriverMeter):
    """HTTP requests of botocore, those that are repeated too."""

    name = "SQS requests"

    def methods(self) -> Sequence[tuple[type, str, Callable[..., int]]]:
        from botocore.httpsession import URLLib3Session

        return [(URLLib3Session, "send", _always)]


class SqlStatements(DriverMeter):
    """Statements that psycopg sends, BEGIN and COMMIT among them."""

    name = "SQL statements"

    def methods(self) -> Sequence[tuple[type, str, Callable[..., int]]]:
        from psycopg import Cursor

        return [(Cursor, "execute", _always)]
