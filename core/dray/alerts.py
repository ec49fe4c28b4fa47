"""Alerts: `app.alert` has a function or a URL called when something has happened too often within some time.

Events are counted on a thread of their own, in tenths of the time: where there is a store, for all processes of the
app together, and one of them tells; elsewhere, and while the store is away, each process for itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
from collections.abc import Callable
from fnmatch import fnmatchcase
from inspect import iscoroutine
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import msgspec

from . import webhooks
from .errors import ConfigurationError, StoreError
from .hookspecs import EVENT_TYPES, Event
from .store import Absent, Change, Equals, Put
from .urls import nearest
from .webhook_options import check_url

if TYPE_CHECKING:
    from .app import Dray

logger = logging.getLogger(__name__)

#: Seconds for which an app that is closed waits for the alerts that are being told.
PATIENCE = 1.0
#: In so many parts the time is counted: what is older than it by less than one may still count.
PARTS = 10
#: How often it is tried to count before others do; then it is counted here alone.
TRIES = 10


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """What an alert tells: something has happened more often than it may."""

    #: Which events were counted, of which tasks, how many there were, and within how many seconds.
    when: tuple[str, ...]
    pattern: str
    count: int
    within: float
    #: When it was noticed (seconds since 1970), and the last event that was counted.
    at: float
    event: Event

    def __str__(self) -> str:
        of = f" of {self.pattern}" if self.pattern != "*" else ""
        about = self.event.message.task if self.event.message is not None else self.event.worker
        reason = self.event.details.get("reason", "")
        last = "".join((f", the last one {about}" if about else "", f": {reason}" if reason else ""))
        return f"{self.count} times {' or '.join(self.when)}{of} within {self.within:g} s{last}"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """When whom to tell."""

    when: tuple[str, ...]
    pattern: str
    more_than: int
    #: Seconds.
    within: float
    #: Seconds for which nobody is told again.
    quiet: float
    #: A function, or the URL of a webhook.
    tell: Callable[[Alert], Any] | str

    def concerns(self, event: Event) -> bool:
        """Tell whether an event counts."""
        name = event.message.task if event.message is not None else event.worker
        return event.type in self.when and fnmatchcase(name, self.pattern)

    @property
    def key(self) -> str:
        """What it is counted under: the same in all processes, and another one for whoever else is told of the same."""
        tell = self.tell
        whom = tell if isinstance(tell, str) else f"{tell.__module__}.{getattr(tell, '__qualname__', type(tell))}"
        facts = repr((self.when, self.pattern, self.more_than, self.within, whom))
        return hashlib.sha256(facts.encode()).hexdigest()[:32]


class Tally(msgspec.Struct, frozen=True, array_like=True):
    """How often something has happened lately."""

    #: By the number of the part of time.
    parts: dict[int, int] = {}
    #: Until when nobody is told.
    quiet: float = 0.0

    def counting(self, rule: Rule, count: int, now: float) -> tuple[Tally, int]:
        """Return it with `count` more; and how many there are if somebody is to be told of them, else 0."""
        part = int(now / (rule.within / PARTS))
        parts = {number: some for number, some in self.parts.items() if number > part - PARTS}
        parts[part] = parts.get(part, 0) + count
        total = sum(parts.values())
        if total <= rule.more_than or now < self.quiet:
            return Tally(parts, self.quiet), 0
        return Tally({}, now + rule.quiet), total


def read_rule(tell: Any, when: Any, more_than: Any, within: Any, pattern: Any, quiet: float | None) -> Rule:
    """Return what `app.alert` was given; raise `ConfigurationError` for what could never tell anything."""
    types = (when,) if isinstance(when, str) else tuple(when)
    for type in types:
        if type not in EVENT_TYPES:
            hint = nearest(str(type), EVENT_TYPES) or "."
            raise ConfigurationError(f"alert: no event {type!r}{hint} There are: {', '.join(sorted(EVENT_TYPES))}.")
    if not types:
        raise ConfigurationError("alert: say when, such as when='task-failed'")
    if isinstance(more_than, bool) or not isinstance(more_than, int) or more_than < 0:
        raise ConfigurationError(f"alert: more_than is a whole number >= 0; got {more_than!r}")
    if not within > 0 or (quiet is not None and not quiet >= 0):
        raise ConfigurationError(f"alert: within and quiet are seconds; got {within!r} and {quiet!r}")
    if isinstance(tell, str):
        try:
            check_url(tell)
        except ValueError as error:
            raise ConfigurationError(f"alert: {error}") from None
    elif not callable(tell):
        raise ConfigurationError(f"alert: it tells a function or a URL; got {tell!r}")
    return Rule(
        when=types,
        pattern=pattern,
        more_than=more_than,
        within=float(within),
        quiet=float(within if quiet is None else quiet),
        tell=tell,
    )


class Alerts:
    """The alerts of one app. `put` may be called from any thread, and returns at once."""

    def __init__(self, app: Dray) -> None:
        self._app = app
        self.rules: list[Rule] = []
        self._came: SimpleQueue[tuple[Rule, Event] | None] = SimpleQueue()
        #: What is counted here alone, by the rule's key.
        self._tallies: dict[str, Tally] = {}
        self._pid = 0
        self._starting = threading.Lock()

    def add(self, rule: Rule) -> None:
        """Have one more thing watched."""
        self.rules.append(rule)
        self._app.hear(self.put)

    @property
    def call_urls(self) -> bool:
        """Whether any of them calls a URL."""
        return any(isinstance(rule.tell, str) for rule in self.rules)

    def put(self, event: Event) -> None:
        """Take an event, if any rule is about it."""
        for rule in self.rules:
            if rule.concerns(event):
                if self._pid != os.getpid():
                    self._start()
                self._came.put((rule, event))

    def _start(self) -> None:
        pid = os.getpid()
        with self._starting:
            if self._pid != pid:
                self._came = SimpleQueue()
                self._thread = threading.Thread(target=self._run, args=(self._came,), name="dray-alerts", daemon=True)
                self._thread.start()
                self._pid = pid

    def close(self) -> None:
        """Have what has come looked at, and let go of the thread; it is started again when more comes."""
        with self._starting:
            if self._pid != os.getpid():
                return
            self._pid = 0
            self._came.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(PATIENCE)

    # The thread

    def _run(self, came: SimpleQueue[tuple[Rule, Event] | None]) -> None:
        closed = False
        while not closed:
            item = came.get()
            some: dict[int, list[tuple[Rule, Event]]] = {}
            try:
                while item is not None:
                    some.setdefault(id(item[0]), []).append(item)
                    item = came.get_nowait()
                closed = True
            except Empty:
                pass
            for same in some.values():
                rule, event = same[-1]
                try:
                    self._look(rule, len(same), event)
                except Exception:
                    logger.exception("%r raised, called for an alert", rule.tell)

    def _look(self, rule: Rule, count: int, event: Event) -> None:
        total = self._count(rule, count, event.at)
        if total:
            alert = Alert(
                when=rule.when, pattern=rule.pattern, count=total, within=rule.within, at=event.at, event=event
            )
            logger.warning("alert: %s", alert)
            self._tell(rule, alert)

    def _count(self, rule: Rule, count: int, now: float) -> int:
        """Count; return how many there are if somebody is to be told of them, else 0."""
        if self._app.connections.store_url is not None:
            try:
                if (total := self._count_together(rule, count, now)) is not None:
                    return total
            except StoreError as error:
                logger.warning("alerts are counted in this process alone: %s", error)
        tally, total = self._tallies.get(rule.key, Tally()).counting(rule, count, now)
        self._tallies[rule.key] = tally
        return total

    def _count_together(self, rule: Rule, count: int, now: float) -> int | None:
        """Count in the store; None if others were faster again and again."""
        store, part = self._app.store("alerts"), f"alert:{self._app.name}:{rule.key}"
        for _ in range(TRIES):
            kept = store.get(part, "tally").get("tally")
            before = Tally() if kept is None else msgspec.msgpack.decode(kept, type=Tally)
            tally, total = before.counting(rule, count, now)
            put = Put("tally", msgspec.msgpack.encode(tally))
            unchanged = Absent("tally") if kept is None else Equals("tally", kept)
            ttl = 2 * (rule.within + rule.quiet)
            if store.commit([Change(part, (unchanged,), (put,), (), ttl)])[0].applied:
                return total
        return None

    def _tell(self, rule: Rule, alert: Alert) -> None:
        if not isinstance(rule.tell, str):
            answer = rule.tell(alert)
            if iscoroutine(answer):
                asyncio.run(answer)
            return
        message = alert.event.message
        facts = {
            "type": "alert",
            "timestamp": webhooks.iso(alert.at),
            "text": str(alert),
            "when": alert.when,
            "pattern": alert.pattern,
            "count": alert.count,
            "within": alert.within,
            "task_id": message.id if message is not None else None,
            "worker": alert.event.worker,
        }
        webhooks.register(self._app).delay(rule.tell, webhooks.written(facts))
