"""Unique tasks: what they say about themselves, and the claim in the store that keeps a second call out.

claim made -> message published -> claim confirmed ... run begins -> claim looked at or released -> run ends -> released

A claim is the id of the call that has it. Killed between claim and publish, a sender leaves a claim for a call that was
never sent: it lapses after `SENDING` seconds. What became of a message is not always told (a purged queue, a lost
broker), so no claim lasts for longer than `unique_for`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from .arguments import Parameters
from .errors import AlreadySent, DrayError, SerializationError, StoreError, StoreUnavailable, TaskOptionError
from .grouping import Key, check_parameter, partition, read_key
from .message import Message
from .setting_values import read_seconds
from .store import Absent, Change, Delete, Equals, Put
from .store import Changed as Answer
from .urls import nearest

if TYPE_CHECKING:
    from .app import Dray
    from .result import AsyncResult
    from .task import Task

R = TypeVar("R")

logger = logging.getLogger("dray")

#: Seconds for which a claim is kept before its message is known to be with the broker.
SENDING = 60.0
#: Seconds for which a claim is kept at most, unless `unique_for` says otherwise.
LONGEST = 86400.0
#: The one key of a claim's partition.
CALL = "call"
#: Options of a task that are about uniqueness.
WORDS = ("unique", "unique_until", "unique_for", "on_conflict", "singleton", "debounce", "throttle")
CONFLICTS = ("existing", "skip", "replace", "raise")
#: Tries to reach the store, and seconds between them.
TRIES, PAUSE = 3, 0.1


class Unique(msgspec.Struct, frozen=True):
    """What one task says about being unique."""

    #: What is the same in two calls of which one is too many.
    by: Key
    #: "start" or "done": when another call may be sent. "time": after `keep` seconds, whatever becomes of this one.
    until: str = "done"
    #: Seconds a claim is kept at most.
    keep: float = LONGEST
    on_conflict: str = "existing"
    #: Seconds for which a call waits for a later one that takes its place; 0: it does not.
    debounce: float = 0.0

    def part(self, task: str, parameters: Parameters, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Return the partition of the claim for a call."""
        told = self.by(parameters.whole(args, kwargs))
        try:
            return partition("unique", task, told)
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            raise SerializationError(
                f"{task} is unique by values that cannot be compared across processes ({error}); say which parameters "
                'tell calls apart, unique=["order_id"], or give a function, unique=lambda order, **_: order.id'
            ) from error


# Reading what is declared


def read_unique(said: Mapping[str, Any], parameters: Parameters, task: str) -> Unique | None:
    """Return what the options of a task come to, None if it is not unique; raise `TaskOptionError` for nonsense."""
    given = {word: said[word] for word in WORDS if said.get(word) not in (None, False)}
    if not given:
        return None
    modes = [word for word in ("singleton", "debounce", "throttle") if word in given]
    if len(modes) > 1 or (modes and given.keys() & {"unique_until"}) or {"singleton", "unique"} <= given.keys():
        raise TaskOptionError(f"{task}: {', '.join(given)} contradict each other: each says how it is unique")
    if not modes and "unique" not in given:
        raise TaskOptionError(f"{task}: {', '.join(given)} says more about unique=, which is not given")
    by = _nothing if "singleton" in given else _read_by(given.get("unique", True), parameters)
    until, keep = _read_until(given, task)
    conflict = given.get("on_conflict", "existing")
    if conflict not in CONFLICTS:
        raise TaskOptionError(
            f"{task}: on_conflict is one of {', '.join(map(repr, CONFLICTS))}; got {conflict!r}"
            f"{nearest(str(conflict), CONFLICTS)}"
        )
    if "debounce" not in given:
        return Unique(by, until, keep, conflict)
    if "on_conflict" in given:
        raise TaskOptionError(f"{task}: with debounce a later call takes the place of the one before; no on_conflict")
    return Unique(by, "start", keep, "replace", _duration(given["debounce"], "debounce", task))


def _nothing(named: Mapping[str, Any]) -> Any:
    return None


def _read_by(value: Any, parameters: Parameters) -> Key:
    if value is True:
        return dict
    if isinstance(value, list | tuple | set | frozenset) and value and all(isinstance(name, str) for name in value):
        names = sorted(value)
        for name in names:
            check_parameter(name, parameters, "unique")
        return lambda named: [named.get(name) for name in names]
    if isinstance(value, str) or callable(value):
        key = read_key(value, parameters, "unique")
        assert key is not None
        return key
    raise TaskOptionError(
        f"{parameters.text}: unique is True (all arguments), a list of parameters, or a function; got {value!r}"
    )


def _read_until(given: Mapping[str, Any], task: str) -> tuple[str, float]:
    keep = _duration(given["unique_for"], "unique_for", task) if "unique_for" in given else LONGEST
    if "throttle" in given:
        return "time", _duration(given["throttle"], "throttle", task)
    until = given.get("unique_until", "done")
    if until in ("start", "done"):
        return until, keep
    return "time", _duration(until, "unique_until ('start', 'done' or a time)", task)


def _duration(value: Any, option: str, task: str) -> float:
    try:
        seconds = read_seconds(value)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise TaskOptionError(
            f'{task}: {option} is a number of seconds > 0, a timedelta or text such as "5m"; got {value!r}'
        )
    return seconds


# Sending


