"""Opens the broker, the store and the result backends that the settings' URLs name, once per process."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from .assisted import Assisted
from .backend import Record, ResultBackend
from .broker import Broker
from .capabilities import FOREVER, Capabilities, Support, lacks, resolve
from .clock import Clock
from .errors import BrokerUnavailable, NotSupported
from .failover import Failover
from .holds import Holds
from .queues import check_declared, declared
from .urls import Url, mask

if TYPE_CHECKING:
    from .plugins import Plugins
    from .report import Kept
    from .settings import Settings
    from .store import Store

#: Where tasks wait when nothing is configured: a file in the working directory.
EMBEDDED_URL = "sqlite:///dray.db"
#: The value of `result_backend` that turns results off, and of `store_url` that does without a store.
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
        self.known: Capabilities | None = None
        self._backends: dict[str, ResultBackend] = {}
        self._records: Store | None = None
        #: Of backend URLs: whether results are sent to whoever asked, instead of kept.
        self._sends: dict[str, bool] = {}

    # The broker

    @property
    def capabilities(self) -> Capabilities:
        """What the broker can do. A process that runs tasks for a worker is told, and need not connect to know."""
        return self.known if self._broker is None and self.known is not None else self.broker.capabilities

    @property
    def broker(self) -> Broker:
        """The open broker."""
        if self._broker is None:
            with self._lock:
                if self._broker is None:
                    self._broker = self._open_broker()
        return self._broker

    @property
    def broker_url(self) -> str:
        """The URL the broker is opened with: several, with ";" between them, when others stand by."""
        return self._conf.broker_url or EMBEDDED_URL

    def support(self) -> list[Support]:
        """Return how each feature is had on the broker at hand."""
        broker = self.broker
        if isinstance(broker, Assisted):
            return resolve(broker.native, None if broker.store is None else broker.store.capabilities)
        return resolve(broker.capabilities)

    def _open_broker(self) -> Broker:
        urls = [Url.parse(text) for text in self.broker_url.split(";")]
        made: list[Broker] = [self._plugins.find("brokers", url.scheme)(url) for url in urls]
        broker = made[0] if len(made) == 1 else Failover(made, self._conf.broker_failover == "shuffle")
        broker.clock = self._clock
        broker.open()
        try:
            # One that stands by may lack what the one in use has.
            if lacks(broker.capabilities) or len(made) > 1:
                broker = Assisted(broker, self._store(urls, broker.capabilities), self._conf.store_remember)
                broker.clock = self._clock
                broker.open()
            if self._conf.strict:
                self._refuse_emulation(broker)
            if queues := check_declared(declared(self._conf), broker.capabilities):
                broker.declare(queues)
        except BaseException:
            broker.close()
            raise
        return broker

    def _store(self, urls: Sequence[Url], can: Capabilities) -> Broker | None:
        """Return the broker that keeps what the one at `urls` cannot: the one configured, else where results are kept.

        The latter only if it can serve as one, and without a word if it cannot: nobody asked for it.
        """
        chosen = self._conf.store_url
        if chosen == DISABLED:
            return None
        text = chosen or self.backend_url
        url = Url.parse(text) if text else None
        if url is None or not self._plugins.knows("brokers", url.scheme) or url in urls:
            if url is not None and chosen and not self._plugins.knows("stores", url.scheme):
                raise NotSupported(
                    f"store_url {mask(chosen)}: a store is another broker than the one it helps, or keeps records, "
                    f"which {url.scheme}:// does not"
                )
            return None  # it keeps records; what this broker lacks it does not keep
        store: Broker = self._plugins.find("brokers", url.scheme)(url)
        store.clock = self._clock
        away: BrokerUnavailable | None = None
        try:
            store.open()
        except BrokerUnavailable as error:
            # What does not need it can be sent meanwhile; it is opened again before anything is received. Till then it
            # is judged by what its kind can do.
            away = error
        missing = _missing(store.capabilities, can)
        if not missing:
            return store
        store.close()
        if chosen:
            raise away or NotSupported(f"store_url {url} cannot serve as a store: {', '.join(missing)}")
        return None

    def _refuse_emulation(self, broker: Broker) -> None:
        self._broker = broker
        emulated = [row.feature for row in self.support() if row.how == "emulated"]
        if emulated:
            self._broker = None
            raise NotSupported(f"{broker.url} has only emulated, and `strict` refuses emulation: {', '.join(emulated)}")

    # The store of records

    @property
    def records(self) -> Store | None:
        """The open store, in which workflows, schedules, limits and locks are kept; None when there is none."""
        if self._records is None and self.store_url is not None:
            with self._lock:
                if self._records is None:
                    self._records = self._open_records(self.store_url)
        return self._records

    @cached_property
    def store_url(self) -> str | None:
        """The URL the store is opened with: its own, else where results are kept, else the broker's, if it can."""
        chosen = self._conf.store_url
        if chosen:
            return None if chosen == DISABLED else chosen
        for text in (self.backend_url, self.broker_url.split(";")[0]):
            if text and self._plugins.knows("stores", Url.parse(text).scheme):
                return text
        return None

    @cached_property
    def holds(self) -> Holds:
        """The places that this process has in the store: locks, and those of running tasks."""
        return Holds(lambda: self.records, self._clock)

    def _open_records(self, text: str) -> Store:
        url = Url.parse(text)
        store: Store = self._plugins.find("stores", url.scheme)(url)
        store.clock = self._clock
        store.open()
        return store

    # Result backends

    @property
    def backend(self) -> ResultBackend | None:
        """The open result backend, or None when results are disabled."""
        text = self.backend_url
        return None if text is None else self.backend_at(text)

    def backend_at(self, text: str) -> ResultBackend:
        """The open result backend at a URL, which may be that of a single task."""
        found = self._backends.get(text)
        if found is None:
            with self._lock:
                found = self._backends.get(text)
                if found is None:
                    found = self._backends[text] = self._open_backend(text)
        return found

    @cached_property
    def backend_url(self) -> str | None:
        """The URL the backend is opened with: its own, else the broker's if that can keep results, else None."""
        chosen = self._conf.result_backend
        if chosen:
            return None if chosen == DISABLED else chosen
        broker = self.broker_url.split(";")[0]
        return broker if self._plugins.knows("backends", Url.parse(broker).scheme) else None

    def store(self, records: Iterable[Kept], ttl: float | None) -> None:
        """Store records, each in the backend of its task; those that nobody keeps are dropped."""
        places: dict[str, list[Record]] = {}
        for record in records:
            places.setdefault(record.backend, []).append(record)
        for place, some in places.items():
            self.store_at(place, some, ttl)

    def store_at(self, text: str, records: Sequence[Record], ttl: float | None) -> None:
        """Store records in the backend at a URL ("": the app's own; where there is none, they are dropped)."""
        if place := text or self.backend_url:
            self.backend_at(place).store(records, ttl)

    def reopen_backend(self, text: str) -> None:
        """Connect again to the backend at a URL ("": the app's own), if it is in use."""
        backend = self._backends.get(text or self.backend_url or "")
        if backend is not None:
            backend.open()

    def address(self, text: str) -> str:
        """Return where results for this process are to be sent, for the backend at a URL ("": the app's own).

        Only backends that send results are opened for it: whoever sends a task need not reach the others.
        """
        place = text or self.backend_url or ""
        sends = self._sends.get(place)
        if sends is None:
            kind = self._plugins.find("backends", Url.parse(place).scheme) if place else ResultBackend
            sends = self._sends[place] = getattr(kind, "beside_broker", False)
        return self.backend_at(place).address if sends else ""

    def _open_backend(self, text: str) -> ResultBackend:
        url = Url.parse(text)
        # A class or, from a plugin, any function that makes one.
        kind = self._plugins.find("backends", url.scheme)
        if getattr(kind, "beside_broker", False) and not url.hosts:
            url = Url.parse(self.broker_url.split(";")[0])
        backend: ResultBackend = kind(url)
        backend.clock = self._clock
        backend.open()
        return backend

    def close(self) -> None:
        """Close what is open; it is opened again when it is next used."""
        if (holds := self.__dict__.pop("holds", None)) is not None:
            holds.stop()
        with self._lock:
            broker, self._broker = self._broker, None
            backends, self._backends = list(self._backends.values()), {}
            records, self._records = self._records, None
        if broker is not None:
            broker.close()
        if records is not None:
            records.close()
        for backend in backends:
            backend.close()


def _missing(store: Capabilities, can: Capabilities) -> list[str]:
    """Return what a broker lacks to be the store of one that `can`."""
    needed = {
        "it has no delays of any length": store.max_delay >= FOREVER,
        "it cannot cancel": store.cancel,
        "it lends without a lease": store.lease,
        "other processes do not see it": store.shared or not can.shared,
        "it does not survive a restart": store.durable or not can.durable,
    }
    return [words for words, there in needed.items() if not there]
