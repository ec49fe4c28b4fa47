"""Recognises deliveries of calls that have succeeded already, so that they are settled and not run once more.

Looked at is what may have run before: what is delivered again, what carries an idempotency key, and what follows a
group. All others cost nothing here. What is to be refused is looked at too: what has succeeded did so before it
expired, was revoked, or was delivered too often, and its result stays.

Where the result backend does not answer, nothing is recognised and everything runs, at least once.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import states
from .backend import Record
from .errors import BackendError, DecodeError
from .job import Job
from .outcome import Expired, Rejected, Revoked
from .report import about, rank, read, record

if TYPE_CHECKING:
    from .app import Dray
    from .message import Message
    from .outcome import Outcome

logger = logging.getLogger("dray.worker")

#: Seconds for which a result backend that did not answer is not asked again: while it is waited for, nothing comes in.
LEFT_ALONE = 10.0

_NOBODY: frozenset[Any] = frozenset()
#: What triage may say of a message that this very call has nothing to fear from, if it is done.
_REFUSED = (Expired, Rejected, Revoked)


class Recognition:
    """Recognises what is done, for one worker. `look` is called by its source thread alone."""

    def __init__(self, app: Dray, worker: str) -> None:
        self._app = app
        self._worker = worker
        #: Queues of which every worker has a copy: what one has done is not done for the others.
        self._broadcast = frozenset(queue.name for queue in app.conf.task_queues or () if queue.broadcast)
        #: Result backends that did not answer, by URL: until when (monotonic) they are left alone.
        self._away: dict[str, float] = {}

    def look(self, looked: Iterable[tuple[Job, Outcome | None]]) -> frozenset[Any]:
        """Return the receipts of those jobs, among the ones that are to be run or refused, that are done: to be acked.

        For those to be run that carry a key and whose last call has failed, what is stored is forgotten: the new call
        counts. Never raises.
        """
        asked: list[Job] = []
        refused: set[Any] = set()
        for job, outcome in looked:
            if _may_have_run(job) and self._may_be(job):
                if outcome is None:
                    asked.append(job)
                elif isinstance(outcome, _REFUSED):
                    asked.append(job)
                    refused.add(job.delivery.receipt)
        if not asked:
            return _NOBODY
        done: list[Any] = []
        for url, some in self._by_backend(asked).items():
            if self._app.clock.monotonic() < self._away.get(url, 0.0):
                continue
            try:
                done += self._done(url, some, refused)
            except Exception as error:
                self._away[url] = self._app.clock.monotonic() + LEFT_ALONE
                logger.warning(
                    "%d task(s) that may have run before are run, for the result backend cannot tell: %s",
                    len(some),
                    error,
                    exc_info=None if isinstance(error, BackendError) else error,
                )
        return frozenset(done)

    def _may_be(self, job: Job) -> bool:
        """Tell whether a result of this very call can be stored."""
        return not job.message.ignore_result and job.delivery.queue not in self._broadcast

    def _done(self, url: str, jobs: Sequence[Job], refused: Container[Any]) -> list[Any]:
        app = self._app
        if self._away.pop(url, None) is not None:
            app.connections.reopen_backend(url)
        backend = app.connections.backend_at(url)
        if backend.address:
            return []  # it sends results to whoever asked, and keeps none
        stored = backend.fetch([job.message.id for job in jobs])
        new = [job for job in jobs if job.delivery.receipt not in refused]
        if stale := [job.message for job in new if _outranks(job, stored.get(job.message.id))]:
            backend.forget([message.id for message in stale])
            self._tell_pending(stale)
        return [job.delivery.receipt for job in jobs if self._is_done(job, stored.get(job.message.id))]

    def _by_backend(self, jobs: Sequence[Job]) -> Mapping[str, list[Job]]:
        own = self._app.connections.backend_url or ""
        places: dict[str, list[Job]] = {}
        for job in jobs:
            if place := job.task.resolved.backend or own:
                places.setdefault(place, []).append(job)
        return places

    def _is_done(self, job: Job, found: Record | None) -> bool:
        message = job.message
        # What an earlier attempt came to says nothing about a retry: that was asked for.
        if found is None or not found.final or found.rank >> 16 < message.retries:
            return False
        # What follows a group is sent once more if whoever sent it died right after; it ran, however it ended.
        # What was given up or refused never began (no delivery in its rank), and may have been promised anew since.
        sent_twice = message.given and job.delivery.delivery_count == 1 and found.rank & 0xFFFF
        if found.state != states.SUCCESS and not sent_twice:
            return False
        try:
            report = read(self._app, found)
        except DecodeError:
            return False  # planted, or sealed with a key that is not known here
        if report.reason:
            return False  # it succeeded, but what should follow it could not be sent: it belongs to the dead letters
        if not (message.idempotent or message.given) and (report.sent, report.queue) != (
            message.created,
            message.queue,
        ):
            return False  # another call under the same id, or the copy of this one in another queue
        logger.info("%s[%s] recognised: it has succeeded already", message.task, message.id)
        self._app.notify("task-recognised", message, self._worker)
        return True

    def _tell_pending(self, messages: Sequence[Message]) -> None:
        """Where the broker cannot tell a waiting task from an unknown id, store that these wait."""
        app = self._app
        if not app.broker.capabilities.find:
            waiting = [record(app, m.id, about(m, states.PENDING), 0, reply_to=m.reply_to) for m in messages]
            app.connections.store(waiting, app.conf.result_expires)


def _may_have_run(job: Job) -> bool:
    return bool(job.delivery.delivery_count > 1 or job.message.idempotent or job.message.given)


def _outranks(job: Job, found: Record | None) -> bool:
    """Tell whether what an earlier call for the same key came to would not let this one's result be stored."""
    if found is None or not job.message.idempotent or not found.final or found.state == states.SUCCESS:
        return False
    return job.message.retries == 0 and found.rank > rank(job.message, job.delivery.delivery_count)
