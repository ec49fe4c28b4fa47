"""The proxy knows one command from the next in every protocol, and does what its switches say."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from .proxy import Proxy
from .wire import Amqp, Http, Postgres, Resp, Splitter


def frame(kind: int, payload: bytes, channel: int = 1) -> bytes:
    return bytes([kind]) + channel.to_bytes(2) + len(payload).to_bytes(4) + payload + b"\xce"


def message(kind: bytes, payload: bytes) -> bytes:
    return kind + (len(payload) + 4).to_bytes(4) + payload


PING = b"*1\r\n$4\r\nPING\r\n"
SET = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\r\n\r\n"
ACK = frame(1, b"\x00\x3c\x00\x50" + bytes(9))
PUBLISH = frame(1, b"\x00\x3c\x00\x28" + bytes(5)) + frame(2, bytes(4) + (3).to_bytes(8)) + frame(3, b"abc")
HEARTBEAT = frame(8, b"", 0)
SSL_ASKED, START = (8).to_bytes(4) + b"\x04\xd2\x16\x2f", (12).to_bytes(4) + b"\x00\x03\x00\x00abc\0"
QUERY = message(b"Q", b"SELECT 1\0")
PREPARED = message(b"P", b"name\0UPDATE t SET a = $1\0\0\0") + message(b"B", b"...") + message(b"S", b"")
REQUEST = b"POST / HTTP/1.1\r\nX-Amz-Target: AmazonSQS.SendMessage\r\nContent-Length: 4\r\n\r\nbody"
BARE = b"GET /health HTTP/1.1\r\n\r\n"

PROTOCOLS: list[tuple[Splitter, list[tuple[bytes, str]]]] = [
    (Resp(), [(PING, "PING"), (SET, "SET")]),
    (Amqp(), [(b"AMQP\x00\x00\x09\x01", ""), (ACK, "ack"), (PUBLISH, "publish"), (HEARTBEAT, "")]),
    (Postgres(), [(SSL_ASKED, ""), (START, "start"), (QUERY, "select"), (PREPARED, "update")]),
    (Http(), [(REQUEST, "SendMessage"), (BARE, "1")]),
]


@pytest.mark.parametrize(("splitter", "pieces"), PROTOCOLS, ids=["resp", "amqp", "postgres", "http"])
def test_commands_are_told_apart_however_they_arrive(splitter: Splitter, pieces: list[tuple[bytes, str]]) -> None:
    sent = b"".join(piece for piece, _ in pieces)
    found = [piece for at in range(len(sent)) for piece in splitter.feed(sent[at : at + 1])]
    assert found == pieces


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that answers each PING with +PONG; yields its port."""

    def answer(client: socket.socket) -> None:
        with client:
            while data := client.recv(1000):
                client.sendall(b"+PONG\r\n" * data.count(b"PING"))

    def serve() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def ask(client: socket.socket) -> bytes:
    client.sendall(PING)
    return client.recv(100)


def test_it_passes_on_and_cuts_at_the_command_it_is_told(echo: int) -> None:
    with Proxy(echo, Resp) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
            proxy.cut_at(3, "after")
            assert [ask(client), ask(client)] == [b"+PONG\r\n"] * 2
            with pytest.raises(ConnectionResetError):
                ask(client)
            assert proxy.cut_done.wait(5)
        assert (proxy.cut_name, proxy.commands) == ("PING", ["PING"] * 3)


def test_it_refuses_and_is_back(echo: int) -> None:
    with Proxy(echo, Resp) as proxy:
        proxy.be_away()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
        proxy.be_back()
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
            assert ask(client) == b"+PONG\r\n"


def test_it_takes_connections_and_says_nothing(echo: int) -> None:
    with Proxy(echo, Resp) as proxy:
        proxy.fall_silent()
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=0.3) as client, pytest.raises(TimeoutError):
            ask(client)
        proxy.speak()
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
            assert ask(client) == b"+PONG\r\n"
