"""Runs a canvas here and now, one call after the other: what fans.py does with a store, by the same rules.

No message, no store: for tests, and for programs that switch the queue off (`task_always_eager`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from . import states
from .builtin_tasks import install
from .canvas import Canvas, Chain, Group, Signature, steps
from .endings import Ending
from .errors import NotSupported
from .fan_records import errbacks
from .followups import FAILURE_GIVEN, FailedCall, call_of, errback_front
from .group_result import GroupResult
from .message import Step
from .report import Failure

if TYPE_CHECKING:
    from .app import Dray
    from .result import AsyncResult


def run(app: Dray, canvas: Canvas, args: tuple[Any, ...] = ()) -> Any:
    """Run a canvas, with these arguments in front of its first call's own; return the handle on its end."""
    install(app)
    return _line(app, canvas._flat() if isinstance(canvas, Chain) else [canvas], args)


def _line(app: Dray, items: Sequence[Canvas], args: tuple[Any, ...]) -> Any:
    found: Any = None
    for item, following in zip_longest(items, items[1:]):
        before = found
        if isinstance(item, Signature):
            call = item.clone(args)
            found = app.tasks[call.task].apply(call.args, call.kwargs, **call.options)
            given = (found.get(),) if found.successful() else None
        else:
            assert isinstance(item, Group)
            found, given = _group(app, item, args, following)
        found.parent = before
        if given is None:
            break  # what comes after a failure has failed with it
        args = given
    return found


def _group(
    app: Dray, group: Group, args: tuple[Any, ...], following: Canvas | None
) -> tuple[GroupResult, tuple[Any] | None]:
    """Run a group; return the handle on it, and what follows gets of it: None if it has failed."""
    made = GroupResult(app.new_id(), [run(app, member, args) for member in group.tasks], app)
    ends = [_end(member) for member in made.results]
    well, rule = [end.value for end in ends if end.ok], group.on_failure
    if isinstance(rule, str):
        failed = rule in ("fail_fast", "wait") and len(well) < len(ends)
    else:
        failed = bool(ends) and len(well) / len(ends) < rule
    if not failed:
        given = ends if rule == "collect" else well
        if rule == "collect" and following is not None and len(well) < len(ends):
            raise NotSupported(
                'task_always_eager: what follows a group with on_error="collect" gets exceptions, and those come from '
                "a store only: run it with a worker (`with app.worker(): ...`), on memory:// if need be"
            )
        for callback in group.callbacks:
            run(app, callback, (given,))
        return made, (given,)
    leaf = next(leaf for leaf in map(_failed_call, made.results) if leaf is not None)
    then = (following.to_step(app),) if isinstance(following, Signature) else ()
    for step in errbacks(steps(group.errbacks, "link_error", app), then):
        _call_errback(app, step, leaf)
    return made, None


def _end(result: AsyncResult[Any] | GroupResult) -> Ending:
    """Return how a member has ended."""
    leaf = _failed_call(result)
    if leaf is None:
        return Ending(result.id, states.SUCCESS, result.get())
    error = leaf.result
    return Ending(leaf.id, leaf.state, None, error if isinstance(error, BaseException) else None)


def _failed_call(result: AsyncResult[Any] | GroupResult) -> AsyncResult[Any] | None:
    """Return the call that has failed, of a group the first one; None if all is well."""
    if result.successful():
        return None
    if isinstance(result, GroupResult):
        return next(leaf for leaf in map(_failed_call, result.results) if leaf is not None)
    return result


def _call_errback(app: Dray, step: Step, failed: AsyncResult[Any]) -> None:
    error = failed.result
    failure = Failure.of(error, failed.traceback or "") if isinstance(error, BaseException) else None
    front = errback_front(step, FailedCall(id=failed.id, task=failed.name or ""), failure)
    message = call_of(app, step, app.new_id(), front, root_id=None, parent_id=failed.id, reply_to="")
    message = message.but(given="" if step.immutable else FAILURE_GIVEN)
    if step.task in app.tasks:
        app.execution.eagerly(app.tasks[step.task], message)
    else:
        app.broker.publish([app.sender.enclose(message)])
