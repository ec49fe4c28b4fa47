"""The gates: every call that a simulated process makes of a server passes one, and everything goes wrong there.

They implement the ports around the servers of the world, one set for each process. At a gate others get a turn, before
the call and after it; a dead process gets no further.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from dray import (
    BackendUnavailable,
    Broker,
    BrokerUnavailable,
    Change,
    Changed,
    Consumer,
    Delivery,
    Due,
    Envelope,
    Record,
    ResultBackend,
    Store,
    StoreUnavailable,
    states,
)
from dray.recognition import LEFT_ALONE
from dray.relay import Relay

from .servers import LooseBroker, WatchedBackend, WatchedStore, plain
from .world import Killed, Process

if TYPE_CHECKING:
    from .faults import Faults
    from .history import History
    from .site import Site

T = TypeVar("T")

UNAVAILABLE: dict[str, type[Exception]] = {
    "broker": BrokerUnavailable,
    "shelf": BrokerUnavailable,
    "backend": BackendUnavailable,
    "store": StoreUnavailable,
}


class Call:
    """One call of a server, or one stretch of a task's own code, on its way through a gate."""

    def __init__(
        self,
        site: Site,
        where: str,
        verb: str,
        effect: Callable[[], Any],
        about: str,
        *,
        server: Any = None,
        queues: Sequence[str] = (),
        envelopes: Sequence[Envelope] = (),
    ) -> None:
        self.site = site
        self.process: Process = site.process
        self.faults: Faults = site.faults
        self.history: History = site.history
        #: "broker", "shelf" (the second broker beside a poor one), "backend", "store" or "task".
        self.where = where
        self.name = f"{where}.{verb}"
        self.server, self.queues, self.envelopes = server, queues, envelopes
        self._effect, self._about = effect, about
        self._performed = False
        self._result: Any = None
        self.fault = ""
        self.was_spared = False

    def pass_gate(self) -> Any:
        """Make the call, or have something go wrong."""
        world, process = self.process.world, self.process
        world.turn()
        if process.dead:
            raise Killed
        fault = self.faults.draw(self)
        try:
            if self.faults.is_away(self.where):
                self.history.struck(process, self.name)
                raise self.unavailable("it is away")
            result = self.perform() if fault is None else self.faults.strike(fault, self)
        except Exception as error:
            self._say(f"raises {type(error).__name__}")
            if isinstance(error, BrokerUnavailable) and isinstance(self.server, LooseBroker):
                self.server.disconnect(process)
            raise
        except Killed:
            self._say("")
            raise
        self._say(_shown(result))
        world.turn()
        return result

    # What a fault uses

    def perform(self) -> Any:
        """Let the call have its effect, once; return what it comes to."""
        if not self._performed:
            actor = self.process.world.current
            assert actor is not None
            actor.quiet += 1
            try:
                self._result = self._effect()
            finally:
                actor.quiet -= 1
            self._performed = True
        return self._result

    def spared(self) -> Any:
        """Say that the fault has come to nothing, and go on."""
        self.was_spared = True
        return self.perform()

    def unavailable(self, reason: str) -> Exception:
        return UNAVAILABLE[self.where](f"{self.name}: {reason}")

    def wait(self, seconds: float) -> None:
        """Take so long: the caller waits for its answer, and does nothing else meanwhile."""
        actor = self.process.world.current
        assert actor is not None
        actor.quiet += 1
        try:
            self.process.world.wait(seconds)
        finally:
            actor.quiet -= 1

    def _say(self, came_to: str) -> None:
        actor = self.process.world.current
        done = "" if self._performed else " (not done)"
        struck = f"   <- {self.fault}" if self.fault and not self.was_spared else ""
        who = actor.name if actor is not None else self.process.name
        self.process.world.say(who, f"{self.name} {self._about}{came_to}{done}{struck}")


