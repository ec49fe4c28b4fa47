"""Stores what runs came to, each result in the backend of its task; what cannot be stored now waits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from . import states
from .entry import Entry
from .errors import BackendError, BackendUnavailable
from .outage import Outage
from .report import Failure, Kept, Report, rank, record
from .urls import mask

if TYPE_CHECKING:
    from .app import Dray

logger = logging.getLogger("dray.worker")


class ResultWriter:
    """Writes for one settler, on its thread; `wait` has outcomes wait for their backend, and returns them."""

    def __init__(self, app: Dray, wait: Callable[[list[Entry], list[Kept]], list[Entry]]) -> None:
        self._app = app
        self._wait = wait
        #: By the URL of the backend: "" is the app's own, tasks may have others.
        self.outages = {"": Outage("result backend", "backend", app)}

    def store(self, entries: list[Entry], notes: list[Kept]) -> list[Entry]:
        """Store reports and states, each in the backend of its task; return those that have to wait for theirs."""
        wanted = [entry for entry in entries if not entry.stored]
        places = {entry.job.task.resolved.backend for entry in wanted} | {note.backend for note in notes}
        if len(places) == 1:
            return self._at(places.pop(), wanted, notes)
        waiting, left = [], []
        for place in sorted(places):
            said = [note for note in notes if note.backend == place]
            here = [entry for entry in wanted if entry.job.task.resolved.backend == place]
            waiting += self._at(place, here, said)
            left += said
        notes[:] = left
        return waiting

    def _at(self, place: str, wanted: list[Entry], notes: list[Kept]) -> list[Entry]:
        outage = self.outages.get(place)
        if outage is None:
            outage = self.outages[place] = Outage(f"result backend {mask(place)}", "backend", self._app)
        if outage.away and self._app.clock.monotonic() < outage.next_try:
            return self._wait(wanted, notes)
        try:
            self._write(outage, place, [*notes, *map(self._record, wanted)])
        except BackendUnavailable as error:
            outage.lost(error)
            return self._wait(wanted, notes)
        except BackendError as error:
            return self._refused(outage, place, wanted, notes, error)
        notes.clear()
        for entry in wanted:
            entry.stored = True
        return []

    def _write(self, outage: Outage, place: str, records: Sequence[Kept]) -> None:
        if outage.away:
            self._app.connections.reopen_backend(place)
        self._app.connections.store_at(place, records, self._app.conf.result_expires)
        outage.found()

    def _record(self, entry: Entry, report: Report | None = None) -> Kept:
        job, report = entry.job, report or entry.ended.report
        assert report is not None
        message = job.message
        # What is refused without having begun yields to whatever an earlier delivery of the same attempt came to.
        place = rank(message, job.delivery.delivery_count if job.began else 0)
        return record(self._app, message.id, report, place, reply_to=message.reply_to)

    def _refused(
        self, outage: Outage, place: str, entries: list[Entry], notes: list[Kept], error: BackendError
    ) -> list[Entry]:
        """Store one by one what the backend refused together; return what has to wait.

        What it refuses by itself (too large, say) becomes a failure that says so. When it refuses even that, it is the
        backend that is at fault (a read-only disk, a right taken away): the rest waits, as in an outage.
        """
        if notes:
            logger.error("%d state(s) refused by the result backend are dropped: %s", len(notes), error)
            notes.clear()
        for position, entry in enumerate(entries):
            report = entry.ended.report
            assert report is not None
            try:
                try:
                    self._write(outage, place, [self._record(entry)])
                except BackendUnavailable:
                    raise
                except BackendError as reason:
                    self._write(outage, place, [self._record(entry, _unstorable(report, reason))])
                    logger.exception("%s[%s]: its result was refused", entry.job.message.task, entry.job.message.id)
            except BackendError as worse:
                outage.lost(worse)
                return self._wait(entries[position:], notes)
            entry.stored = True
        return []


def _unstorable(report: Report, reason: Exception) -> Report:
    """Return what is stored instead of a report that the backend does not take."""
    text = f"the result backend refused it: {reason}"
    failure = Failure(module="dray.errors", qualname="BackendError", text=text, args=(text,))
    state = states.FAILURE if report.state == states.SUCCESS else report.state
    return msgspec.structs.replace(report, state=state, failure=failure, value=b"", call=b"")
