"""Runs again the members of a fan that have failed, so that what waits for them can go on after all.

Whoever asks first claims the fan: from then on nothing decides it until all of it is on its way. Killed in between,
the note that something is to be delivered stands in the store, and whoever sweeps next goes on where it ended:

    err --claimed--> again: results forgotten, members moved out of the way, their calls sent --> open
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from . import states
from .codec import pack
from .endings import Told
from .errors import DecodeError, NotSupported, UnknownResult
from .fan_records import AGAIN, END, ERR, GRACE, INDEX, OPEN, OUT, STALL, STALLED, Fan, encode, fan_in, page_in
from .fan_results import PAGE, members, part, told_in
from .message import Line, Message
from .report import Report, record
from .sealing import message_in
from .store import LOOK, Absent, Add, Change, Check, Delete, Equals, Index, Put, Unindex

if TYPE_CHECKING:
    from .app import Dray
    from .fans import Fans
    from .store import Store

#: What the ids of revoked calls end with that run again: their own are revoked for good.
_SUFFIX = re.compile(r"\.again-\d+$")


class Moved(msgspec.Struct, frozen=True, array_like=True):
    """How a member had ended that runs again, and in which round: the first, the second, ... time that this is done."""

    round: int
    told: Told


class Repeated(msgspec.Struct, frozen=True):
    """What was sent again."""

    #: How many calls.
    count: int = 0
    #: The ids of those that have another one now, and of what follows these in their lines.
    renamed: dict[str, str] = {}


_moved_in = msgspec.msgpack.Decoder(Moved).decode


class Retries:
    """What `Fans` does with members that are to run again."""

    def __init__(self, app: Dray, fans: Fans) -> None:
        self._app = app
        self._fans = fans

    @property
    def _store(self) -> Store:
        return self._fans.store

    def kept(self, message: Message, told: Told) -> Told:
        """Return how a call ended, with the call itself if it has failed and the store takes it."""
        if told.ok:
            return told
        body, sealing = pack(message), self._app.sealing
        whole = msgspec.structs.replace(
            told, call=body if sealing is None else sealing.seal(body, "message", message.id)
        )
        return whole if len(encode(whole)) <= self._store.capabilities.max_value_bytes else told

    def current(self, reports: Sequence[tuple[str, int | str, Told]]) -> dict[int, Check]:
        """Return what has to hold for reports of failures, by their places: that no later attempt was sent since.

        A call that is lent twice may end a second time, or be told of once more, when it was sent again already.
        """
        failed = {n: each for n, each in enumerate(reports) if not each[2].ok and each[2].call}
        if not failed:
            return {}
        seen = self._store.commit([Change(part(fan), reads=(f"again/{index}",)) for fan, index, _ in failed.values()])
        checks: dict[int, Check] = {}
        for (n, (_, index, told)), each in zip(failed.items(), seen, strict=True):
            key = f"again/{index}"
            later = key in each.values and not self._is_of(told, _moved_in(each.values[key]).told)
            checks[n] = Equals(key, each.values[key]) if later else Absent(key)
        return checks

    def _is_of(self, told: Told, moved: Told) -> bool:
        """Tell whether a report is about an attempt that was moved out of the way, or one before that."""
        try:
            return told.id == moved.id and not moved.fan and self._tries(told) <= self._tries(moved)
        except DecodeError:
            return False  # sealed with a key that is not known here: it counts, for a report must not get lost

    def _tries(self, told: Told) -> int:
        return message_in(self._app.sealing, told.call, told.id).retries

    def retry(self, id: str) -> Repeated:
        """Send the members of a fan again that have failed, and of the fans in it, and of those that it is in.

        Does nothing if none has, if somebody else does it, or if it has gone on without them.
        """
        id = self._outermost(id)
        failed = list(self._failed(id))
        if lost := [told for told in failed if not told.call]:
            raise NotSupported(
                f"{lost[0].task or 'the call'}[{lost[0].id}] cannot run again: the store does not have it, because its "
                "message was gone, or too large. Send it anew"
            )
        values = self._store.get(part(id), "meta", "ended", "total")
        if (
            failed
            and fan_in(values["meta"]).cancel_rest
            and int(values.get("ended", b"0")) < int(values.get("total", b"0"))
        ):
            raise NotSupported(
                f"not yet: members of the group {id} that were cancelled have not ended, and would have it fail again"
            )
        if not self.claim(id):
            return Repeated()
        self._fans.deliver([id])
        renamed: dict[str, str] = {}
        for told in failed:
            if told.state == states.REVOKED:
                renamed |= self._renamed(told)
        return Repeated(len(failed), renamed)

    def claim(self, id: str) -> bool:
        """Have nothing decide a fan of which members failed until they have been sent again; False: there are none.

        Of any number of callers one is told True.
        """
        store = self._store
        values = store.get(part(id), "state", "bad", "total")
        if values.get("state") not in (OPEN, ERR) or int(values.get("bad", b"0")) <= 0 or "total" not in values:
            return False
        # What it came to has been delivered ("out" is gone): nobody gives up any more what is promised anew now.
        checks = (Equals("state", values["state"]), Equals("bad", values["bad"]), Absent("out"), Absent("cause"))
        note = Index(INDEX, OUT, store.now() + GRACE)
        writes = (
            Put("state", AGAIN),
            Put("out", AGAIN),
            Add("round"),
            note,
            Delete("missed"),
            Delete("cancelled"),
            Unindex(INDEX, STALL),
        )
        return store.commit([Change(part(id), checks, writes, (), self._fans.ttl)])[0].applied

    def deliver(self, id: str, fan: Fan, round: int) -> list[str]:
        """Send again what failed, and have the fan go on; return the fans of which something is to be delivered.

        Safe to repeat: what was moved stays so, and what was sent has the same id and attempt.
        """
        store = self._store
        total = int(store.get(part(id), "total")["total"])
        pages = [range(start, min(total, start + PAGE)) for start in range(0, total, PAGE)]
        self._promise([fan.then])
        for indexes in pages:
            self._move(id, indexes, round)
        more = [inner for indexes in pages for inner in self._send(id, indexes, round)]
        checks = (Equals("out", AGAIN), Equals("round", b"%d" % round))
        looked = Index(INDEX, STALL, store.now() + STALLED)
        writes = (Put("state", OPEN), Delete("out"), Unindex(INDEX, OUT), looked)
        store.commit([Change(part(id), checks, writes, (), self._fans.ttl)])
        # Those that have ended meanwhile could not decide it.
        return [*more, *self._fans.recount(id)]

    def ids(self, id: str, indexes: Sequence[int]) -> dict[int, list[str]]:
        """Return under which ids those members of a fan run that were sent again."""
        keys = {index: f"again/{index}" for index in indexes}
        kept = self._store.get_many(part(id), [*keys.values()])
        lines = {index: self._line(_moved_in(kept[key]).told) for index, key in keys.items() if key in kept}
        return {index: line for index, line in lines.items() if line}

    # Which one it is

    def _outermost(self, id: str) -> str:
        """Return the fan with which it began: one that this one is in, or that comes before it, if that failed."""
        while True:
            self._wait_until_delivered(id)
            values = self._store.get(part(id), "meta", "cause")
            if "meta" not in values:
                raise UnknownResult(
                    f"no group {id!r} in the store: nothing waits for it (a body, a callback, or an on_error= does), "
                    "or that was longer ago than flow_expires"
                )
            fan = fan_in(values["meta"])
            key = f"m/{fan.index}"
            told = self._store.get(part(fan.fan), key).get(key) if fan.fan else None
            if told is not None and not told_in(told).ok:
                id = fan.fan
            elif "cause" in values:
                cause = told_in(values["cause"])
                if not cause.fan:
                    raise NotSupported(
                        f"{cause.task}[{cause.id}], which comes before the group, has failed, and belongs to no group "
                        "itself: nothing keeps such calls. Send the whole anew"
                    )
                id = cause.fan
            else:
                return id

    def _wait_until_delivered(self, id: str) -> None:
        """Wait until what a failed fan led to has been delivered; do it if nobody does."""
        store = self._store
        for _ in range(int(GRACE / LOOK)):
            if store.get(part(id), "out").get("out") != END:
                return
            store.watch(part(id), LOOK)
        self._deliver_end(id)

    def _deliver_end(self, id: str) -> None:
        if self._store.get(part(id), "out").get("out") == END:
            self._fans.deliver([id])

    def _failed(self, id: str) -> Iterator[Told]:
        """Yield the calls because of which a fan, or the fans in it, are not complete."""
        for _, told in members(self._store, id):
            if told.fan:
                yield from self._failed(told.fan)
            elif not told.ok:
                yield told

    # Sending it

    def _move(self, id: str, indexes: Iterable[int], round: int) -> None:
        """Have members count as not ended that have failed, once in each round.

        First what is stored about them is forgotten: from the move on they may run, and end.
        """
        kept = self._store.get_many(part(id), [f"{kind}/{index}" for index in indexes for kind in ("m", "again")])
        failed = {index: told_in(kept[f"m/{index}"]) for index in indexes if f"m/{index}" in kept}
        failed = {n: told for n, told in failed.items() if not told.ok and not _is_moved(kept, n, round)}
        for told in failed.values():
            if told.fan:
                # Delivered later, it would tell this fan once more that it has failed.
                self._deliver_end(told.fan)
        messages = [self._message(told) for told in failed.values() if told.call]
        self._forget([(message.id, message.task) for message in messages if not message.ignore_result])
        self._promise([message.chain for message in messages])
        changes = []
        for index, told in failed.items():
            was, now = f"m/{index}", f"again/{index}"
            unmoved = Equals(now, kept[now]) if now in kept else Absent(now)
            checks = (Equals("round", b"%d" % round), Equals(was, kept[was]), unmoved)
            writes = (Put(now, encode(Moved(round, told))), Delete(was), Add("ended", -1), Add("bad", -1))
            changes.append(Change(part(id), checks, writes, (), self._fans.ttl))
        if changes:
            self._store.commit(changes)

    def _send(self, id: str, indexes: Iterable[int], round: int) -> list[str]:
        """Send those that were moved and have not ended again; return the fans among them."""
        kept = self._store.get_many(part(id), [f"{kind}/{index}" for index in indexes for kind in ("m", "again")])
        left = [n for n in indexes if _is_moved(kept, n, round) and f"m/{n}" not in kept]
        ends = [_moved_in(kept[f"again/{index}"]).told for index in left]
        self._fans.publish(self._message(told) for told in ends if told.call)
        return [told.fan for told in ends if told.fan and self.claim(told.fan)]

    def _message(self, told: Told) -> Message:
        """Return the next attempt of a call that has failed, whatever its time was and however often it was tried."""
        message = message_in(self._app.sealing, told.call, told.id)
        # Idempotent: sent once more after a crash it is recognised, should it have succeeded in between.
        message = message.but(retries=message.retries + 1, eta=None, expires=None, turn=None, idempotent=True)
        if told.state != states.REVOKED:
            return message
        names = self._renamed(told)
        chain = [
            step
            if step.fan
            else msgspec.structs.replace(step, options={**step.options, "task_id": names[step.options["task_id"]]})
            for step in message.chain
        ]
        return message.but(id=names[told.id], chain=tuple(chain))

    def _renamed(self, told: Told) -> dict[str, str]:
        """Return the ids under which a revoked call and those after it in its line run again."""
        message = message_in(self._app.sealing, told.call, told.id)
        ids = [message.id, *(step.options["task_id"] for step in message.chain if not step.fan)]
        return {id: f"{_SUFFIX.sub('', id)}.again-{message.retries + 1}" for id in ids}

    def _line(self, told: Told) -> list[str]:
        """Return the ids of a call that was sent again, and of those after it in its line."""
        if not told.call:
            return []
        message = self._message(told)
        return [message.id, *(step.options["task_id"] for step in message.chain if not step.fan)]

    # What was given up, and comes after all

    def _promise(self, lines: Iterable[Line]) -> None:
        """Forget that calls were given up, and have the fans among them wait again for their turn."""
        steps = [step for line in lines for step in line]
        self._forget(
            (step.options["task_id"], step.task)
            for step in steps
            if not step.fan and not step.options.get("ignore_result")
        )
        for step in steps:
            if step.fan:
                self._revive(step.fan)

    def _revive(self, id: str) -> None:
        """Have a fan that was given up before it began wait again for its turn."""
        values = self._store.get(part(id), "meta", "state", "cause")
        if values.get("state") != ERR or "cause" not in values:
            return
        self._deliver_end(id)
        fan = fan_in(values["meta"])
        kept = self._store.get_many(part(id), [f"page/{page}" for page in range(fan.pages)])
        # First what comes after it: killed in between, this is done again as long as it counts as given up.
        self._promise([fan.then, *(line for page in kept.values() for line in page_in(page)[1])])
        checks = (Equals("state", ERR), Equals("cause", values["cause"]))
        writes = (Put("state", OPEN), Delete("cause"))
        self._store.commit([Change(part(id), checks, writes, (), self._fans.ttl)])

    def _forget(self, calls: Iterable[tuple[str, str]]) -> None:
        """Forget how calls (id, task) have ended, and store that they will come."""
        app, records = self._app, []
        places: dict[str, list[str]] = {}
        for id, task in calls:
            if place := app.backend_url_of(task) or app.connections.backend_url:
                places.setdefault(place, []).append(id)
                records.append(record(app, id, Report(state=states.PENDING, task=task), 0))
        for place, ids in places.items():
            app.connections.backend_at(place).forget(ids)
        if records:
            app.connections.store(records, app.conf.result_expires)


def _is_moved(kept: Mapping[str, bytes], index: int, round: int) -> bool:
    """Tell whether a member was moved out of the way in this round."""
    key = f"again/{index}"
    return key in kept and _moved_in(kept[key]).round == round