class Claims:
    """Claims calls of unique tasks for one app, and releases them. Thread-safe."""

    def __init__(self, app: Dray) -> None:
        self._app = app

    def marked(self, task: Task[..., Any], rule: Unique, message: Message) -> Message:
        """Return a message with the claim that it needs and, if it is to wait for later ones, the delay for that."""
        part = rule.part(task.name, task.parameters, message.args, message.kwargs)
        if not rule.debounce:
            return message.but(claim=part)
        return message.but(claim=part, eta=max(message.eta or 0.0, self._app.clock.time() + rule.debounce))

    def make(self, rule: Unique, messages: Sequence[Message]) -> list[str]:
        """Claim the calls; return for each "" if it is to be sent, else the id of the call that is there already."""
        checks = rule.on_conflict != "replace"
        answers = self._commit(
            Change(
                message.claim,
                (Absent(CALL),) if checks else (),
                (Put(CALL, message.id.encode()),),
                (CALL,),
                min(SENDING, rule.keep) if rule.until == "time" else SENDING + self._delay(message),
            )
            for message in messages
        )
        # A claim under its own id was made by a try whose answer got lost.
        found = [answer.values[CALL].decode() for answer in answers]
        return [
            "" if answer.applied or id == message.id else id
            for answer, id, message in zip(answers, found, messages, strict=True)
        ]

    def confirm(self, rule: Unique, messages: Sequence[Message]) -> None:
        """Have the claims last, now that the messages are with the broker. Never raises: they would lapse early."""
        try:
            self._commit(
                Change(
                    message.claim,
                    (Equals(CALL, message.id.encode()),),
                    (Put(CALL, message.id.encode()),),
                    ttl=rule.keep if rule.until == "time" else rule.keep + self._delay(message),
                )
                for message in messages
            )
        except StoreError as error:
            logger.warning("%d call(s) sent, unique for %g s only: %s", len(messages), SENDING, error)

    def begin(self, jobs: Sequence[tuple[Message, Unique]]) -> list[str]:
        """Look at the claims of calls that are about to run; return for each "" or the id of the call that has it.

        Where it is unique until the start, this is the start.
        """
        changes = []
        for message, rule in jobs:
            own = message.id.encode()
            if rule.until == "start":
                changes.append(Change(message.claim, (Equals(CALL, own),), (Delete(CALL),), (CALL,)))
            elif rule.until == "done":
                changes.append(Change(message.claim, (Absent(CALL),), (Put(CALL, own),), (CALL,), rule.keep))
            else:
                changes.append(Change(message.claim, reads=(CALL,)))
        holders = [answer.values.get(CALL, b"").decode() for answer in self._commit(changes)]
        return ["" if id == message.id else id for id, (message, _) in zip(holders, jobs, strict=True)]

    def release(self, messages: Iterable[Message]) -> None:
        """Give up the claims that these calls have. Raises `StoreUnavailable`: then they still have them."""
        own = [
            Change(message.claim, (Equals(CALL, message.id.encode()),), (Delete(CALL),))
            for message in messages
            if message.claim
        ]
        try:
            if own:
                self._commit(own)
        except StoreUnavailable:
            raise
        except DrayError as error:
            logger.warning("%d call(s) keep others out until their claims lapse: %s", len(own), error)

    def unsent(self, messages: Iterable[Message]) -> None:
        """Give up the claims of calls that were not sent; while the store is away they lapse by themselves, soon."""
        with suppress(StoreUnavailable):
            self.release(messages)

    def _delay(self, message: Message) -> float:
        return 0.0 if message.eta is None else max(0.0, message.eta - self._app.clock.time())

    def _commit(self, changes: Iterable[Change]) -> Sequence[Answer]:
        """Commit, trying again for a moment: each of these changes may be made twice."""
        store, wanted = self._app.store("unique"), list(changes)
        for left in reversed(range(TRIES)):
            try:
                return store.commit(wanted)
            except StoreUnavailable:
                if not left:
                    raise
                self._app.clock.wait(threading.Event(), PAUSE)
        raise AssertionError("not reached")


def send_unique(task: Task[..., R], messages: Iterable[Message], options: Mapping[str, Any]) -> list[AsyncResult[R]]:
    """Send those calls of a unique task that are not there yet; return a handle on each, or on the one that is."""
    app, claims, rule = task.app, task.app.claims, task.resolved.unique
    assert rule is not None
    wanted = [claims.marked(task, rule, message) for message in messages]
    there = claims.make(rule, wanted) if wanted else []
    fresh = [message for message, id in zip(wanted, there, strict=True) if not id]
    if rule.on_conflict == "raise" and (existing := next(filter(None, there), "")):
        claims.unsent(fresh)
        raise AlreadySent(task.name, existing)
    try:
        sent = iter(app.sender.publish(fresh, task._writer(options), options) if fresh else ())
    except BaseException:
        claims.unsent(fresh)
        raise
    if fresh and options.get("connection") is None:
        # A transaction of the caller's may still be rolled back: then the claim is to lapse soon.
        claims.confirm(rule, fresh)
    handles = task._handles([message if id else next(sent) for message, id in zip(wanted, there, strict=True)])
    for handle, id in zip(handles, there, strict=True):
        if id and rule.on_conflict == "skip":
            handle.skipped, handle.ignored = True, True
        elif id:
            handle.existing, handle.id = True, id
    return handles
