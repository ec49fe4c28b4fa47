"""What is thrown into a running task from outside: its soft time limit, its end. And the care that nothing else is hit.

A thread is hit at its next step of Python, wherever that is. So a job says while it runs the user's code that it may
be hit (`Job.exposed`), and `shelter` ends that time for good: what comes too late is caught there or taken back. And
a thread is not hit where it would do harm to others (`touchable`), but as soon as it has left there.
"""

from __future__ import annotations

import _thread
import asyncio
import logging
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Generator
from types import FrameType
from typing import TYPE_CHECKING, Any

from .errors import SoftTimeLimitExceeded

if TYPE_CHECKING:
    from .job import Job


class Interrupted(BaseException):
    """Raised in a task that must not go on. What becomes of it is decided already (`Job.verdict`)."""


#: What can be thrown into a running task.
THROWN = (SoftTimeLimitExceeded, Interrupted)
#: A thread that could not be hit is tried again so often, after so many seconds; and then now and then.
TIMES, SOON, LATER = 1500, 0.002, 0.1
#: Every so many tries threads may keep the interpreter for no longer than this (seconds).
PATIENCE, HASTE = 20, 0.00001

#: Held while something is thrown into a thread, and while a job makes sure that nothing more is.
_throwing = threading.Lock()
#: Threads into which something may have been thrown since their last `shelter`, and what.
_struck: dict[int, tuple[Job, type[BaseException]]] = {}
#: What the interpreter told of exceptions that nobody receives before we listened (None: we do not yet).
_reported: Callable[[sys.UnraisableHookArgs], Any] | None = None
#: How long a thread might keep it before that (`sys.getswitchinterval`; None: it may so now).
_leisure: float | None = None

_ENGINE = os.path.dirname(__file__)
_LOGGING = logging.__file__
#: How methods are called that take and give back a lock, and finalizers.
_BRIEF = {"acquire", "release", "_acquireLock", "_releaseLock", "__del__"}
#: Files of the engine whose frames may stand between it and the user's code.
_AROUND = {
    os.path.join(_ENGINE, name)
    for name in ("execution.py", "class_hooks.py", "task.py", "middleware.py", "shared.py", "canvas.py")
}


def throw(job: Job, error: type[BaseException]) -> None:
    """Raise `error` in the thread that runs `job`, at its next step of Python; never once the job has ended.

    A thread that waits inside an extension - for a lock, a socket, a sleep - takes that step when the wait is over.
    """
    _watch_for_swallowed()
    if not _strike(job, error):
        threading.Thread(target=_insist, args=(job, error), name="dray-interrupt", daemon=True).start()


def _watch_for_swallowed() -> None:
    """See to it that what hits a thread where nobody can receive it is thrown again.

    The interpreter calls Python in the middle of a task - finalizers, callbacks of weak references and of the garbage
    collector - and swallows what is raised there. It says so to one hook, once for the whole process.
    """
    global _reported
    if _reported is not None:
        return
    with _throwing:
        if _reported is not None:
            return
        _reported = before = sys.unraisablehook

        def again(unraisable: sys.UnraisableHookArgs) -> None:
            if not issubclass(unraisable.exc_type, THROWN):
                before(unraisable)
            elif (thrown := _struck.get(threading.get_ident())) is not None:
                # Not `threading.Thread`, which takes locks: this may be the middle of one that is being started.
                _thread.start_new_thread(_insist, thrown)

        sys.unraisablehook = again


def _insist(job: Job, error: type[BaseException]) -> None:
    """Try until the thread is at a place where it can be hit, or the job has ended.

    Threads that share a lock hand over the interpreter where they wait for the lock, sooner than they would be made to.
    Who looks then sees them there every time, if need be for ever: so now and then they are made to hand it over at
    any step. Not always: then others, too, would get in between the look and the throw.
    """
    tries, pause = 0, _thread.allocate_lock()
    pause.acquire()
    while not _strike(job, error):
        tries += 1
        if tries % PATIENCE == 0:
            _hurry(True)
        pause.acquire(True, SOON if tries < TIMES else LATER)


