"""A TCP proxy between a worker and its server that does what networks do: cut, delay, reset, fall silent, dribble.

    with Proxy(server.port, Resp) as proxy:
        proxy.cut_at(3, "after")      # the third command from now on reaches the server, its answer does not come back
        ...
        proxy.cut_done.wait(10)

All switches may be thrown from any thread, at any time; they hold for open connections too.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable
from typing import Literal

from ..servers.ports import free_port
from .wire import Splitter

When = Literal["before", "after"]

#: Seconds that a command is given to take effect before its connection is cut behind it.
EFFECT = 0.25
#: Seconds between two looks at the switches.
LOOK = 0.05
#: Closing with this set resets the connection, as a dead host does, instead of ending it in order.
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Listens on `port` of 127.0.0.1 and passes everything on to `target` there."""

    def __init__(self, target: int, splitter: Callable[[], Splitter], seed: int = 0) -> None:
        self.target = target
        self.port = free_port()
        #: Seconds by which every piece is late, in both directions.
        self.latency = 0.0
        #: How likely what comes from the client in one piece, be it one command or a batch, is to meet a reset.
        self.resets = 0.0
        #: True: connections are taken, and nothing goes through any of them.
        self.silent = False
        #: Bytes per second at which answers dribble in; 0: as they come.
        self.dribble = 0
        #: Names of all commands since `cut_at` or `forget` was called last.
        self.commands: list[str] = []
        self.cut_done = threading.Event()
        #: The name of the command that was cut.
        self.cut_name = ""
        #: How many connections have been made, and how many were reset.
        self.connections = self.reset = 0
        #: What went wrong in here, if anything did: a test that ends with one of these has proved nothing.
        self.failures: list[BaseException] = []
        self._splitter = splitter
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._cut: tuple[int, When] | None = None
        self._links: set[_Link] = set()
        self._listening: socket.socket | None = None

    def __enter__(self) -> Proxy:
        self.be_back()
        return self

    def __exit__(self, *exc: object) -> None:
        self.be_away()
        assert not self.failures, self.failures

    # What a test asks for

    def cut_at(self, number: int, when: When) -> None:
        """Cut the connection of the `number`-th command from now on, before or after the server has had it."""
        with self._lock:
            self.commands, self.cut_name = [], ""
            self.cut_done.clear()
            self._cut = number, when

    def forget(self) -> list[str]:
        """Begin to count anew, cut nothing; return the names of the commands since last time."""
        with self._lock:
            before, self.commands, self._cut = self.commands, [], None
        return before

    def cut_all(self) -> None:
        """Reset every connection there is."""
        for link in list(self._links):
            link.end()

    def be_away(self) -> None:
        """Refuse connections, and reset those there are, until `be_back`."""
        listening, self._listening = self._listening, None
        if listening is not None:
            with contextlib.suppress(OSError):
                # Wakes whoever waits in accept, which closing alone does not.
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()
            self._accepting.join(10)
        self.cut_all()

    def be_back(self) -> None:
        """Take connections, again."""
        self._listening = listening = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self._accepting = threading.Thread(target=self._accept, args=(listening,), name="proxy", daemon=True)
        self._accepting.start()

    def fall_silent(self) -> None:
        """Take connections, and let nothing through, in neither direction, until `speak`."""
        self.silent = True

    def speak(self) -> None:
        """Let new connections through again. Those that fell silent are reset: nobody knows of them any more."""
        self.cut_all()
        self.silent = False

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._links)

    # What links ask

    def fate(self, name: str) -> When | None:
        """Count a command; return whether its connection is to be cut, and when."""
        with self._lock:
            self.commands.append(name)
            if self._cut is not None and len(self.commands) == self._cut[0]:
                when, self._cut, self.cut_name = self._cut[1], None, name
                return when
        return None

    def resets_now(self) -> bool:
        """Cast the dice for what has come from a client."""
        with self._lock:
            if self.resets and self._random.random() < self.resets:
                self.reset += 1
                return True
        return False

    def ended(self, link: _Link) -> None:
        self._links.discard(link)

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:
                _reset(client)
                continue
            server.settimeout(None)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            link = _Link(self, client, server, self._splitter())
            self._links.add(link)
            link.start()


class _Link:
    """One connection: the client's end, the server's end, and a thread for each direction."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket, splitter: Splitter) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._splitter = splitter
        self._over = threading.Event()
        self._swallow, self._answered = threading.Event(), threading.Event()

    def start(self) -> None:
        for run in (self._up, self._down):
            threading.Thread(target=self._until_it_ends, args=(run,), name="proxy-link", daemon=True).start()

    def end(self) -> None:
        """Reset the client's end, close the server's in order: what it was sent, it shall do."""
        if self._over.is_set():
            return
        self._over.set()
        self._proxy.ended(self)
        _reset(self._client)
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _until_it_ends(self, run: Callable[[], None]) -> None:
        try:
            run()
        except OSError:
            pass
        except BaseException as error:
            self._proxy.failures.append(error)
        finally:
            self.end()

    def _up(self) -> None:
        while data := self._client.recv(65536):
            doomed = self._proxy.resets_now()
            for piece, name in self._splitter.feed(data):
                self._pause()
                fate = self._proxy.fate(name) if name else None
                if fate != "before":
                    if fate == "after":
                        self._swallow.set()
                    self._server.sendall(piece)
                if fate is not None:
                    if fate == "after":
                        self._answered.wait(EFFECT)
                    self.end()
                    self._proxy.cut_done.set()
                    return
            if doomed:
                # The server has had it, and the client will never know.
                return

    def _down(self) -> None:
        while data := self._server.recv(65536):
            if self._swallow.is_set():
                self._answered.set()
                continue
            self._pause()
            if speed := self._proxy.dribble:
                for start in range(0, len(data), 16):
                    self._client.sendall(data[start : start + 16])
                    self._over.wait(16 / speed)
            else:
                self._client.sendall(data)

    def _pause(self) -> None:
        """Wait out the latency, and as long as nothing may go through."""
        if self._proxy.latency:
            self._over.wait(self._proxy.latency)
        while self._proxy.silent:
            if self._over.wait(LOOK):
                raise OSError("cut while silent")


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        # Wakes the thread that reads here; says nothing to the other side yet.
        end.shutdown(socket.SHUT_RD)
    end.close()
