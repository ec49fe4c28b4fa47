"""Where one command of a client ends and the next begins, in each protocol that the proxy stands in.

A splitter is fed what the client sends and yields whole pieces: `(bytes, name)`, the name being "" for what is part of
no command (a handshake's first bytes, heartbeats).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

Piece = tuple[bytes, str]

_CRLF = b"\r\n"
#: AMQP 0-9-1 methods by (class, method); others are called by their numbers.
_METHODS = {
    (10, 11): "start-ok",
    (10, 31): "tune-ok",
    (10, 40): "open",
    (20, 10): "channel",
    (40, 10): "exchange",
    (50, 10): "queue",
    (50, 20): "bind",
    (60, 10): "qos",
    (60, 20): "consume",
    (60, 40): "publish",
    (60, 80): "ack",
    (60, 90): "reject",
    (60, 120): "nack",
    (85, 10): "confirm",
}
_PUBLISH = (60, 40)
_METHOD_FRAME, _HEADER_FRAME, _BODY_FRAME = 1, 2, 3


class Splitter(Protocol):
    """One direction of one connection."""

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Take what the client has sent, and yield the pieces that are whole by now."""


class Resp:
    """Redis: arrays of bulk strings, one command each."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Piece]:
        self._rest += data
        while (found := self._one()) is not None:
            end, name = found
            piece, self._rest = self._rest[:end], self._rest[end:]
            yield piece, name

    def _one(self) -> tuple[int, str] | None:
        line = self._rest.find(_CRLF)
        if line < 0:
            return None
        assert self._rest[:1] == b"*", f"no RESP array: {self._rest[:20]!r}"
        count, at, words = int(self._rest[1:line]), line + 2, []
        for _ in range(count):
            line = self._rest.find(_CRLF, at)
            if line < 0:
                return None
            size, at = int(self._rest[at + 1 : line]), line + 2
            if len(self._rest) < at + size + 2:
                return None
            words.append(self._rest[at : at + size])
            at += size + 2
        return at, words[0].decode().upper()


class Amqp:
    """RabbitMQ: method frames; a publish is one command together with the frames of its content."""

    def __init__(self) -> None:
        self._rest = b""
        self._greeted = False
        #: Per channel: the frames of a publish whose content is not there yet, and how many bytes of it are missing.
        self._publishing: dict[int, tuple[bytes, int]] = {}

    def feed(self, data: bytes) -> Iterator[Piece]:
        self._rest += data
        if not self._greeted and len(self._rest) >= 8:
            piece, self._rest, self._greeted = self._rest[:8], self._rest[8:], True
            yield piece, ""
        while self._greeted and len(self._rest) >= 7:
            size = int.from_bytes(self._rest[3:7]) + 8
            if len(self._rest) < size:
                return
            frame, self._rest = self._rest[:size], self._rest[size:]
            if (piece := self._piece(frame)) is not None:
                yield piece

    def _piece(self, frame: bytes) -> Piece | None:
        kind, channel, payload = frame[0], int.from_bytes(frame[1:3]), frame[7:-1]
        if kind == _METHOD_FRAME:
            method = int.from_bytes(payload[:2]), int.from_bytes(payload[2:4])
            if method != _PUBLISH:
                return frame, _METHODS.get(method, "{}.{}".format(*method))
            self._publishing[channel] = frame, -1
            return None
        if kind not in (_HEADER_FRAME, _BODY_FRAME) or channel not in self._publishing:
            return frame, ""
        frames, missing = self._publishing[channel]
        missing = int.from_bytes(payload[4:12]) if kind == _HEADER_FRAME else missing - len(payload)
        if missing:
            self._publishing[channel] = frames + frame, missing
            return None
        del self._publishing[channel]
        return frames + frame, "publish"


class Postgres:
    """PostgreSQL: simple queries, and extended ones up to their Sync."""

    def __init__(self) -> None:
        self._rest = b""
        self._started = False
        self._gathered, self._name = b"", ""

    def feed(self, data: bytes) -> Iterator[Piece]:
        self._rest += data
        while not self._started and len(self._rest) >= 8:
            size = int.from_bytes(self._rest[:4])
            if len(self._rest) < size:
                return
            # Requests for encryption come before the start itself; their "protocol" begins with 1234.
            self._started = int.from_bytes(self._rest[4:6]) != 1234
            piece, self._rest = self._rest[:size], self._rest[size:]
            yield piece, "start" if self._started else ""
        while self._started and len(self._rest) >= 5:
            size = int.from_bytes(self._rest[1:5]) + 1
            if len(self._rest) < size:
                return
            message, self._rest = self._rest[:size], self._rest[size:]
            yield from self._command(message)

    def _command(self, message: bytes) -> Iterator[Piece]:
        kind = message[:1]
        self._gathered += message
        if kind in b"QP":
            text = message[5:] if kind == b"Q" else message[5:].partition(b"\0")[2]
            self._name = self._name or text.strip(b"\0 \n(").split(maxsplit=1)[0].decode(errors="replace").lower()
        if kind in b"QSpX":
            gathered, name = self._gathered, self._name or {b"p": "password", b"X": "end"}.get(kind, "run")
            self._gathered, self._name = b"", ""
            yield gathered, name


class Http:
    """SQS: HTTP/1.1 requests with a Content-Length."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Piece]:
        self._rest += data
        while (end := self._rest.find(b"\r\n\r\n")) >= 0:
            lines = self._rest[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            size = end + 4 + int(headers.get("content-length", 0))
            if len(self._rest) < size:
                return
            piece, self._rest = self._rest[:size], self._rest[size:]
            yield piece, headers.get("x-amz-target", lines[0]).rpartition(".")[2]
