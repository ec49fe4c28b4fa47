"""Tells logs and listeners that a call begins, and what it has come to."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from .errors import Retry
from .message import Message
from .outcome import Again, Done, Failed, Outcome, Rejected, Revoked
from .tracebacks import line
from .tracebacks import shown as exc_info

if TYPE_CHECKING:
    from .app import Dray

logger = logging.getLogger("dray.task")


def tell_begin(app: Dray, hostname: str, message: Message) -> None:
    """Write one line and send one event for a call that begins now."""
    if logger.isEnabledFor(logging.INFO):
        _log(logging.INFO, "%s[%s] began", (message.task, message.id), _facts(message, "began"))
    app.notify("task-started", message, hostname)


def tell(
    app: Dray,
    hostname: str,
    message: Message,
    outcome: Outcome,
    runtime: float | None = None,
    expected: Any = (),
) -> None:
    """Write one line and send one event for a message that has come to something, run (for `runtime` s) or not.

    A failure with one of the `expected` exceptions is part of the work and shows no traceback.
    """
    level, verb, rest, shown = logging.INFO, type(outcome).__name__.lower(), "", None
    match outcome:
        case Done():
            verb = "succeeded"
        case Again(delay, error):
            asked = type(error) is Retry and error.exc is None
            level, verb = logging.WARNING, "retried"
            rest = f"again in {delay:.3g} s" if asked else f"again in {delay:.3g} s: {line(error)}"
        case Failed(error):
            level, verb, rest = logging.ERROR, "failed", line(error)
            shown = None if isinstance(error, expected) else exc_info(error)
        case Rejected(reason):
            level, verb, rest = logging.ERROR, "rejected", reason
        case Revoked(reason):
            rest = reason
    if logger.isEnabledFor(level):
        took = "" if runtime is None else f" in {runtime:.3f}s"
        said = f": {rest}" if rest else ""
        facts = _facts(message, verb)
        if runtime is not None:
            facts["runtime"] = round(runtime, 6)
        _log(level, "%s[%s] %s%s%s", (message.task, message.id, verb, took, said), facts, shown)
    if app.listening:
        app.notify(f"task-{verb}", message, hostname, runtime=runtime or 0.0, reason=rest)


def _log(level: int, text: str, args: tuple[str, ...], facts: dict[str, Any], shown: Any = None) -> None:
    """Log as `logger.log` does with `extra=facts`, for half the price: it need not find out who calls it.

    Every task says twice what it is at, and many take no longer than that.
    """
    record = logger.makeRecord(logger.name, level, __file__, 0, text, args, shown, "tell")
    vars(record).update(facts)
    logger.handle(record)


def _facts(message: Message, action: str) -> dict[str, Any]:
    """Return what a line in the log says about a message, for logs that are data."""
    return {"action": action, "task": message.task, "task_id": message.id, "queue": message.queue}
