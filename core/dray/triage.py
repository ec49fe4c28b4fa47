"""Triage: one look at the metadata of what comes in: may it run here, and if not, what becomes of it.

Nothing that a message can carry gets past here as an exception: it would end one worker after the other.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from . import signalling, signals
from .codec import MAX_METADATA, unpack
from .context import Context
from .errors import ContentNotAccepted, DecodeError, UnknownPlugin
from .execution import Execution
from .job import Ended, Job
from .message import Delivery, Message
from .outcome import Expired, HandedBack, Outcome, Rejected, Revoked
from .report import Failure
from .task import Task
from .telling import tell
from .urls import nearest

if TYPE_CHECKING:
    from .app import Dray

logger = logging.getLogger("dray.worker")

#: Seconds for which an unknown task stays away when it is handed back.
UNKNOWN_PAUSE = 5.0


class Triage:
    """Looks at the deliveries of one worker. `look` is called by its source thread, `unrun` by any."""

    def __init__(self, app: Dray, execution: Execution) -> None:
        self.app = app
        self._execution = execution
        # Looked up here: a key that is missing is an error of the worker that starts, and not of each message.
        self._sealing = app.sealing
        #: Content types that may be read, as far as they have come.
        self._readable: set[str] = set()

    def look(self, deliveries: Sequence[Delivery], lease_until: float) -> list[tuple[Job, Outcome | None]]:
        """Read the metadata of a batch; with each job comes an outcome at once if it must not, or cannot, be run."""
        app, now = self.app, self.app.clock.time()
        tasks, limit, sealing = app.tasks, app.conf.task_max_message_bytes, self._sealing
        counts = app.broker.capabilities.delivery_count
        looked: list[tuple[Job, Outcome | None]] = []
        for delivery in deliveries:
            try:
                if len(delivery.body) > limit + MAX_METADATA:
                    raise DecodeError(
                        f"{len(delivery.body):,} bytes are more than task_max_message_bytes allows ({limit:,})"
                    )
                message = unpack(delivery.body) if sealing is None else sealing.message(delivery.body, delivery.id)
            except (DecodeError, ValueError, RecursionError) as error:
                unreadable = Message(id=delivery.id, task="(unreadable)", queue=delivery.queue, ignore_result=True)
                outcome = Rejected(f"unreadable: {error}")
                looked.append((Job(delivery, unreadable, self._no_task, lease_until), outcome))
                continue
            if not message.queue:
                # It came through an exchange. From here on, retries included, it is this queue's alone.
                message = message.but(queue=delivery.queue, exchange="", routing_key="")
            task = tasks.get(message.task)
            if task is None:
                looked.append((Job(delivery, message, self._no_task, lease_until), self._unknown(message)))
                continue
            job = Job(delivery, message, task, lease_until)
            if (
                delivery.cancelled
                or message.expires is not None
                or (counts and delivery.delivery_count > task.resolved.max_deliveries)
                or message.content_type not in self._readable
            ):
                looked.append((job, self._refused(job, now, counts)))
            else:
                looked.append((job, None))
        return looked

    def _refused(self, job: Job, now: float, counts: bool) -> Outcome | None:
        """Return what becomes of a job that there may be something about; None if it may be run all the same."""
        delivery, message = job.delivery, job.message
        if delivery.cancelled:
            return Revoked()
        if message.expires is not None and message.expires <= now:
            return Expired()
        if counts and delivery.delivery_count > job.task.resolved.max_deliveries:
            return Rejected(
                f"delivered {delivery.delivery_count} times without an end (max_deliveries is "
                f"{job.task.resolved.max_deliveries}): each time the worker died or lost its lease"
            )
        try:
            self.app.payloads.reader(message.content_type)
        except (ContentNotAccepted, UnknownPlugin) as error:
            return Rejected(f"not decoded: {error}")
        self._readable.add(message.content_type)
        return None

    def unrun(self, job: Job, outcome: Outcome) -> Ended:
        """Return what is to be written for a job that was not run. Never raises, whatever its message carries."""
        tell(self.app, self._execution.hostname, job.message, outcome)
        if any(signal.receivers for signal in signals.OF_REFUSALS):
            context = job.context or Context(
                job.message, job.task, job.delivery.delivery_count, self._execution.hostname
            )
            signalling.not_run(context, outcome, known=job.task is not self._no_task)
        if isinstance(outcome, HandedBack):
            # Sent again rather than requeued, which would count: the worker that knows it shall have all its tries.
            again, eta = job.message.handed_back + 1, self.app.clock.time() + outcome.delay
            return Ended(outcome, None, (job.message.but(handed_back=again, eta=eta),))
        try:
            return self._execution.unrun(job.message, outcome)
        except Exception as error:
            # A forged or foreign callback: bury the message rather than let it kill one worker after the other.
            logger.exception("%s[%s]: its callbacks cannot be built", job.message.task, job.message.id)
            reason = outcome.reason if isinstance(outcome, Rejected | Revoked) else "expired"
            return Ended(Rejected(f"{reason}; and its callbacks cannot be built: {told(error)}"))

    def _unknown(self, message: Message) -> Outcome:
        """Hand an unknown task back for as long as a deploy may take, then bury it."""
        grace = self.app.conf.task_unknown_grace
        pause = min(UNKNOWN_PAUSE, grace, self.app.broker.capabilities.max_delay)
        # Counted by the times it was handed back, and not from when it was sent: that may be long ago, and by the clock
        # of another host. Without a pause it is never handed back, or it would circle.
        waits = 0 if message.turn is None else message.turn.waits
        if pause and (message.handed_back - waits) * pause < grace:
            return HandedBack(pause)
        hint = nearest(message.task, self.app.tasks)
        return Rejected(f"unknown task {message.task!r}: this worker has no task of that name{hint}")

    @cached_property
    def _no_task(self) -> Task[Any, Any]:
        """What stands in for the task of a message that has none here."""
        return Task(self.app, lambda: None, {"name": "(none)"})


def told(error: BaseException) -> str:
    """Return an exception as text, whatever its own methods do."""
    failure = Failure.of(error)
    return f"{failure.qualname}: {failure.text}"
