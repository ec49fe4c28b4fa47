"""The handle on a task that was sent (`AsyncResult`): looks at what is stored about it, or waits for that."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from . import states
from .clock import SystemClock
from .context import current
from .errors import (
    BlockingCallError,
    DecodeError,
    ResultTimeout,
    TaskExpired,
    TaskFailed,
    TaskRejected,
    TaskRevoked,
    UnknownResult,
)
from .lineage import Lineage
from .report import Report, read

if TYPE_CHECKING:
    from .app import Dray
    from .backend import Record

T = TypeVar("T")

#: Seconds of waiting before the first check that the broker knows of the task, and between two: most end before it.
AT_FIRST, STILL_THERE = 0.1, 5.0
#: Longest time (seconds) an `aget` may have to wait for the round in which others are being waited for.
ROUND = 0.02


_ENDS = {states.REVOKED: TaskRevoked, states.EXPIRED: TaskExpired, states.REJECTED: TaskRejected}


class AsyncResult(Lineage, Generic[T]):
    """A handle on a task that was sent: by `delay`, or made from an id anywhere, `app.AsyncResult(id)`.

    Every attribute looks at the backend anew until the state is final. Safe from any thread.
    """

    def __init__(self, id: str, app: Dray, *, ignored: bool = False, returns: Any = Any, backend: str = "") -> None:
        self.id = id
        self.app = app
        #: True when it is known that nothing is stored: `get()` returns None at once.
        self.ignored = ignored
        #: True: the task is unique, and this is the call that was there already; nothing was sent.
        self.existing = False
        #: True: the task is unique, a call was there already, and this one was not sent (`on_conflict="skip"`).
        self.skipped = False
        self._returns = returns
        self._backend = backend
        self._final: Report | None = None

    # Looking

    @property
    def state(self) -> str:
        """The state now: one of `dray.states` or the task's own. UNKNOWN when nobody has heard of the id."""
        report = self._report()
        return report.state if report else self._whereabouts()

    status = state

    @property
    def result(self) -> Any:
        """The value (SUCCESS), the exception (FAILURE, RETRY, REVOKED ...), the meta (PROGRESS ...), or None."""
        report = self._report()
        return None if report is None else self._value(report)

    info = result

    @property
    def traceback(self) -> str | None:
        """The traceback in the worker, as text, when it failed or is being retried."""
        report = self._report()
        return report.failure.traceback if report and report.failure else None

    def ready(self) -> bool:
        """Return whether it has ended, well or badly."""
        return self.state in states.FINAL_STATES and self._settled()

    def successful(self) -> bool:
        """Return whether it has ended with a value."""
        return self.state == states.SUCCESS and self._settled()

    def failed(self) -> bool:
        """Return whether it has ended with an exception."""
        return self.state == states.FAILURE and self._settled()

    def exists(self) -> bool:
        """Return whether anybody has heard of this id."""
        return self.state != states.UNKNOWN

    @property
    def name(self) -> str | None:
        """The task's name, once something is stored about it."""
        report = self._report()
        return report.task if report else None

    @property
    def args(self) -> tuple[Any, ...] | None:
        """The arguments it was sent with; stored only with `result_extended`."""
        call = self._call()
        return tuple(call[0]) if call else None

    @property
    def kwargs(self) -> dict[str, Any] | None:
        """The keyword arguments it was sent with; stored only with `result_extended`."""
        call = self._call()
        return call[1] if call else None

    @property
    def worker(self) -> str | None:
        """The worker that ran it last."""
        report = self._report()
        return report.worker if report else None

    @property
    def queue(self) -> str | None:
        """The queue it was sent to."""
        report = self._report()
        return report.queue if report else None

    @property
    def retries(self) -> int:
        """How many times it has been retried."""
        report = self._report()
        return report.retries if report else 0

    @property
    def date_sent(self) -> datetime | None:
        """When it was sent."""
        report = self._report()
        return _aware(report.sent) if report else None

    @property
    def date_started(self) -> datetime | None:
        """When its last run began."""
        report = self._report()
        return _aware(report.started) if report else None

    @property
    def date_done(self) -> datetime | None:
        """When it ended."""
        report = self._report()
        return _aware(report.ended) if report else None

    @property
    def children(self) -> list[AsyncResult[Any]]:
        """The tasks that it sent while it ran, known once it has ended."""
        report = self._report()
        return [AsyncResult(id, self.app) for id in report.children] if report else []

    # Waiting

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        disable_sync_subtasks: bool = True,
    ) -> T:
        """Wait for the end and return the value; raise what the task raised, or (propagate=False) return that.

        Raises ResultTimeout after `timeout` seconds, UnknownResult when nobody knows the id (or no more), and
        BlockingCallError inside a running event loop, where `await result.aget()` is the way, or inside a task,
        where waiting can take the very slot that the other task needs (`disable_sync_subtasks=False` insists).
        """
        if self.ignored:
            return None  # type: ignore[return-value]
        if self._final is None:
            self._may_block(disable_sync_subtasks)
        clock = self.app.clock
        end = math.inf if timeout is None else clock.monotonic() + timeout
        # On a clock that is moved by hand nothing might ever end that wait.
        look = AT_FIRST if isinstance(clock, SystemClock) else 0.0
        while self._final is None:
            left = max(0.0, end - clock.monotonic())
            found = self.app.backend_for_reading(self._backend).wait([self.id], min(look, left))
            if self._read(found.get(self.id)) is None and (over := self._over()) is not None:
                return _given(over, propagate)  # type: ignore[no-any-return]
            if self._final is None and left <= look:
                raise self._timeout(timeout)
            look = STILL_THERE
        return self._outcome(self._final, propagate)

    wait = get

    async def aget(self, timeout: float | None = None, propagate: bool = True) -> T:
        """`get` for coroutines. However many are waiting, one thread looks for all of them."""
        if self.ignored:
            return None  # type: ignore[return-value]
        try:
            async with asyncio.timeout(timeout):
                await asyncio.to_thread(self._report)
                while self._final is None:
                    if (over := await asyncio.to_thread(self._over)) is not None:
                        return _given(over, propagate)  # type: ignore[no-any-return]
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self.app.rounds(self._backend).next_look(self.id), STILL_THERE)
                    await asyncio.to_thread(self._report)
        except TimeoutError:
            raise self._timeout(timeout) from None
        assert self._final is not None
        return self._outcome(self._final, propagate)

    def __await__(self) -> Any:
        return self.aget().__await__()

    def forget(self) -> None:
        """Delete what is stored about it. The task itself goes on."""
        self._final = None
        self.app.backend_for_writing(self._backend).forget([self.id])

    def refresh(self) -> None:
        """Look anew at what is stored, even if it had ended: it may have been made to run again since."""
        self._final = None

    def revoke(self, *, terminate: bool = False, signal: str | int = "SIGTERM") -> None:
        """Cancel it, durably: it will not start, on any worker, before or after a restart; if it runs, it is told.

        With `terminate` it is ended if it runs: see `Dray.revoke`.
        """
        self.app.revoke(self.id, terminate=terminate, signal=signal)

    # Reading the report

    def _report(self) -> Report | None:
        if self._final is not None:
            return self._final
        return self._read(self.app.backend_for_reading(self._backend).fetch([self.id]).get(self.id))

    def _read(self, found: Record | None) -> Report | None:
        if found is None:
            return None
        report = read(self.app, found)
        if found.final:
            self._final = report
        return report

    def _settled(self) -> bool:
        return self._final is not None or (self._report() is None and self._whereabouts() in states.FINAL_STATES)

    def _whereabouts(self) -> str:
        state = self.app.whereabouts(self.id)
        if state != states.UNKNOWN:
            return state
        # It may have ended between the look at the backend and the look at the broker: results are stored before acks.
        report = self._report()
        return report.state if report else states.UNKNOWN

    def _over(self) -> Exception | None:
        """Return the error of a task that has ended without a stored result; raise when nobody knows the task."""
        if self._report() is not None:
            return None
        state = self._whereabouts()
        if state == states.UNKNOWN:
            raise UnknownResult(
                f"no task {self.id!r}: neither the result backend nor the broker knows it. It was never sent, its "
                "result has expired (result_expires), or it ran with ignore_result"
            )
        if self._final is None and state in states.FINAL_STATES:
            return _ENDS.get(state, TaskFailed)(f"task {self.id}: {state}, and no result was stored")
        return None

    def _value(self, report: Report) -> Any:
        if report.failure is not None:
            return report.failure.rebuild()
        if self._final is None or report.state == states.SUCCESS:
            if not report.value:
                return None
            return self._load(report.value, report.content_type, report.content_encoding)
        return _ENDS.get(report.state, TaskFailed)(report.reason or f"{report.task} {self.id}: {report.state}")

    def _load(self, data: bytes, content_type: str, content_encoding: str) -> Any:
        returns = self._returns
        if returns is Any and self._final is not None and self._final.task in self.app.tasks:
            returns = self.app.tasks[self._final.task].parameters.returns
        load = self.app.payloads.load
        try:
            return load(data, content_type, content_encoding, None if returns is Any else returns)
        except DecodeError:
            # A wrong return annotation must not cost the result.
            return load(data, content_type, content_encoding)

    def _call(self) -> Any:
        report = self._report()
        if report is None or not report.call:
            return None
        return self.app.payloads.load(report.call, report.call_type, report.call_encoding)

    def _outcome(self, report: Report, propagate: bool) -> T:
        value = self._value(report)
        failed = report.state != states.SUCCESS and isinstance(value, BaseException)
        return _given(value, propagate) if failed else value  # type: ignore[no-any-return]

    def _may_block(self, disable_sync_subtasks: bool) -> None:
        if asyncio._get_running_loop() is not None:
            raise BlockingCallError(
                "get() would stop the event loop it is called in; write `await result.aget()` (or `await result`)"
            )
        running = current.get()
        if disable_sync_subtasks and running is not None and not running.is_eager and not running.called_directly:
            raise BlockingCallError(
                "get() inside a task holds a slot while another task may need it; pass the result on with link=, "
                "or insist with get(disable_sync_subtasks=False)"
            )

    def _timeout(self, timeout: float | None) -> ResultTimeout:
        return ResultTimeout(f"task {self.id} has not ended within {timeout} s; its state is {self.state}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<AsyncResult {self.id}>"


class Rounds:
    """Looks for many results at once on behalf of the coroutines of one event loop."""

    def __init__(self, look: Callable[[list[str], float], Awaitable[Any]]) -> None:
        self._look = look
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._round: asyncio.Task[None] | None = None

    async def next_look(self, id: str) -> None:
        """Return when `id` may have changed; the caller looks for itself. Cancelling one caller disturbs no other."""
        future = self._waiting.get(id)
        if future is None:
            future = self._waiting[id] = asyncio.get_running_loop().create_future()
        if self._round is None or self._round.done():
            self._round = asyncio.create_task(self._run())
        await asyncio.shield(future)

    async def _run(self) -> None:
        while self._waiting:
            ids = list(self._waiting)
            try:
                found = await self._look(ids, ROUND)
            except Exception as error:
                self._wake(ids, error)
                continue
            self._wake([id for id in ids if id in found and found[id].final], None)

    def _wake(self, ids: list[str], error: Exception | None) -> None:
        for id in ids:
            future = self._waiting.pop(id)
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)


def _given(error: BaseException, propagate: bool) -> Any:
    """Raise an error, or return it."""
    if propagate:
        raise error
    return error


def _aware(instant: float | None) -> datetime | None:
    return datetime.fromtimestamp(instant, UTC) if instant else None
