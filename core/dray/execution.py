"""One run of one task: from a message in hand to an outcome, with all that has to be written for it.

decode arguments -> before_start -> call (through middleware) -> outcome -> hooks -> follow-ups and report

Everything of the user's runs here, on an executor's thread or loop; what comes out (`Ended`) is data, which settle.py
only has to store. `run` serves `def` tasks and `arun` `async def` tasks; they differ in the awaits alone.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any

import msgspec

from . import signalling, signals, states, webhooks
from .class_hooks import acall_hook, call_hook, hooks_after
from .codec import Packed
from .context import Context, current
from .endings import gone_on, stopped
from .errors import (
    ArgumentsError,
    DecodeError,
    Ignore,
    MaxRetriesExceeded,
    NotSupported,
    Reject,
    Replace,
    Retry,
    SoftTimeLimitExceeded,
    StoreError,
    StoreUnavailable,
)
from .fan_results import given
from .followups import FAILURE_GIVEN, errback_arguments, next_attempt, on_failure, on_success
from .interrupts import THROWN, Interrupted, Throwable, shelter
from .job import Ended, Job
from .lineage import Lineage
from .message import Delivery, Message
from .options import instant
from .outcome import Again, Done, Failed, HandedBack, Ignored, Outcome, Rejected, Released, Replaced, Requeued, Revoked
from .redaction import redacted
from .report import Failure, Kept, Report, about, rank, record
from .telling import tell, tell_begin
from .tracebacks import line, trace

if TYPE_CHECKING:
    from .app import Dray
    from .task import Task

logger = logging.getLogger("dray.task")

_with = msgspec.structs.replace

#: What came to no value.
_NOTHING = Packed(b"", "application/json", "")

#: Seconds after which a call whose arguments are in a store that is away is tried again.
STORE_PAUSE = 2.0


class Execution:
    """Runs the tasks of one app. Thread-safe; holds no state of a run."""

    def __init__(self, app: Dray, hostname: str = "", note: Callable[[Kept], None] | None = None) -> None:
        self.app = app
        self.hostname = hostname
        self._note = note
        self._time = app.clock.time
        #: Whether anybody wants to know of tasks that simply succeed (`attend`).
        self._heard = False
        #: Whether anybody is connected to the signals of runs (`attend`).
        self._signals = False
        #: Queues of which every worker has a copy: a retry would go to all, and to all again for each that fails.
        self._broadcast = {queue.name for queue in app.conf.task_queues or () if queue.broadcast}

    def attend(self) -> None:
        """Look whether anybody listens. Called before every batch, and not for every task of it."""
        self._heard = logger.isEnabledFor(logging.INFO) or self.app.listening
        self._signals = any(signal.receivers for signal in signals.OF_RUNS)

    def received(self, jobs: Sequence[Job]) -> None:
        """Say that a worker has messages in hand, and that they may run. Costs nothing when nobody wants to know."""
        listening, signalled = self.app.listening, signals.task_received.receivers
        for job in jobs if listening or signalled else ():
            self.app.notify("task-received", job.message, self.hostname)
            if signalled:
                request = Context(job.message, job.task, job.delivery.delivery_count, self.hostname)
                signalling.received(self.hostname, request)

    def run(self, job: Job) -> Ended:
        """Run a `def` task and return what it came to. Never raises, whatever the task does."""
        context, began, told = self._begin(job)
        token = current.set(context)
        try:
            refused = self._decode(job, context)
            ended = self._end(job, context, refused or self._attempt(job, context), began, told)
            if job.task.hooks:
                for hook, arguments in hooks_after(job, ended):
                    call_hook(context, hook, *arguments)
            if self._signals:
                self._signal_end(job, context, ended.outcome, refused is not None)
            return ended if type(ended.outcome) is Done else self._forgotten(ended)
        finally:
            current.reset(token)

    async def arun(self, job: Job) -> Ended:
        """Run an `async def` task and return what it came to. Never raises, whatever the task does."""
        context, began, told = self._begin(job)
        token = current.set(context)
        try:
            refused = await self._adecode(job, context)
            ended = self._end(job, context, refused or await self._aattempt(job, context), began, told)
            if job.task.hooks:
                for hook, arguments in hooks_after(job, ended):
                    await acall_hook(context, hook, *arguments)
            if self._signals:
                self._signal_end(job, context, ended.outcome, refused is not None)
            return ended if type(ended.outcome) is Done else self._forgotten(ended)
        finally:
            current.reset(token)

    def eagerly(self, task: Task[..., Any], message: Message) -> Report:
        """Run a task here and now: retries follow at once and are counted, callbacks run. Return the report."""
        self.attend()
        while True:
            delivery = Delivery(id=message.id, queue=message.queue, body=b"", receipt=None)
            job = Job(delivery, message.but(ignore_result=False), task, float("inf"))
            ended = _in_own_loop(self.arun, job) if task.is_async else self.run(job)
            if not isinstance(ended.outcome, Again):
                break
            (message,) = ended.followups
        for followup in ended.followups:
            if followup.task in self.app.tasks:
                self.eagerly(self.app.tasks[followup.task], followup)
            else:
                self.app.broker.publish([self.app.sender.enclose(followup)])
        return ended.report or about(message, states.PENDING)

    def judged(self, job: Job, outcome: Outcome, began: float) -> Ended:
        """Return what a job comes to that was ended from outside, or died, as if its own run had come to `outcome`."""
        context = job.context or Context(job.message, job.task, job.delivery.delivery_count, self.hostname)
        ended = self._end(job, context, outcome, began, self._heard)
        if self._signals:
            signalling.came_to(self.app, context, ended.outcome)
        return self._forgotten(ended)

    def refused(self, job: Job, error: Exception, delay: float | None) -> Ended:
        """Return what a job comes to that is not run: a retry after `delay`, while it has any left, or a failure."""
        outcome: Outcome = Failed(error, job.task.resolved.dead_letter)
        if delay is not None:
            outcome = self._again(job, Retry(exc=error, countdown=delay))
        return self.judged(job, outcome, self._time())

    def unrun(
        self, message: Message, outcome: Outcome, began: float | None = None, children: tuple[str, ...] = ()
    ) -> Ended:
        """Return what a message comes to that is expired, revoked or rejected: without being run, or while it ran."""
        match outcome:
            case Rejected(reason):
                state = states.REJECTED
            case Revoked(reason):
                state = states.REVOKED
            case _:
                state, reason = states.EXPIRED, "it was not started before its expires"
        ended = Ended(outcome)
        if not message.ignore_result:
            facts = {"started": began, "ended": self._time(), "worker": self.hostname, "children": children}
            ended.report = about(message, state, reason=reason, **facts)
        if message.chain or message.fan:
            ended.onward = stopped(message, state, None, reason)
        return self._followed(ended, on_failure, message, None) if isinstance(outcome, Rejected) else ended

    # The steps of a run

    def _begin(self, job: Job) -> tuple[Context, float, bool]:
        """Say that a job begins; return what it sees, when it was, and whether anybody wants to hear of it."""
        message, began, told = job.message, self._time(), self._heard
        context = job.context = Context(message, job.task, job.delivery.delivery_count, self.hostname, self._note)
        if job.cancelled:
            context.cancel()
        if job.task.resolved.track_started and not message.ignore_result and self._note is not None:
            report = about(message, states.STARTED, started=began, worker=self.hostname)
            place = rank(message, job.delivery.delivery_count)
            self._note(record(self.app, message.id, report, place, reply_to=message.reply_to))
        if told:
            tell_begin(self.app, self.hostname, message)
        return context, began, told

    def _decode(self, job: Job, context: Context) -> Outcome | None:
        """Put the arguments into the context; return an outcome only when that cannot be done."""
        try:
            args, kwargs, serializer = self.app.payloads.arguments(job.message)
            if job.message.given == FAILURE_GIVEN:
                args = errback_arguments(job.task, args)
            elif job.message.given:
                args = [given(self.app, job.message.given), *args]
            context.args, context.kwargs = job.task.parameters.bind(args, kwargs, serializer)
        except (DecodeError, ArgumentsError, NotSupported) as error:
            return Rejected(f"its arguments cannot be used: {error}")
        except StoreError as error:
            logger.warning("%s[%s] has to wait for its arguments: %s", job.message.task, job.message.id, error)
            return HandedBack(STORE_PAUSE)
        if self._signals:
            signalling.began(context)
        return None

    async def _adecode(self, job: Job, context: Context) -> Outcome | None:
        if not job.message.given:
            return self._decode(job, context)
        return await asyncio.to_thread(self._decode, job, context)

    def _signal_end(self, job: Job, context: Context, outcome: Outcome, refused: bool) -> None:
        if refused:
            signalling.not_run(context, outcome, known=True)
        else:
            signalling.ended(self.app, context, outcome, heard=not job.closed)

    def _attempt(self, job: Job, context: Context) -> Outcome:
        """Run the user's code, and say what it came to. Only meanwhile can something be thrown into this thread."""
        job.thread = get_ident()
        try:
            try:
                job.exposed = True
                if job.task.hooks:
                    call_hook(context, "before_start")
                if self.app.middleware:
                    value = self._call(job.task, context)
                else:
                    value = job.task.entry(*context.args, **context.kwargs)
                outcome = self._returned(job, context, value)
            except BaseException as error:
                outcome = self._classified(job, context, error)
            shelter(job)
        except THROWN as error:
            # Thrown at the last moment, it hit this method instead of the task. The task had reached its limit.
            shelter(job)
            outcome = self._classified(job, context, error)
        return outcome

    async def _aattempt(self, job: Job, context: Context) -> Outcome:
        job.exposed = True
        try:
            if job.task.hooks:
                await acall_hook(context, "before_start")
            call = self._acall(job.task, context)
            value = await (call if job.soft_time_limit is None else Throwable(call, job))
            outcome = self._returned(job, context, value)
        except BaseException as error:
            outcome = self._classified(job, context, error)
        job.exposed = False
        return outcome

    def _call(self, task: Task[..., Any], context: Context) -> Any:
        """Call a `def` task through middleware."""
        call: Callable[[Message], Any] = lambda message: task.entry(*message.args, **message.kwargs)  # noqa: E731
        for one in reversed(self.app.middleware):
            call = _around(one.execute, call)
        return call(_own_copy(context))

    async def _acall(self, task: Task[..., Any], context: Context) -> Any:
        if not self.app.middleware:
            return await task.entry(*context.args, **context.kwargs)

        async def innermost(message: Message) -> Any:
            return await task.entry(*message.args, **message.kwargs)

        call: Callable[[Message], Any] = innermost
        for one in reversed(self.app.middleware):
            call = _around(one.aexecute, call)
        return await call(_own_copy(context))

    def _returned(self, job: Job, context: Context, value: Any) -> Outcome:
        if job.verdict is not None:
            return job.verdict
        if job.cancelled:
            return Revoked("revoked while it ran")
        if context.pending_retry is not None:
            return self._raised(job, context, context.pending_retry)
        return Done(value)

    def _classified(self, job: Job, context: Context, error: BaseException) -> Outcome:
        try:
            return self._raised(job, context, error)
        except Exception as second:
            # The exception asked for something impossible, such as a retry at an eta that is no instant.
            return Failed(second, job.task.resolved.dead_letter)

    def _raised(self, job: Job, context: Context, error: BaseException) -> Outcome:
        """Say what an exception means. SystemExit and KeyboardInterrupt of a task fail that task, not the worker."""
        own = job.task.resolved
        if job.verdict is not None:
            if isinstance(job.verdict, Failed):
                # Where it was when it was ended.
                job.verdict.error.__traceback__ = error.__traceback__
            return job.verdict
        if isinstance(error, Interrupted):
            # Thrown at the task that runs this one eagerly: it is that one's end.
            raise error
        if isinstance(error, SoftTimeLimitExceeded) and not error.args:
            error.args = (f"{job.message.task} has run for its soft_time_limit of {job.soft_time_limit:g} s",)
        match error:
            case Retry() if job.delivery.queue in self._broadcast:
                return Failed(error.exc or error, own.dead_letter)
            case Retry():
                return self._again(job, error)
            case Reject():
                return Requeued(max(0.0, float(error.delay))) if error.requeue else Rejected(error.reason)
            case Ignore():
                return Ignored()
            case Replace():
                return Replaced(error.canvas)
        if job.cancelled:
            return Revoked("revoked while it ran")
        if job.stopping and isinstance(error, asyncio.CancelledError):
            return Released()
        opinion = self._opinion(error)
        if opinion == "drop":
            return Ignored()
        wanted = opinion == "retry" or (opinion is None and own.policy.wants(error))
        if wanted and job.delivery.queue not in self._broadcast:
            delay = own.policy.wait(job.message.retries)
            start = self.app.clock.time() + delay
            if own.policy.allows(job.message.retries, own.policy.max_retries, job.message.created, start):
                return Again(delay, error)
        return Failed(error, own.dead_letter)

    def _opinion(self, error: BaseException) -> Any:
        if not self.app.plugins.has("classify_error"):
            return None
        return self.app.plugins.observe("classify_error", error=error)

    def _again(self, job: Job, wish: Retry) -> Outcome:
        message, own, now = job.message, job.task.resolved, self.app.clock.time()
        if wish.eta is not None:
            delay = max(0.0, instant(wish.eta, now, "eta", message.task, self.app.zone) - now)
        elif wish.countdown is not None:
            delay = max(0.0, float(wish.countdown))
        else:
            delay = own.policy.wait(message.retries)
        limit = own.policy.max_retries if wish.max_retries is None else wish.max_retries
        if own.policy.allows(message.retries, limit, message.created, now + delay):
            return Again(delay, wish.exc or wish, wish.new_args, wish.new_kwargs)
        error = wish.exc or MaxRetriesExceeded(f"{message.task} asked for another retry after {message.retries}")
        return Failed(error, own.dead_letter)

    def _end(self, job: Job, context: Context, outcome: Outcome, began: float, told: bool) -> Ended:
        """Turn an outcome into what has to be written for it. A result that cannot be serialised is a failure."""
        message = job.message
        leads_on = message.link or message.chain or message.fan or job.task.resolved.webhooks
        if type(outcome) is Done and not told and message.ignore_result and not leads_on:
            return Ended(outcome)  # nothing to write: by far the most frequent end of tasks that are in a hurry
        try:
            if type(outcome) is Done:
                ended = self._succeeded(job, context, outcome, began)
            else:
                ended = self._unsuccessful(job, context, outcome, began)
        except StoreUnavailable as error:
            # What it has put in its place could not be kept: it runs again, and puts the same there once more.
            logger.warning("%s[%s] runs again, for the store is away: %s", message.task, message.id, error)
            ended = self._unsuccessful(job, context, HandedBack(STORE_PAUSE), began)
        except Exception as error:
            ended = self._unsuccessful(job, context, Failed(error, job.task.resolved.dead_letter), began)
        if told or type(ended.outcome) is not Done:
            tell(
                self.app,
                self.hostname,
                message,
                ended.outcome,
                self._time() - began,
                job.task.options.get("throws", ()),
            )
        return ended

    def _succeeded(self, job: Job, context: Context, outcome: Done, began: float) -> Ended:
        message, app, ended, packed = context.message, self.app, Ended(outcome), _NOTHING
        if isinstance(outcome.value, Lineage):
            outcome = ended.outcome = Done(str(outcome.value))  # a handle travels as the id that it stands for
        if not message.ignore_result or message.chain or message.fan:
            packed = app.payloads.dump(outcome.value, app.conf.result_serializer, app.conf.result_compression)
        if not message.ignore_result:
            ended.report = self._report(context, began, states.SUCCESS, packed)
        if message.chain or message.fan:
            ended.onward = gone_on(message, packed)
        sequel = message.link or message.chain or job.task.resolved.webhooks
        return self._followed(ended, on_success, message, outcome.value) if sequel else ended

    def _unsuccessful(self, job: Job, context: Context, outcome: Outcome, began: float) -> Ended:
        message, report = job.message, None
        wanted = not message.ignore_result
        match outcome:
            case Again(delay, error, args, kwargs):
                again = next_attempt(self.app, context, delay, args, kwargs)
                if wanted:
                    report = self._report(context, began, states.RETRY, failure=Failure.of(error, trace(error)))
                return Ended(outcome, report, (again,))
            case Failed(error, bury):
                stored = wanted or job.task.resolved.store_errors
                told = trace(error) if stored or bury else ""
                if stored:
                    report = self._report(context, began, states.FAILURE, failure=Failure.of(error, told))
                if bury:
                    outcome = Failed(error, bury, told)
                if not (message.chain or message.fan or message.link_error or job.task.resolved.webhooks):
                    return Ended(outcome, report)
                failure = Failure.of(error, told or trace(error))
                onward = stopped(message, states.FAILURE, failure) if message.chain or message.fan else None
                return self._followed(Ended(outcome, report, (), onward), on_failure, message, failure)
            case Rejected() | Revoked():
                return self.unrun(message, outcome, began, tuple(context.children))
            case Replaced(canvas):
                from .flows import replacement  # flows are made of tasks, whose run this is

                if wanted:
                    report = self._report(context, began, states.REPLACED)
                return Ended(outcome, report, replacement(self.app, message, canvas))
            case HandedBack(delay):
                eta = self._time() + min(delay, self.app.connections.capabilities.max_delay)
                return Ended(outcome, None, (message.but(handed_back=message.handed_back + 1, eta=eta),))
            case Ignored() if message.chain or message.fan:
                # Nothing is stored, but what waits for it must not wait for ever: it counts as None.
                none = self.app.payloads.dump(None, self.app.conf.result_serializer, None)
                return self._followed(Ended(outcome, None, (), gone_on(message, none)), on_success, message, None)
            case _:
                return Ended(outcome)

    def _report(
        self, context: Context, began: float, state: str, packed: Packed = _NOTHING, failure: Failure | None = None
    ) -> Report:
        """Return what is stored about a run that came to a value, a failure or a retry."""
        message = context.message
        report = Report(
            state=state,
            task=message.task,
            value=packed.data,
            content_type=packed.content_type,
            content_encoding=packed.content_encoding,
            failure=failure,
            sent=message.created,
            started=began,
            ended=self._time() if state in states.FINAL_STATES else None,
            retries=message.retries,
            worker=self.hostname,
            queue=message.queue,
            root_id=message.root_id,
            parent_id=message.parent_id,
            children=tuple(context.children),
        )
        if report.ended is None or not self.app.conf.result_extended:
            return report
        seen = redacted(self.app, message)
        return _with(report, call=seen.payload, call_type=seen.content_type, call_encoding=seen.content_encoding)

    def _followed(self, ended: Ended, callbacks: Callable[..., tuple[Message, ...]], *told: Any) -> Ended:
        """Add the callbacks. When they cannot be made - the message was forged, or a middleware raises - the message is

        kept in the dead letters rather than its sequel lost; the task's own result stands.
        """
        try:
            ended.followups = (*callbacks(self.app, *told), *webhooks.calls(self.app, told[0], ended.outcome))
        except Exception as error:
            reason = f"its callbacks cannot be sent: {line(error)}"
            ended.outcome = Rejected(reason)
            if ended.report is not None:
                # Delivered once more it must not be taken for done: its dead letter may not be there yet.
                ended.report = _with(ended.report, reason=reason)
        return ended

    def _forgotten(self, ended: Ended) -> Ended:
        """Cut the outcome loose from the frames of the run, so that they are freed at once."""
        if isinstance(ended.outcome, (Again, Failed)):
            ended.outcome.error.__traceback__ = None
        return ended


def _own_copy(context: Context) -> Message:
    """Return the message for middleware to look at and change, arguments decoded, headers not shared with anybody."""
    message = context.message
    return message.but(args=context.args, kwargs=context.kwargs, headers=dict(message.headers))


def _around(wrap: Callable[..., Any], call_next: Callable[[Message], Any]) -> Callable[[Message], Any]:
    return lambda message: wrap(message, call_next)


def _in_own_loop(run: Callable[[Job], Any], job: Job) -> Ended:
    """Run a coroutine to its end from wherever we are: where a loop is running already, in a thread of its own."""
    if asyncio._get_running_loop() is None:
        return asyncio.run(run(job))  # type: ignore[no-any-return]
    ended: list[Ended] = []
    thread = threading.Thread(target=lambda: ended.append(asyncio.run(run(job))), name="dray-eager")
    thread.start()
    thread.join()
    return ended[0]
