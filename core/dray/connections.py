"""Opens the broker and the result backend that the settings' URLs name, once per process."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING

from .backend import ResultBackend
from .broker import Broker
from .capabilities import resolve
from .clock import Clock
from .errors import NotSupported
from .urls import Url

if TYPE_CHECKING:
    from .plugins import Plugins
    from .settings import Settings

#: Where tasks wait when nothing is configured: a file in the working directory.
EMBEDDED_URL = "sqlite:///dray.db"
#: The value of `result_backend` that turns results off.
DISABLED = "disabled"


class Connections:
    """What one app has open in one process. A forked child makes its own and forgets this one unclosed.

    Thread-safe. Closing the child's copy of a parent's connection would end it for the parent too; hence `pid`.
    """

    def __init__(self, plugins: Plugins, conf: Settings, clock: Clock) -> None:
        self.pid = os.getpid()
        self.origin = f"{self.pid}@{socket.gethostname()}"
        self._plugins = plugins
        self._conf = conf
        self._clock = clock
        self._lock = threading.Lock()
        self._broker: Broker | None = None
        self._backend: ResultBackend | None = None

    @property
    def broker(self) -> Broker:
        """The open broker."""
        if self._broker is None:
            with self._lock:
                if self._broker is None:
                    self._broker = self._open_broker()
        return self._broker

    @property
    def backend(self) -> ResultBackend | None:
        """The open result backend, or None when results are disabled."""
        if self._backend is None:
            text = self.backend_url
            if text is None:
                return None
            with self._lock:
                if self._backend is None:
                    self._backend = self._open_backend(text)
        return self._backend

    @property
    def broker_url(self) -> str:
        """The URL the broker is opened with."""
        return self._conf.broker_url or EMBEDDED_URL

    @property
    def backend_url(self) -> str | None:
        """The URL the backend is opened with: its own, else the broker's if that can keep results, else None."""
        chosen = self._conf.result_backend
        if chosen:
            return None if chosen == DISABLED else chosen
        broker = self.broker_url
        return broker if Url.parse(broker).scheme in self._plugins.names("backends") else None

    def close(self) -> None:
        """Close what is open; it is opened again when it is next used."""
        with self._lock:
            broker, self._broker = self._broker, None
            backend, self._backend = self._backend, None
        if broker is not None:
            broker.close()
        if backend is not None:
            backend.close()

    def _open_broker(self) -> Broker:
        url = Url.parse(self.broker_url)
        broker: Broker = self._plugins.find("brokers", url.scheme)(url)
        broker.clock = self._clock
        broker.open()
        if self._conf.strict:
            emulated = [row.feature for row in resolve(broker.capabilities) if row.how == "emulated"]
            if emulated:
                broker.close()
                raise NotSupported(f"{url} has only emulated, and `strict` refuses emulation: {', '.join(emulated)}")
        return broker

    def _open_backend(self, text: str) -> ResultBackend:
        url = Url.parse(text)
        backend: ResultBackend = self._plugins.find("backends", url.scheme)(url)
        backend.clock = self._clock
        backend.open()
        return backend