def _hurry(on: bool) -> None:
    """Have threads hand over the interpreter soon (HASTE); or again as they did before."""
    global _leisure
    with _throwing:
        if _leisure is None and on:
            _leisure = sys.getswitchinterval()
            sys.setswitchinterval(HASTE)
        elif _leisure is not None and not on:
            sys.setswitchinterval(_leisure)
            _leisure = None


def _strike(job: Job, error: type[BaseException]) -> bool:
    """Throw, if it can be done now; return whether there is nothing more to do."""
    from ctypes import c_ulong, py_object, pythonapi  # nobody needs it until a limit is exceeded

    # First of all: nobody takes the interpreter from us between the look and the throw.
    _hurry(False)
    with _throwing:
        thread = job.thread
        # Before the look: whoever ends the exposed time after it sees this, and waits for the lock.
        _struck[thread] = job, error
        if not job.exposed:
            return job.ran is not None or job.closed
        # The thread stands still as long as we keep the interpreter: where we see it is where it will be hit.
        frame = sys._current_frames().get(thread)
        if frame is None:
            return False
        step = frame.f_lasti
        if not touchable(frame, error):
            return False
        pythonapi.PyThreadState_SetAsyncExc(c_ulong(thread), py_object(error))
        if sys._current_frames().get(thread) is frame and frame.f_lasti == step:
            return True
        # We were interrupted ourselves, and it has moved on: perhaps to where it must not be hit. Taken back.
        pythonapi.PyThreadState_SetAsyncExc(c_ulong(thread), None)
        return False


def shelter(job: Job) -> None:
    """End the time in which something may be thrown into the job; raises nothing of what was thrown too late."""
    while True:
        try:
            job.exposed = False
            if job.thread not in _struck:
                return
            from ctypes import c_ulong, pythonapi

            with _throwing:
                _struck.pop(job.thread, None)
                # Thrown, and not yet raised: taken back.
                pythonapi.PyThreadState_SetAsyncExc(c_ulong(job.thread), None)
            return
        except THROWN:
            # It came between two steps. The thread can be hit once only, so the next round is the last.
            continue


def touchable(frame: FrameType | None, error: type[BaseException]) -> bool:
    """Return whether `error` may be raised in a thread that runs a task and is at this frame.

    Not while it takes or gives back a lock: for want of one step it would never be given back, and everybody who needs
    it would wait for ever. Not in a log handler or a finalizer, which swallow exceptions. Not in the engine: a task
    that sends another one, or asks for a result, uses a connection that it shares with all others.

    Up to Python 3.12 a thread is hit at the very step where it was seen, from 3.13 on at the next one. There a method
    of a lock that is written in Python can be hit as it begins to give the lock back; one written in C cannot.
    """
    if frame is None or frame.f_code.co_name in ("__enter__", "__exit__"):
        return False
    brief = False
    while frame is not None:
        name, file = frame.f_code.co_name, frame.f_code.co_filename
        if file in _AROUND:
            if name == "_attempt":
                break  # below it is nothing of the user's
        elif brief or os.path.dirname(file) == _ENGINE or (file == _LOGGING and issubclass(error, Exception)):
            return False
        else:
            brief = name in _BRIEF  # and whoever calls it is not the engine: it is no task of that name
        frame = frame.f_back
    return True


class Throwable:
    """A coroutine into which `Job.thrown` can be raised: `await Throwable(coroutine, job)`.

    asyncio can only cancel. The cancellation is taken for a sign to look at the job, and what stands there is raised at
    the point where the coroutine waits; without it, the cancellation goes on as it came.
    """

    def __init__(self, awaitable: Awaitable[Any], job: Job) -> None:
        self._awaitable = awaitable
        self._job = job

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._awaitable.__await__()
        answer: Any = None
        error: BaseException | None = None
        while True:
            try:
                waiting = steps.send(answer) if error is None else steps.throw(error)
            except StopIteration as end:
                return end.value
            answer = error = None
            try:
                answer = yield waiting
            except asyncio.CancelledError as cancelled:
                error = self._instead_of(cancelled)
            except BaseException as raised:
                error = raised

    def _instead_of(self, cancelled: asyncio.CancelledError) -> BaseException:
        thrown, task = self._job.thrown, asyncio.current_task()
        if thrown is None or not issubclass(thrown, Exception) or task is None:
            return cancelled
        self._job.thrown = None
        task.uncancel()
        return thrown()
