"""The checks of `dray doctor`: each is tried, timed, and explained when it fails. Touches only what it made itself."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..backend import Record, ResultBackend
from ..broker import Broker
from ..builtin_tasks import own_tasks
from ..capabilities import Support
from ..errors import (
    BackendError,
    BackendUnavailable,
    BrokerError,
    BrokerUnavailable,
    DrayError,
    NotSupported,
    StoreError,
    StoreUnavailable,
)
from ..message import Delivery, Envelope
from ..store import Absent, Add, Change, Delete, Put, Store
from ..urls import Url
from .queues import known_queues, served_queues
from .setup import DOCTORS_QUEUE

if TYPE_CHECKING:
    from ..app import Dray

#: Seconds a message may take to come round, and a stored result is kept if nobody forgets it.
PATIENCE, KEPT = 5.0, 60.0
#: Seconds after which a message of a doctor's that is still in its queue has been left there.
OLD = 60.0
#: How many queues a piece of advice names.
SHOWN = 5


@dataclass(frozen=True)
class Check:
    """One thing that was tried."""

    name: str
    ok: bool
    detail: str
    #: How long it took, where that says something.
    seconds: float | None = None
    #: It failed because something could not be reached.
    unreachable: bool = False


@dataclass
class Checkup:
    """What was found."""

    checks: list[Check] = field(default_factory=list)
    support: Sequence[Support] = ()
    #: What works, but deserves a thought.
    advice: list[str] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)


def examine(app: Dray, *, with_tasks: bool) -> Checkup:
    """Check an app from its plugins to its store. Raises only what is wrong with the settings themselves."""
    found = Checkup()
    _plugins(app, found)
    _broker(app, found)
    _backend(app, found)
    _store(app, found)
    if with_tasks:
        names = own_tasks(app)
        found.checks.append(Check("tasks", bool(names), f"{len(names)} registered" if names else "none is registered"))
    _settings(app, found)
    _health(app, found)
    # One server that is broker, backend and store may say the same thing three times.
    found.advice = list(dict.fromkeys(found.advice))
    return found


def _plugins(app: Dray, found: Checkup) -> None:
    report = app.plugins.report()
    broken = [plugin for plugin in report if plugin.state in ("failed", "incompatible")]
    for plugin in broken:
        found.checks.append(Check("plugins", False, f"{plugin.name} ({plugin.distribution}) {plugin.reason}"))
    if not broken:
        others = sum(1 for plugin in report if plugin.source != "built-in" and plugin.state == "loaded")
        found.checks.append(Check("plugins", True, f"{others} loaded besides the built-in ones"))


def _broker(app: Dray, found: Checkup) -> None:
    began = time.perf_counter()
    try:
        broker = app.broker
        found.checks.append(_passed("broker", f"connected to {broker.url}", began))
        found.support = app.support()
        took = _round_trip(broker)
        found.checks.append(Check("queue", True, "a message went in and came out again", took))
        _broker_advice(app, broker, found)
        found.advice += broker.advice(served_queues(app))
    except (BrokerError, NotSupported) as error:
        name = "queue" if found.support else "broker"
        found.checks.append(Check(name, False, str(error), unreachable=isinstance(error, BrokerUnavailable)))


def _round_trip(broker: Broker) -> float:
    """Send a message through the doctor's queue; return how long that took (seconds)."""
    id, body = f"doctor-{time.time():.0f}-{secrets.token_hex(6)}", os.urandom(256)
    began = time.perf_counter()
    broker.publish([Envelope(id=id, queue=DOCTORS_QUEUE, body=body)])
    consumer = broker.consumer([DOCTORS_QUEUE], PATIENCE)
    held: list[Delivery] = []
    try:
        while (left := began + PATIENCE - time.perf_counter()) > 0:
            deliveries = consumer.receive(10, left)
            took = time.perf_counter() - began
            ours = [one for one in deliveries if one.id == id]
            held += [one for one in deliveries if one.id != id]
            consumer.ack(ours)
            if ours and ours[0].body != body:
                raise BrokerError("a message came out with another body than it was sent with")
            if ours:
                return took
        raise BrokerError(f"a message sent to {DOCTORS_QUEUE} did not come out within {PATIENCE:g} s")
    finally:
        # Another doctor may be waiting for one of these; one that has gone away will not.
        consumer.ack([one for one in held if _is_old(one)])
        consumer.release([one for one in held if not _is_old(one)])
        consumer.close()


def _is_old(delivery: Delivery) -> bool:
    _, sent, *_ = [*delivery.id.split("-"), "0"]
    return not sent.isdigit() or time.time() - int(sent) > OLD


