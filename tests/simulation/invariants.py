"""What must hold of every call in every simulated world, whatever has gone wrong. Told in words, for people."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from dray import states
from dray.report import _decode

if TYPE_CHECKING:
    from .stage import Stage


def judge(stage: Stage) -> None:
    """Complain of every rule that was broken."""
    for rule in (every_call_ends, results_only_rise, what_is_done_is_recognised, deliveries_are_bounded):
        rule(stage)
    for program in stage.programs:
        program.check()


def every_call_ends(stage: Stage) -> None:
    """An accepted call comes to one final result, or is a dead letter with a reason, or both."""
    history = stage.history
    for sent in history.sent.values():
        if not sent.accepted:
            continue
        record, reason = history.final(sent.id), stage.ends.get(sent.id)
        if reason is not None and not reason.strip():
            stage.world.complain("a dead letter has a reason", sent.id)
        if record is not None or reason is not None:
            continue
        if sent.ignored and any(run.ended is not None for run in history.runs_of(sent.id)):
            continue
        if sent.may_not_run:
            continue
        stage.world.complain("every accepted call ends", f"{sent.id} came to nothing")


def results_only_rise(stage: Stage) -> None:
    """What is final yields only to a later delivery's or a later attempt's end."""
    for id, changes in stage.history.results.items():
        for change in changes:
            before, after = change.before, change.after
            if before is not None and before.final and (not after.final or after.rank < before.rank):
                stage.world.complain("a final result yields only to a later end", f"{id}: {before.state} {after.state}")
            if (
                before is not None
                and before.state == states.SUCCESS
                and after.final
                and after.state in (states.REJECTED, states.REVOKED, states.EXPIRED)
            ):
                stage.world.complain("a success is not followed by a refusal", f"{id}: {after.state}")


def what_is_done_is_recognised(stage: Stage) -> None:
    """What comes again, and is known to have succeeded, does not run again, if the worker could ask."""
    history = stage.history
    for run in history.runs:
        lent = history.lent.get((run.id, run.retries, run.process.name))
        sent = history.sent.get(run.id)
        if run.count < 2 or lent is None or (sent is not None and sent.ignored) or run.id in history.handed_over:
            continue
        if history.blind.get(run.process.name, 0.0) > lent:
            continue
        known = [change for change in history.results.get(run.id, ()) if change.at <= run.began]
        if not known or known[-1].at >= lent:
            continue
        record = known[-1].after
        if record.state != states.SUCCESS or record.rank >> 16 < run.retries or _decode(record.body).sent != run.sent:
            continue
        when = f"succeeded at {known[-1].at:.3f}, lent at {lent:.3f}, ran at {run.began:.3f}"
        stage.world.complain("what has succeeded is recognised", f"{run.id} {when}")


def deliveries_are_bounded(stage: Stage) -> None:
    """A call begins no more often than it may be delivered, for each time that it was stored."""
    history = stage.history
    stored = Counter[str]()
    for (id, _), times in history.copies.items():
        stored[id] += times
    for id, runs in Counter(run.id for run in history.runs).items():
        # What is given back when a worker stops in order is not charged.
        most = stage.settings["task_max_deliveries"] * stored[id] + history.stops + history.perhaps_released[id]
        if runs > most:
            stage.world.complain("deliveries are bounded", f"{id} began {runs} times, at most {most}")
