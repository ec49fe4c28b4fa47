"""Fans: what waits until several calls have ended, kept in the store, so that no crash loses it or has it happen twice.

A fan is a partition. Its members report how they ended, each once; the report that decides it also says so there, in
one change, with the note that its consequences are to be delivered ("out"). Whoever finds that note delivers them:
the messages that follow have ids of their own, so that delivering twice is as good as once, and the note goes last.

    open --members report--> decided ("ok" or "err", out) --delivered--> done
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from . import states
from .endings import Onward, Told
from .errors import TaskOptionError
from .fan_records import (
    AGAIN,
    END,
    ERR,
    GRACE,
    INDEX,
    OK,
    OPEN,
    OUT,
    STALL,
    STALLED,
    START,
    Fan,
    encode,
    errbacks,
    fan_in,
    member_id,
    page_in,
)
from .fan_results import PAGE, members, part, told_in, unended
from .fan_retries import Repeated, Retries
from .followups import FAILURE_GIVEN, FailedCall, call_of, errback_front
from .message import Line, Message
from .report import Report, record
from .revocations import REVOKED_FOR, revoke
from .store import Absent, Add, Change, Changed, Delete, Equals, Index, Present, Put, Unindex

if TYPE_CHECKING:
    from .app import Dray
    from .report import Kept
    from .store import Store

logger = logging.getLogger("dray")

#: Seconds for which whoever sends a stream may be silent, and most members looked for at once.
STREAM_PATIENCE, MOST_LOOKED_FOR = 600.0, 1000
#: An instant (in 2096) that is later than any in the index.
EVER = 4e9

_indexes = msgspec.msgpack.Decoder(list[int]).decode


class _Overtaken(Exception):
    """Somebody else sends the members of the same fan, and has come further."""


class Fans:
    """What one app does with its fans. Thread-safe. Everything raises `StoreUnavailable` when the store is away."""

    def __init__(self, app: Dray) -> None:
        self._app = app
        #: Seconds for which a fan is kept after the last thing that happened to it.
        self.ttl = app.conf.flow_expires
        self._retries = Retries(app, self)

    @property
    def store(self) -> Store:
        """The store, or an error that says how to have one."""
        return self._app.store("a group that something waits for (a chord, or a group in a chain)")

    # What members tell

    def settle(self, ended: Sequence[tuple[Message, Onward]]) -> list[str]:
        """Write what the ends of calls mean for their fans; return the fans of which something is to be delivered.

        Safe to repeat: what was written before stays as it is.
        """
        kept = self._retries.kept
        ready = self.report([(m.fan, m.index, kept(m, on.told)) for m, on in ended if m.fan and on.told is not None])
        changes = {}
        for _, on in ended:
            if on.opens and on.input is not None:
                changes[on.opens] = self._opened(on.opens, on.input)
            elif on.lost and on.lost[-1].fan and on.told is not None:
                changes[on.lost[-1].fan] = self._abandoned(on.lost[-1].fan, on.told)
        if changes:
            done = self.store.commit(list(changes.values()))
            ready += [fan for fan, each in zip(changes, done, strict=True) if each.applied]
        return ready

    def _opened(self, fan: str, input: Told) -> Change:
        """Return what has a fan begin, with what it is given."""
        writes = (Put("input", encode(input)), Put("out", START), Index(INDEX, OUT, self.store.now() + GRACE))
        return Change(part(fan), (Absent("input"), Equals("state", OPEN)), writes, (), self.ttl)

    def report(self, reports: Sequence[tuple[str, int | str, Told]]) -> list[str]:
        """Tell fans how members ended; return those that are decided by it."""
        if not reports:
            return []
        keys = ("ended", "bad", "total", "state", "rule")
        current = self._retries.current(reports)
        changes = [
            Change(
                part(fan),
                (Absent(f"m/{index}"), Present("state"), *((current[n],) if n in current else ())),
                (Put(f"m/{index}", encode(told)), Add("ended"), *(() if told.ok else (Add("bad"),))),
                keys,
                self.ttl,
            )
            for n, (fan, index, told) in enumerate(reports)
        ]
        done = self.store.commit(changes)
        # Whoever was refused because the member was there looks as well: who put it there may have died before that.
        verdicts: dict[str, tuple[bytes, bytes]] = {}
        for (fan, index, told), each in zip(reports, done, strict=True):
            if not each.values.get("state"):
                logger.warning("%s[%s] belonged to a group that is not in the store any more", told.task, told.id)
            elif (verdict := _verdict(each)) is not None and verdicts.get(fan, (b"", b""))[0] != ERR:
                verdicts[fan] = verdict, str(index).encode() if each.applied and not told.ok else b""
        return self._decide(verdicts)

    def _decide(self, verdicts: dict[str, tuple[bytes, bytes]]) -> list[str]:
        """Decide fans, each with the member because of which it fails ("": one that failed before)."""
        if not verdicts:
            return []
        now = self.store.now()
        changes = []
        for fan, (verdict, why) in verdicts.items():
            if verdict == ERR and not why:
                why = self._first_bad(fan)
            # The claim and the note that there is something to deliver are one change: killed right after it, the
            # consequences are found by whoever looks into the index next.
            writes = (Put("state", verdict), Put("why", why), Put("out", END), Index(INDEX, OUT, now + GRACE))
            gone = Unindex(INDEX, STALL)
            changes.append(Change(part(fan), (Equals("state", OPEN),), (*writes, gone), (), self.ttl))
        done = self.store.commit(changes)
        return [fan for fan, each in zip(verdicts, done, strict=True) if each.applied]

    def _first_bad(self, fan: str) -> bytes:
        return next((b"%d" % index for index, told in members(self.store, fan) if not told.ok), b"")

    def _abandoned(self, fan: str, told: Told) -> Change:
        """Return what ends a fan that will never begin, because what comes before it failed. Nobody is called."""
        at = self.store.now() + GRACE
        writes = (Put("state", ERR), Put("cause", encode(told)), Put("out", END), Index(INDEX, OUT, at))
        return Change(part(fan), (Equals("state", OPEN),), (*writes, Unindex(INDEX, STALL)), (), self.ttl)

    def seal(self, fan: str, total: int, longest: int) -> list[str]:
        """Say how many members there are, now that all have been sent; return the fan if that decides it.

        `longest` is how many calls the longest of their lines has, as in `Fan`.
        """
        writes = (Put("total", b"%d" % total), Put("longest", b"%d" % longest))
        self.store.commit([Change(part(fan), (Absent("total"),), writes)])
        return self.recount(fan)

    def recount(self, fan: str) -> list[str]:
        """Return the fan if it is decided by what it has been told already."""
        keys = ("ended", "bad", "total", "state", "rule")
        verdict = _verdict(self.store.commit([Change(part(fan), reads=keys)])[0])
        return self._decide({fan: (verdict, b"")}) if verdict is not None else []

    def retry(self, id: str) -> Repeated:
        """Run the members of a fan again that have failed: see `Retries.retry`."""
        return self._retries.retry(id)

    def add(self, fan: str) -> int:
        """Make room for one more member, and return its number; raise `TaskOptionError` when the fan is decided.

        Killed between this and the sending of the member, the fan finds after a while that it is gone.
        """
        while True:
            values = self.store.get(part(fan), "total", "state")
            if values.get("state") not in (OPEN, AGAIN) or "total" not in values:
                raise TaskOptionError(f"the group {fan} takes no more members: it has been decided, or is being sent")
            more = Put("total", b"%d" % (int(values["total"]) + 1))
            checks = (Equals("total", values["total"]), Equals("state", values["state"]))
            if self.store.commit([Change(part(fan), checks, (more,), (), self.ttl)])[0].applied:
                return int(values["total"])

    # What follows

    def deliver(self, ready: Iterable[str]) -> None:
        """Deliver what is to be delivered of these fans, and of those that are decided by it. Safe to repeat."""
        ahead = list(ready)
        while ahead:
            ahead += self._deliver(ahead.pop())

    def _deliver(self, id: str) -> list[str]:
        values = self.store.get(part(id), "meta", "state", "why", "cause", "out", "given", "round")
        out = values.get("out")
        if out is None or "meta" not in values:
            return []
        fan = fan_in(values["meta"])
        more: list[str] = []
        try:
            if out == START:
                self._start(id, fan, values["given"].decode() if "given" in values else f"={id}", id)
            elif out == AGAIN:
                return self._retries.deliver(id, fan, int(values["round"]))
            elif values["state"] == OK:
                more = self._succeeded(id, fan)
            else:
                more = self._failed(id, fan, values)
        except _Overtaken:
            return []  # the note is that other one's to take away
        self.store.commit([Change(part(id), (Equals("out", out),), (Delete("out"), Unindex(INDEX, OUT)), (), self.ttl)])
        return more

    def _start(self, id: str, fan: Fan, given: str, note: str) -> None:
        """Send the members of a fan whose turn has come; `note` is the fan whose note is being delivered by that.

        Large ones take their time. So after each page the note is put off, for nobody else to begin with it too, and it
        is kept how far one has come: what others sent before they died need not be sent, and run, once more. Raises
        `_Overtaken` when somebody else has come further.
        """
        begun = self.store.get(part(id), "begun").get("begun")
        for page in range(int(begun or b"0"), fan.pages):
            first, lines = self._page(id, page)
            for line in lines:
                if line[0].fan:
                    self._open(line[0].fan, given, note)
            self.publish(
                self._call(fan, line, member_id(id, index), given, id, index)
                for index, line in enumerate(lines, first)
                if not line[0].fan
            )
            unchanged = Absent("begun") if begun is None else Equals("begun", begun)
            begun = b"%d" % (page + 1)
            later = Index(INDEX, OUT, self.store.now() + GRACE)
            counted, _ = self.store.commit(
                [
                    Change(part(id), (unchanged,), (Put("begun", begun),), (), self.ttl),
                    Change(part(note), (Present("out"),), (later,)),
                ]
            )
            if not counted.applied:
                raise _Overtaken(id)
        stall = Index(INDEX, STALL, self.store.now() + STALLED)
        self.store.commit([Change(part(id), (Equals("state", OPEN),), (stall,))])

    def _open(self, id: str, given: str, note: str) -> None:
        """Have a fan begin that gets what another fan came to, or got."""
        values = self.store.get(part(id), "meta", "state")
        if values.get("state") == OPEN:
            self._start(id, fan_in(values["meta"]), given, note)

    def _succeeded(self, id: str, fan: Fan) -> list[str]:
        calls = [self._call(fan, (step,), f"{id}-l{n}", id) for n, step in enumerate(fan.link)]
        if fan.then and not fan.then[0].fan:
            calls.append(self._call(fan, fan.then, f"{id}-b", id, fan.fan, fan.index))
        self.publish(calls)
        if fan.then:
            if fan.then[0].fan:
                self._open(fan.then[0].fan, id, id)
            return []
        return self.report([(fan.fan, fan.index, Told(id, states.SUCCESS, given=id))]) if fan.fan else []

    def _failed(self, id: str, fan: Fan, values: Mapping[str, bytes]) -> list[str]:
        quiet = "cause" in values
        if quiet:
            cause = told_in(values["cause"])
        else:
            key = f"m/{values['why'].decode()}"
            kept = self.store.get(part(id), key).get(key)
            cause = told_in(kept) if kept is not None else Told(id, states.FAILURE, reason="too few members succeeded")
        if not quiet:
            failed = FailedCall(id=cause.id, task=cause.task)
            # Of each round: what has been called under one id is not called again.
            round = f"r{int(values['round'])}" if "round" in values else ""
            self.publish(
                self._call(
                    fan, (step,), f"{id}-e{n}{round}", FAILURE_GIVEN, front=errback_front(step, failed, cause.failure)
                )
                for n, step in enumerate(errbacks(fan.link_error, fan.then))
            )
        if fan.cancel_rest and not quiet:
            self.cancel(id)
        cause = msgspec.structs.replace(cause, fan=id, call=b"")
        more = self._give_up([fan.then], cause, fan)
        # Those of its members that were to be sent later.
        for page in range(fan.pages if quiet else 0):
            more += self._give_up(self._page(id, page)[1], cause, fan)
        if fan.fan and not quiet:
            more += self.report([(fan.fan, fan.index, cause)])
        return more

    def cancel(self, id: str, signal: str | int | None = None) -> None:
        """Cancel the members that have not ended, wherever in their lines they are."""
        values = self.store.get(part(id), "total", "longest", "meta")
        longest = int(values["longest"]) if "longest" in values else fan_in(values["meta"]).longest
        left = unended(self.store, id, int(values.get("total", b"0")))
        while some := list(islice(left, PAGE)):
            ids = [name for names in self._names(id, some, longest or 1).values() for name in names]
            revoke(self._app.broker, ids, REVOKED_FOR, signal)

    def _names(self, id: str, indexes: Sequence[int], longest: int) -> dict[int, list[str]]:
        """Return under which ids the lines of members run."""
        names = {index: [member_id(id, index, place) for place in range(longest)] for index in indexes}
        return names | self._retries.ids(id, indexes)

    def _page(self, id: str, page: int) -> tuple[int, tuple[Line, ...]]:
        """Return members that are sent later: the number of the first, and their lines."""
        kept = self.store.get(part(id), f"page/{page}").get(f"page/{page}")
        return page_in(kept) if kept is not None else (0, ())

    def _give_up(self, lines: Sequence[Line], cause: Told, fan: Fan) -> list[str]:
        """Store of calls that they will not run, and end the fans among them; return those that end by it."""
        records = [lost for line in lines for lost in self.lost(line, cause, fan.reply_to)]
        if records:
            self._app.connections.store(records, self._app.conf.result_expires)
        folded = [line[-1].fan for line in lines if line and line[-1].fan]
        done = self.store.commit([self._abandoned(id, cause) for id in folded]) if folded else ()
        return [id for id, each in zip(folded, done, strict=True) if each.applied]

    def lost(self, line: Line, cause: Told, reply_to: str = "") -> Iterator[Kept]:
        """Yield what is stored about calls that will not run."""
        for step in line:
            id = step.options.get("task_id")
            if not id or step.options.get("ignore_result"):
                continue
            state = cause.state if cause.state in states.FINAL_STATES else states.FAILURE
            reason = cause.reason or f"{cause.task}[{cause.id}], which comes before it, has failed"
            report = Report(state=state, task=step.task, failure=cause.failure, reason=reason, parent_id=cause.id)
            yield record(self._app, id, report, 0, reply_to=reply_to)

    def _call(
        self,
        fan: Fan,
        line: Line,
        id: str,
        given: str,
        member_of: str = "",
        index: int = 0,
        front: tuple[Any, ...] = (),
    ) -> Message:
        """Return the message of the first call of a line."""
        message = call_of(
            self._app,
            line[0],
            id,
            front,
            root_id=fan.flow,
            parent_id=fan.parent_id,
            reply_to=fan.reply_to,
            headers=fan.headers,
        )
        message = message.but(chain=line[1:], fan=member_of, index=index)
        # Sent once more after a crash it is recognised: by what it is given, or by its id, which is made of the fan's.
        return message.but(idempotent=True) if line[0].immutable else message.but(given=given)

    def publish(self, messages: Iterable[Message]) -> None:
        """Send messages of flows, as they are."""
        app = self._app
        envelopes = [app.sender.enclose(message) for message in messages]
        size = app.broker.capabilities.max_publish_batch
        for start in range(0, len(envelopes), size):
            app.broker.publish(envelopes[start : start + size])

    # What got lost

    def sweep(self, limit: int = 100) -> None:
        """Deliver what others should have, and look for members that are gone without having told how they ended."""
        # Mostly there is nothing at all, now or later: then this is the only request.
        if not self.store.due(INDEX, EVER, 1):
            return
        now = self.store.now()
        for entry in self.store.due(INDEX, now, limit):
            id = entry.part.removeprefix("fan:")
            if entry.key == OUT:
                # Later again, should this fail: one that cannot be delivered must not keep others from it.
                again = Index(INDEX, OUT, now + STALLED)
                if self.store.commit([Change(entry.part, (Present("out"),), (again,))])[0].applied:
                    self.deliver([id])
            else:
                self.deliver(self._recount(id, now))

    def _recount(self, id: str, now: float) -> list[str]:
        """Look at a fan that has been open for long; return it if that decides it."""
        keys = ("ended", "bad", "total", "state", "rule", "meta", "missed", "moved", "longest")
        (seen,) = self.store.commit([Change(part(id), reads=keys)])
        values = seen.values
        if values.get("state") != OPEN:
            same = tuple(Equals("state", state) for state in [values.get("state")] if state is not None)
            self.store.commit([Change(part(id), same, (Unindex(INDEX, STALL),))])
            return []
        verdict = _verdict(seen)
        if verdict is not None:
            return self._decide({id: (verdict, b"")})
        if "total" not in values:
            if float(values.get("moved", b"0")) + STREAM_PATIENCE > now:
                self.store.commit([Change(part(id), (), (Index(INDEX, STALL, now + STALLED),))])
                return []
            told = Told(id, states.FAILURE, reason="whoever sent the group ended before all of it was sent")
            self.store.commit([Change(part(id), (Absent("m/sender"),), (Put("m/sender", encode(told)), Add("bad")))])
            return self._decide({id: (ERR, b"sender")})
        longest = int(values["longest"]) if "longest" in values else fan_in(values["meta"]).longest
        missing = self._missing(id, int(values["total"]), longest)
        before = frozenset(_indexes(values["missed"])) if "missed" in values else frozenset()
        later = (Put("missed", encode(missing)), Index(INDEX, STALL, now + STALLED))
        self.store.commit([Change(part(id), (Equals("state", OPEN),), later)])
        reason = "its message is gone, and nothing is stored about how it ended: its worker died, or it was deleted"
        return self.report(
            [(id, n, Told(member_id(id, n), states.FAILURE, reason=reason)) for n in missing if n in before]
        )

    def _missing(self, id: str, total: int, longest: int) -> list[int]:
        """Return which members have not ended, and are nowhere to be found."""
        broker = self._app.broker
        if not broker.capabilities.find or not longest:
            return []
        names = self._names(id, list(islice(unended(self.store, id, total), MOST_LOOKED_FOR)), longest)
        found = broker.find([name for some in names.values() for name in some])
        alive = {"ready", "delayed", "leased"}
        gone = [index for index, some in names.items() if not any(found.get(name) in alive for name in some)]
        # A group within its line may be what is waited for.
        inner = [(index, f"{member_id(id, index)}g{place}") for index in gone for place in range(longest)]
        states_of = self.store.commit([Change(part(fan), reads=("state",)) for _, fan in inner]) if inner else ()
        within = {index for (index, _), seen in zip(inner, states_of, strict=True) if "state" in seen.values}
        return [index for index in gone if index not in within]


def _verdict(seen: Changed) -> bytes | None:
    """Return what becomes of a fan as it stands: OK, ERR, or None: that is open still, or was decided before."""
    values = seen.values
    if values.get("state") != OPEN:
        return None
    total = int(values["total"]) if "total" in values else None
    ended, bad = int(values.get("ended", b"0")), int(values.get("bad", b"0"))
    rule = values["rule"].decode()
    if rule == "fail_fast" and bad:
        return ERR
    if total is None or ended < total:
        return None
    if rule == "wait":
        return ERR if bad else OK
    if rule in ("fail_fast", "collect", "ignore"):
        return OK
    return OK if not total or (total - bad) / total >= float(rule) else ERR