class GatedBroker(Relay):
    """A broker as one process sees it."""

    def __init__(self, site: Site, inner: Broker, loose: LooseBroker, where: str = "broker") -> None:
        super().__init__(inner.url)
        self.site = site
        self.inner = inner
        #: Where its messages really are.
        self.loose = loose
        self.where = where
        self.capabilities = inner.capabilities
        self.place = where

    def open(self) -> None:
        self._ask("open", lambda broker: broker.open())

    def close(self) -> None:
        """Nothing is let go of: the servers stay."""

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        self.site.history.publishing(self.site.process, [plain(each.id) for each in envelopes])
        # Of other attempts of what it holds; callbacks have loans of their own.
        self.site.history.writes(self.site.world.current, [each.id for each in envelopes if each.attempt])
        Call(
            self.site,
            self.where,
            "publish",
            lambda: self.inner.publish(envelopes),
            _names(envelopes),
            server=self.loose,
            envelopes=envelopes,
        ).pass_gate()

    def consumer(self, queues: Sequence[str], lease: float) -> Consumer:
        def opened(broker: Broker) -> Any:
            inner: Any = broker.consumer(queues, lease)
            self.loose.owners[inner.number] = self.site.process
            return inner

        return GatedConsumer(self, self._ask("consumer", opened), queues)

    def _ask(self, verb: str, call: Callable[[Broker], T], ids: Iterable[str] = ()) -> T:
        about = " ".join(ids)
        made = Call(self.site, self.where, verb, lambda: call(self.inner), about and f"{about} ", server=self.loose)
        return made.pass_gate()  # type: ignore[no-any-return]