def _broker_advice(app: Dray, broker: Broker, found: Checkup) -> None:
    can = broker.capabilities
    if not can.shared:
        found.advice.append(
            f"{broker.url} is seen by one process only: worker and senders must be that one process. "
            "Fine for tests; otherwise name a broker that processes share."
        )
    elif not can.durable:
        found.advice.append(f"{broker.url} does not survive a restart: what waits there is lost with it.")
    if can.size and can.dead_letters:
        sizes = broker.sizes(known_queues(app))
        dead = {name: counts.get("dead", 0) for name, counts in sizes.items() if counts.get("dead")}
        if dead:
            shown = ", ".join(f"{count} in {name}" for name, count in list(dead.items())[:SHOWN])
            found.advice.append(f"There are dead letters, {shown}: `dray dead list` says why.")


def _backend(app: Dray, found: Checkup) -> None:
    if app.connections.backend_url is None:
        found.advice.append(
            "Results are not kept, so nobody learns how a task ended. To keep them, set DRAY_RESULT_BACKEND."
        )
        return
    began = time.perf_counter()
    try:
        backend = app.backend_for_reading()
        url = Url.parse(app.connections.backend_url)
        found.checks.append(_passed("results", f"connected to {url}", began))
        found.checks.append(Check("record", True, "a result was stored, fetched and forgotten", _record(backend)))
        found.advice += backend.advice()
    except (BackendError, NotSupported) as error:
        found.checks.append(Check("results", False, str(error), unreachable=isinstance(error, BackendUnavailable)))
        return
    if not backend.shared and found.support and app.broker.capabilities.shared:
        found.advice.append(f"{url} is seen by one process only: senders elsewhere never see a result.")


def _record(backend: ResultBackend) -> float:
    """Store, fetch and forget a record; return how long that took (seconds)."""
    began = time.perf_counter()
    record = Record(
        id=f"dray.doctor.{secrets.token_hex(6)}",
        state="SUCCESS",
        final=True,
        body=os.urandom(256),
        reply_to=backend.address,
    )
    backend.store([record], KEPT)
    fetched = backend.fetch([record.id]).get(record.id)
    backend.forget([record.id])
    if fetched is None or fetched.body != record.body:
        raise BackendError("a result that was stored could not be fetched again")
    if backend.fetch([record.id]):
        raise BackendError("a result that was forgotten is still there")
    return time.perf_counter() - began


def _store(app: Dray, found: Checkup) -> None:
    text = app.connections.store_url
    if text is None:
        return
    began = time.perf_counter()
    try:
        store = app.store("dray doctor")
        found.checks.append(_passed("store", f"connected to {store.url}", began))
        found.checks.append(Check("change", True, "a record was put, read and deleted", _change(store)))
        found.advice += store.advice()
    except (StoreError, NotSupported) as error:
        found.checks.append(Check("store", False, str(error), unreachable=isinstance(error, StoreUnavailable)))
        return
    if not store.capabilities.shared and found.support and app.broker.capabilities.shared:
        found.advice.append(
            f"{store.url} is seen by one process only: workers elsewhere know nothing of its workflows, schedules, "
            "limits and locks."
        )


def _change(store: Store) -> float:
    """Put, read and delete a record; return how long that took (seconds)."""
    began = time.perf_counter()
    part, body = f"dray.doctor.{secrets.token_hex(6)}", os.urandom(256)
    claim = Change(part, (Absent("a"),), (Put("a", body), Add("n")), ("a", "n"), KEPT)
    first, second = store.commit([claim, claim])
    store.commit([Change(part, (), (Delete("a"), Delete("n")))])
    if not first.applied or second.applied or second.values != {"a": body, "n": b"1"}:
        raise StoreError("a record that was put is not what was found")
    if store.get(part, "a", "n"):
        raise StoreError("a record that was deleted is still there")
    return time.perf_counter() - began


def _settings(app: Dray, found: Checkup) -> None:
    for name in app.conf.accept_content:
        try:
            safe = app.payloads.serializer(name).safe if "/" not in name else app.payloads.reader(name).safe
        except DrayError as error:
            found.checks.append(Check("settings", False, f"accept_content names {name!r}: {error}"))
            continue
        if not safe:
            found.advice.append(
                f"accept_content names {name!r}: whoever can put a message on the broker can run code in the workers."
            )


def _health(app: Dray, found: Checkup) -> None:
    """Add what plugins say by the hook `health`: under a name a bool, a text, or {"ok": bool, "detail": text}."""
    if not app.plugins.has("health"):
        return
    report: dict[str, Any] = {}
    app.plugins.observe("health", report=report)
    for name, said in report.items():
        ok, detail = (said.get("ok", True), said.get("detail", "")) if isinstance(said, Mapping) else (said, "")
        if not isinstance(ok, bool):
            ok, detail = True, said
        found.checks.append(Check(str(name), ok, str(detail)))


def _passed(name: str, detail: str, began: float) -> Check:
    return Check(name, True, detail, time.perf_counter() - began)
