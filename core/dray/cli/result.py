"""`dray result` and `dray revoke`: what became of a task, and cancelling it."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from .. import states
from ..errors import ResultError, ResultTimeout
from ..result import AsyncResult
from .command import command, option
from .durations import iso, moment, short
from .exits import FAILURE, Stop
from .option_values import seconds
from .session import Session
from .tables import coloured, printable, show_facts, show_json

#: Longest result (characters) that is shown on one line.
ONE_LINE = 100
#: Seconds of waiting in silence.
QUIET = 5.0


@command(
    "result",
    examples=[
        ("dray result 0199c0de-...", "its state, its value or error, and when it ran"),
        ("dray result ID --wait --timeout 30", "wait for the end, half a minute at most"),
        ("dray result ID --json | jq .result", "for scripts"),
    ],
)
@click.argument("id")
@option("--wait", is_flag=True, help="Wait for the end first.")
@option("--timeout", metavar="SECONDS", callback=seconds, help="With --wait: give up after that.", default_text="never")
@option("--traceback", is_flag=True, help="Show the traceback in the worker as well.")
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def result(session: Session, id: str, wait: bool, timeout: float | None, traceback: bool, as_json: bool) -> None:
    """Show what became of a task.

    Ends with 0 when it succeeded or goes on, with 1 when it ended badly or nobody knows it.
    """
    found = session.app.AsyncResult(id)
    if wait:
        wait_for(found, timeout)
    state = found.state
    if state == states.UNKNOWN:
        raise Stop(
            f"no task {id!r}: neither the result backend nor the broker knows it. It was never sent, its result "
            "has expired, or it keeps none"
        )
    if as_json:
        show_json(facts_of(found, state))
    else:
        _show(found, state, traceback)
    if state in states.EXCEPTION_STATES:
        click.get_current_context().exit(FAILURE)


def facts_of(found: AsyncResult[Any], state: str) -> dict[str, Any]:
    """Return everything that is known of a task, for JSON."""
    value = found.result
    failed = isinstance(value, BaseException)
    return {
        "id": found.id,
        "state": state,
        "task": found.name,
        "result": None if failed else plain(value),
        "error": _error(value) if failed else None,
        "traceback": found.traceback,
        "worker": found.worker,
        "queue": found.queue,
        "retries": found.retries,
        "sent": iso(found.date_sent),
        "started": iso(found.date_started),
        "ended": iso(found.date_done),
        "children": [child.id for child in found.children],
    }


def wait_for(found: AsyncResult[Any], timeout: float | None) -> None:
    """Wait for the end of a task; when nothing happens for a while, say what may be missing."""
    first = QUIET if timeout is None else min(QUIET, timeout)
    try:
        found.get(first, propagate=False)
    except ResultTimeout:
        if timeout is not None and timeout <= QUIET:
            raise
        click.echo(f"still {found.state}; does a worker run that takes from its queue?", err=True)
        try:
            found.get(None if timeout is None else timeout - first, propagate=False)
        except ResultTimeout:
            raise ResultTimeout(
                f"task {found.id} has not ended within {timeout} s; its state is {found.state}"
            ) from None


def end_with(found: AsyncResult[Any]) -> None:
    """Print the value of a task that has ended and return; end the command with its error if it ended badly."""
    value, state = found.result, found.state
    if state != states.SUCCESS:
        raise Stop(f"{state}: {_error(value)}")
    click.echo(as_text(value))


def plain(value: Any) -> Any:
    """Return a value as what JSON knows; what it does not know as text."""
    import msgspec

    try:
        return msgspec.to_builtins(value, str_keys=True)
    except (TypeError, ValueError, RecursionError):
        return repr(value)


def as_text(value: Any) -> str:
    """Return a value as JSON: on one line if that is short."""
    text = json.dumps(plain(value), ensure_ascii=(sys.stdout.encoding or "").lower() != "utf-8", default=repr)
    return text if len(text) <= ONE_LINE else json.dumps(plain(value), indent=2, default=repr)


def _show(found: AsyncResult[Any], state: str, traceback: bool) -> None:
    value = found.result
    failed = isinstance(value, BaseException)
    ended, started = found.date_done, found.date_started
    took = f" (ran for {short((ended - started).total_seconds())})" if ended and started else ""
    show_facts(
        [
            ("state", coloured(state)),
            ("task", found.name or ""),
            ("error", _error(value) if failed else ""),
            ("result", as_text(value) if state == states.SUCCESS or (value is not None and not failed) else ""),
            ("queue", found.queue or ""),
            ("worker", found.worker or ""),
            ("retries", str(found.retries) if found.retries else ""),
            ("sent", moment(found.date_sent)),
            ("started", moment(started)),
            ("ended", f"{moment(ended)}{took}" if ended else ""),
            ("children", "\n".join(child.id for child in found.children)),
        ]
    )
    if found.traceback and traceback:
        click.echo()
        for line in found.traceback.rstrip().splitlines():
            click.echo(printable(line))


def _error(value: Any) -> str:
    """Return an exception as one line, without the note that holds its traceback."""
    kind = type(value).__name__
    try:
        text = str(value)
    except Exception:
        return kind  # a class of the user's whose __str__ needs what is not there any more
    if isinstance(value, ResultError):
        return text or kind
    return f"{kind}: {text}" if text else kind


@command(
    "revoke",
    examples=[
        ("dray revoke 0199c0de-...", "it will not start on any worker; if it runs, it is told"),
        ("dray revoke ID1 ID2 ID3", "several at once"),
    ],
)
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.pass_obj
def revoke(session: Session, ids: tuple[str, ...]) -> None:
    """Cancel tasks by id, durably.

    A task that waits will not start, on any worker, before or after a restart. A coroutine that runs is cancelled;
    a `def` task that runs finds `self.request.cancelled` set.
    """
    app = session.app
    app.revoke(ids)
    for id in ids:
        state = app.AsyncResult(id).state if app.backend is not None else app.whereabouts(id)
        said = {
            states.UNKNOWN: "nobody knows it yet; should it be sent, it will not start",
            states.REVOKED: "will not start",
            states.PENDING: "if it runs already, it is told",
        }.get(state, "had ended already" if state in states.FINAL_STATES else "is told")
        click.echo(f"revoked {id}  {click.style(f'({state}: {said})', dim=True)}")