class GatedConsumer(Consumer):
    """A consumer as its process sees it."""

    def __init__(self, broker: GatedBroker, inner: Any, queues: Sequence[str]) -> None:
        self._broker, self._inner, self._queues = broker, inner, tuple(queues)
        self._woken = False

    def receive(self, limit: int, wait: float, queues: Sequence[str] | None = None) -> Sequence[Delivery]:
        broker, site, loose = self._broker, self._broker.site, self._broker.loose
        world, names = site.process.world, self._queues if queues is None else tuple(queues)
        end = world.now + wait
        while True:
            if self._inner.number in loose.closed:
                raise BrokerUnavailable("the connection is closed")
            self._inner.bell.clear()
            ready, next_change = loose.has_ready(names)
            if ready or site.faults.is_away(broker.where):
                came = self._call("receive", lambda: self._inner.receive(limit, 0.0, names), (), queues=names)
                if came:
                    return came  # type: ignore[no-any-return]
            if self._woken or world.now >= end:
                self._woken = False
                return ()
            self._inner.bell.wait(min(next_change, end) - world.now)

    def wake(self) -> None:
        self._woken = True
        self._inner.bell.set()

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return self._call("ack", lambda: self._inner.ack(deliveries), deliveries)  # type: ignore[no-any-return]

    def requeue(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> Sequence[Delivery]:
        done = self._call("requeue", lambda: self._inner.requeue(deliveries, delay), deliveries)
        return done  # type: ignore[no-any-return]

    def release(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        try:
            return self._call("release", lambda: self._inner.release(deliveries), deliveries)  # type: ignore[no-any-return]
        except BrokerUnavailable:
            # Given back uncharged, perhaps; and the worker, who does not know, has them run.
            self._broker.site.history.perhaps_released.update(plain(each.id) for each in deliveries)
            raise

    def bury(self, deliveries: Sequence[Delivery], reason: str) -> Sequence[Delivery]:
        return self._call("bury", lambda: self._inner.bury(deliveries, reason), deliveries)  # type: ignore[no-any-return]

    def extend(self, deliveries: Sequence[Delivery], seconds: float) -> Sequence[Delivery]:
        return self._call("extend", lambda: self._inner.extend(deliveries, seconds), deliveries)  # type: ignore[no-any-return]

    def close(self) -> None:
        self._call("close", self._inner.close, ())

    def _call(
        self, verb: str, effect: Callable[[], Any], deliveries: Sequence[Delivery], queues: Sequence[str] = ()
    ) -> Any:
        broker = self._broker

        def on_the_connection() -> Any:
            # Closed while the caller was on its way.
            if self._inner.number in broker.loose.closed:
                raise BrokerUnavailable("the connection is closed")
            return effect()

        about = _names(deliveries)
        call = Call(broker.site, broker.where, verb, on_the_connection, about, server=broker.loose, queues=queues)
        try:
            return call.pass_gate()
        except BrokerUnavailable:
            if verb == "receive" or not broker.loose.connected:
                raise
            # The loans are over: they ended with the connection.
            return list(deliveries)


class GatedBackend(ResultBackend):
    """A result backend as one process sees it."""

    def __init__(self, site: Site, inner: WatchedBackend) -> None:
        super().__init__(inner.url)
        self.site, self.inner = site, inner

    def open(self) -> None:
        self._call("open", self.inner.open, ())

    def close(self) -> None:
        """Nothing is let go of."""

    def store(self, records: Sequence[Record], ttl: float | None) -> None:
        # What a task reports while it runs may come late: it is nothing that lasts.
        ends = [each.id for each in records if each.final or each.state == states.RETRY]
        self.site.history.writes(self.site.world.current, ends)
        self._call("store", lambda: self.inner.store(records, ttl), [f"{each.id}={each.state}" for each in records])

    def fetch(self, ids: Sequence[str]) -> Mapping[str, Record]:
        return self._call("fetch", lambda: self.inner.fetch(ids), ids)  # type: ignore[no-any-return]

    def forget(self, ids: Sequence[str]) -> None:
        self._call("forget", lambda: self.inner.forget(ids), ids)

    def wait(self, ids: Sequence[str], timeout: float) -> Mapping[str, Record]:
        return self._call("wait", lambda: self.inner.wait(ids, timeout), ids)  # type: ignore[no-any-return]

    def _call(self, verb: str, effect: Callable[[], Any], about: Iterable[str]) -> Any:
        told, history = " ".join(about), self.site.history
        try:
            return Call(self.site, "backend", verb, effect, told and f"{told} ", server=self.inner).pass_gate()
        except BackendUnavailable:
            # For so long what may be done already is perhaps run: at least once.
            history.blind[self.site.process.name] = self.site.world.now + LEFT_ALONE
            raise


class GatedStore(Store):
    """A store as one process sees it. It goes by the server's clock."""

    def __init__(self, site: Site, inner: WatchedStore) -> None:
        super().__init__(inner.url)
        self.site, self.inner = site, inner
        self.capabilities = inner.capabilities

    def open(self) -> None:
        self._call("open", self.inner.open, "")

    def close(self) -> None:
        """Nothing is let go of."""

    def commit(self, changes: Sequence[Change]) -> Sequence[Changed]:
        about = " ".join(change.part for change in changes)
        return self._call("commit", lambda: self.inner.commit(changes), f"{about} ")  # type: ignore[no-any-return]

    def scan(self, part: str, prefix: str = "", after: str = "", limit: int = 1000) -> Sequence[tuple[str, bytes]]:
        return self._call("scan", lambda: self.inner.scan(part, prefix, after, limit), f"{part} ")  # type: ignore[no-any-return]

    def due(self, index: str, until: float, limit: int, after: Due | None = None) -> Sequence[Due]:
        return self._call("due", lambda: self.inner.due(index, until, limit, after), f"{index} ")  # type: ignore[no-any-return]

    def now(self) -> float:
        return self.inner.now()

    def watch(self, part: str, timeout: float) -> None:
        self._call("watch", lambda: self.inner.watch(part, timeout), f"{part} ")

    def _call(self, verb: str, effect: Callable[[], Any], about: str) -> Any:
        return Call(self.site, "store", verb, effect, about, server=self.inner).pass_gate()


def _names(some: Sequence[Any]) -> str:
    return "".join(f"{plain(each.id)} " for each in some)


def _shown(result: Any) -> str:
    """Return what a call came to, as the trace tells it. Nothing whose order or name chance decides."""
    match result:
        case None | ():
            return ""
        case Mapping():
            return "-> " + " ".join(f"{id}={getattr(each, 'state', each)}" for id, each in sorted(result.items()))
        case set():
            return "-> " + " ".join(sorted(result))
        case [Delivery(), *_]:
            return "-> " + " ".join(f"{each.id}#{each.delivery_count}" for each in result)
        case [Changed(), *_]:
            return "-> " + " ".join("applied" if each.applied else "refused" for each in result)
        case [] | Consumer():
            return ""
        case _:
            return f"-> {result}"
