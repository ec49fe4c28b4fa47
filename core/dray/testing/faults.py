"""Faults on demand: a broker, backend or store that fails when a test says so, and a ledger of what has really run.

    broker = FlakyBroker.between(app)         # before the app first connects
    with app.worker():
        broker.sleep()                        # from now on BrokerUnavailable
        ...
        broker.wake()

    ledger = ExecutionLedger("runs.txt")      # in the task: ledger.record(self.request.id)
    assert not ledger.missing(sent)           # in the test, after the worker was killed

What has to happen in other threads and processes is waited for with `wait_until`.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..backend import Record, ResultBackend
from ..broker import Broker, Consumer
from ..clock import SYSTEM_CLOCK
from ..errors import BackendUnavailable, BrokerUnavailable, StoreUnavailable
from ..hookspecs import PLUGIN_API, Register, hookimpl
from ..message import Delivery
from ..relay import Relay
from ..store import Change, Changed, Due, Hold, Revise, Store, Take
from ..urls import Url

if TYPE_CHECKING:
    from ..app import Dray

T = TypeVar("T")


class Call(NamedTuple):
    """One call that reached the wrapper, as `Faults.history` keeps it."""

    verb: str
    #: Ids of the envelopes, deliveries or records it was about; of stores, the partitions or the index.
    ids: tuple[str, ...]


class Faults:
    """What a flaky broker, backend and store have in common: when to fail, and what was called. Thread-safe."""

    unavailable: type[Exception]

    def __init__(self) -> None:
        #: How often each verb was called, failed calls included.
        self.calls: Counter[str] = Counter()
        #: Calls of all verbs that took effect, in order.
        self.history: list[Call] = []
        self._asleep = threading.Event()
        self._lock = threading.Lock()
        self._before: dict[str, deque[BaseException]] = {}
        self._after: dict[str, deque[BaseException]] = {}
        self._observers: list[Callable[[str, str], object]] = []

    def sleep(self) -> None:
        """Be away: every call from now on raises Unavailable without taking effect."""
        self._asleep.set()

    def wake(self) -> None:
        """Be there again."""
        self._asleep.clear()

    def fail(self, verb: str, error: BaseException | None = None, times: int = 1) -> None:
        """Have the next `times` calls of `verb` raise `error` (Unavailable when None), without taking effect."""
        self._plan(self._before, verb, error or self.unavailable(f"{verb} failed on purpose"), times)

    def lose_reply_of(self, verb: str, times: int = 1) -> None:
        """Have the next `times` calls of `verb` take effect, and then raise Unavailable as if the reply was lost."""
        self._plan(self._after, verb, self.unavailable(f"the reply of {verb} was lost on purpose"), times)

    def observe(self, observer: Callable[[str, str], object]) -> None:
        """Call `observer(verb, "before")` and `observer(verb, "after")` around each call, in the caller's thread.

        It may block, raise, or end the process: what then happens is what the test wants to know.
        """
        self._observers.append(observer)

    def _plan(self, plans: dict[str, deque[BaseException]], verb: str, error: BaseException, times: int) -> None:
        with self._lock:
            plans.setdefault(verb, deque()).extend([error] * times)

    def _planned(self, plans: dict[str, deque[BaseException]], verb: str) -> None:
        with self._lock:
            plan = plans.get(verb)
            error = plan.popleft() if plan else None
        if error is not None:
            raise error

    def _do(self, verb: str, call: Callable[[], T], ids: Iterable[str] = ()) -> T:
        with self._lock:
            self.calls[verb] += 1
        for observer in self._observers:
            observer(verb, "before")
        if self._asleep.is_set():
            raise self.unavailable(f"{verb}: asleep on purpose")
        self._planned(self._before, verb)
        result = call()
        with self._lock:
            self.history.append(Call(verb, tuple(ids)))
        for observer in self._observers:
            observer(verb, "after")
        self._planned(self._after, verb)
        return result


class FlakyBroker(Faults, Relay):
    """A broker around another one, with faults on demand.

    The verbs of its consumers are named like their methods: "receive", "ack", "requeue", "release", "bury", "extend".
    """

    unavailable = BrokerUnavailable

    def __init__(self, inner: Broker) -> None:
        Faults.__init__(self)
        Relay.__init__(self, inner.url)
        self.inner = inner
        self.capabilities = inner.capabilities

    @classmethod
    def between(cls, app: Dray) -> FlakyBroker:
        """Put one between `app` and the broker that its settings name. Call it before the app connects."""
        url = Url.parse(app.connections.broker_url)
        made = cls(app.plugins.find("brokers", url.scheme)(url))
        app.plugins.register(_Instead("brokers", url, made), name=f"flaky-broker-{url.scheme}")
        return made

    def open(self) -> None:
        self.inner.clock = self.clock
        self._do("open", self.inner.open)
        self.capabilities, self.place = self.inner.capabilities, self.inner.place

    def close(self) -> None:
        # Never fails: a test that ends while the broker sleeps must not leave connections behind.
        self.inner.close()

    def consumer(self, queues: Sequence[str], lease: float) -> Consumer:
        return _FlakyConsumer(self, super().consumer(queues, lease))

    def _ask(self, verb: str, call: Callable[[Broker], T], ids: Iterable[str] = ()) -> T:
        return self._do(verb, lambda: call(self.inner), ids)


class _FlakyConsumer(Consumer):
    def __init__(self, faults: FlakyBroker, inner: Consumer) -> None:
        self._do = faults._do
        self._inner = inner

    def receive(self, limit: int, wait: float, queues: Sequence[str] | None = None) -> Sequence[Delivery]:
        return self._do("receive", lambda: self._inner.receive(limit, wait, queues))

    def wake(self) -> None:
        self._inner.wake()

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return self._do("ack", lambda: self._inner.ack(deliveries), _ids(deliveries))

    def requeue(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> Sequence[Delivery]:
        return self._do("requeue", lambda: self._inner.requeue(deliveries, delay), _ids(deliveries))

    def release(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return self._do("release", lambda: self._inner.release(deliveries), _ids(deliveries))

    def bury(self, deliveries: Sequence[Delivery], reason: str) -> Sequence[Delivery]:
        return self._do("bury", lambda: self._inner.bury(deliveries, reason), _ids(deliveries))

    def extend(self, deliveries: Sequence[Delivery], seconds: float) -> Sequence[Delivery]:
        return self._do("extend", lambda: self._inner.extend(deliveries, seconds), _ids(deliveries))

    def close(self) -> None:
        self._do("close", self._inner.close)


class FlakyBackend(Faults, ResultBackend):
    """A result backend around another one, with faults on demand."""

    unavailable = BackendUnavailable

    def __init__(self, inner: ResultBackend) -> None:
        Faults.__init__(self)
        ResultBackend.__init__(self, inner.url)
        self.inner = inner
        self.durable, self.shared, self.beside_broker = inner.durable, inner.shared, inner.beside_broker

    @classmethod
    def between(cls, app: Dray) -> FlakyBackend:
        """Put one between `app` and the result backend that its settings name. Call it before the app connects."""
        text = app.connections.backend_url
        if text is None:
            raise ValueError(f"{app} keeps no results: set result_backend")
        url = Url.parse(text)
        made = cls(app.plugins.find("backends", url.scheme)(url))
        app.plugins.register(_Instead("backends", url, made), name=f"flaky-backend-{url.scheme}")
        return made

    def open(self) -> None:
        self.inner.clock = self.clock
        self._do("open", self.inner.open)
        self.address = self.inner.address

    def close(self) -> None:
        self.inner.close()

    def store(self, records: Sequence[Record], ttl: float | None) -> None:
        self._do("store", lambda: self.inner.store(records, ttl), _ids(records))

    def fetch(self, ids: Sequence[str]) -> Mapping[str, Record]:
        return self._do("fetch", lambda: self.inner.fetch(ids), ids)

    def forget(self, ids: Sequence[str]) -> None:
        self._do("forget", lambda: self.inner.forget(ids), ids)

    def wait(self, ids: Sequence[str], timeout: float) -> Mapping[str, Record]:
        return self._do("wait", lambda: self.inner.wait(ids, timeout), ids)

    def purge(self) -> int:
        return self._do("purge", self.inner.purge)


class FlakyStore(Faults, Store):
    """A store around another one, with faults on demand.

    Its verbs are those of the port; `get` is one of its own, so that `lose_reply_of("commit")` does not meet a read.
    """

    unavailable = StoreUnavailable

    def __init__(self, inner: Store) -> None:
        Faults.__init__(self)
        Store.__init__(self, inner.url)
        self.inner = inner
        self.capabilities = inner.capabilities
        self._made: deque[int] = deque()

    @classmethod
    def between(cls, app: Dray) -> FlakyStore:
        """Put one between `app` and the store that its settings name. Call it before the app connects."""
        text = app.connections.store_url
        if text is None:
            raise ValueError(f"{app} has no store: set store_url")
        url = Url.parse(text)
        made = cls(app.plugins.find("stores", url.scheme)(url))
        app.plugins.register(_Instead("stores", url, made), name=f"flaky-store-{url.scheme}")
        return made

    def break_off(self, made: int, times: int = 1) -> None:
        """Have the next `times` calls of `commit` make only their first `made` changes, and then raise Unavailable."""
        with self._lock:
            self._made.extend([made] * times)

    def open(self) -> None:
        self.inner.clock = self.clock
        self._do("open", self.inner.open)
        self.capabilities = self.inner.capabilities

    def close(self) -> None:
        self.inner.close()

    def commit(self, changes: Sequence[Change]) -> Sequence[Changed]:
        return self._do("commit", lambda: self._commit(changes), _parts(changes))

    def _commit(self, changes: Sequence[Change]) -> Sequence[Changed]:
        with self._lock:
            made = self._made.popleft() if self._made else None
        done = self.inner.commit(changes[:made])
        if made is not None:
            raise self.unavailable(f"commit was broken off on purpose, after {len(done)} of {len(changes)} changes")
        return done

    def scan(self, part: str, prefix: str = "", after: str = "", limit: int = 1000) -> Sequence[tuple[str, bytes]]:
        return self._do("scan", lambda: self.inner.scan(part, prefix, after, limit), [part])

    def due(self, index: str, until: float, limit: int, after: Due | None = None) -> Sequence[Due]:
        return self._do("due", lambda: self.inner.due(index, until, limit, after), [index])

    def now(self) -> float:
        return self._do("now", self.inner.now)

    def purge(self) -> int:
        return self._do("purge", self.inner.purge)

    def watch(self, part: str, timeout: float) -> None:
        self._do("watch", lambda: self.inner.watch(part, timeout), [part])

    def get(self, part: str, *keys: str) -> Mapping[str, bytes]:
        return self._do("get", lambda: self.inner.get(part, *keys), [part])

    def get_many(self, part: str, keys: Sequence[str]) -> Mapping[str, bytes]:
        return self._do("get", lambda: self.inner.get_many(part, keys), [part])

    def add_member(self, part: str, group: str, member: str, value: bytes) -> tuple[bool, int]:
        return self._do("add_member", lambda: self.inner.add_member(part, group, member, value), [part])

    def take(self, takes: Sequence[Take]) -> Sequence[float]:
        return self._do("take", lambda: self.inner.take(takes), _parts(takes))

    def hold(self, holds: Sequence[Hold]) -> Sequence[int]:
        return self._do("hold", lambda: self.inner.hold(holds), _parts(holds))

    def let_go(self, holds: Sequence[Hold]) -> None:
        self._do("let_go", lambda: self.inner.let_go(holds), _parts(holds))

    def revise(self, wishes: Sequence[Revise[T]]) -> Sequence[T]:
        return self._do("revise", lambda: self.inner.revise(wishes), _parts(wishes))


class _Instead:
    """A plugin that answers for one scheme with an object that is there already."""

    dray_api = PLUGIN_API

    def __init__(self, kind: str, url: Url, made: Broker | ResultBackend | Store) -> None:
        self._kind, self._scheme, self._made = kind, url.scheme, made

    @hookimpl
    def register_brokers(self, register: Register) -> None:
        if self._kind == "brokers":
            register(self._scheme, self._give)

    @hookimpl
    def register_backends(self, register: Register) -> None:
        if self._kind == "backends":
            register(self._scheme, self._give)

    @hookimpl
    def register_stores(self, register: Register) -> None:
        if self._kind == "stores":
            register(self._scheme, self._give)

    def _give(self, url: Url) -> Broker | ResultBackend | Store:
        return self._made


class ExecutionLedger:
    """A file in which every run of a task leaves one line, whatever happens to the process a moment later.

    Safe from any thread and process: each line is one `write` to a file opened for appending. It survives the death of
    the process, not a power cut.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def record(self, id: str) -> None:
        """Note that `id` runs now."""
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, f"{id}\n".encode())
        finally:
            os.close(file)

    def runs(self) -> Counter[str]:
        """Return how often each id has run."""
        try:
            return Counter(self.path.read_text().split())
        except FileNotFoundError:
            return Counter()

    def missing(self, ids: Iterable[str]) -> set[str]:
        """Return those of `ids` that have never run."""
        return set(ids) - self.runs().keys()

    def repeated(self) -> dict[str, int]:
        """Return the ids that have run more than once, and how often."""
        return {id: times for id, times in self.runs().items() if times > 1}


def wait_until(condition: Callable[[], object], timeout: float = 15.0, look: float = 0.005) -> None:
    """Return as soon as `condition()` is true; raise AssertionError when it is not within `timeout` real seconds."""
    end, never = SYSTEM_CLOCK.monotonic() + timeout, threading.Event()
    while not condition():
        if SYSTEM_CLOCK.monotonic() > end:
            raise AssertionError(f"it did not come true within {timeout:g} s")
        never.wait(look)


def _ids(items: Iterable[Any]) -> list[str]:
    return [item.id for item in items]


def _parts(items: Iterable[Any]) -> list[str]:
    return [item.part for item in items]
