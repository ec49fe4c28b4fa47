"""From figures to verdicts: which goals are met, what was measured for each, and how the best peer stands to it."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import peers.standings as beside
from formats import anchor, bound, number, share, times
from goals import FIGURE, GOALS, LOOP, PEER, Goal
from rows import Row

#: What is said of goals that are missed, by hand; beside the page.
SAID = "performance-limits.md"
MET, MISSED = "met", "missed"

HEAD = (
    "*This run* is the one above. {peers} Goals that are missed lead to what was tried, what the profile says and what "
    "the limit is."
)


class Verdict(NamedTuple):
    """A goal and what became of it, in words."""

    goal: Goal
    aim: str
    measured: str
    #: How the best peer stands to it, in the run with peers.
    peer: str
    #: Which run decides it.
    run: str
    met: bool


def verdicts(rows: Sequence[Row], peers: beside.Standings | None, goals: Sequence[Goal] = GOALS) -> Iterator[Verdict]:
    """Yield the verdict of every goal for which something was measured, in their order."""
    ours = {(one.measure, one.place, one.figure): one for one in rows}
    theirs = {(one.measure, one.place, one.figure): one for one in peers.rows} if peers else {}
    for goal in goals:
        row = ours.get((goal.measure, goal.place, goal.figure))
        standing = _beside(goal, theirs)
        if goal.of == PEER:
            if standing and standing.ratio is not None:
                yield _of_peer(goal, standing, standing.ratio)
        elif row is not None:
            value = row.ratio if goal.of == LOOP else statistics.median(row.dray)
            if value is not None:
                yield _of_figure(goal, row, value, standing)


def _beside(goal: Goal, theirs: Mapping[tuple[str, str, str], beside.Row]) -> beside.Row | None:
    if goal.beside is None:
        return None
    measure, figure = goal.beside
    return theirs.get((measure, goal.place, figure))


def _of_figure(goal: Goal, row: Row, value: float, standing: beside.Row | None) -> Verdict:
    at_least = row.more or goal.of == LOOP
    met = value >= goal.bound if at_least else value <= goal.bound
    sign = "≥" if at_least else "≤"
    if goal.of == FIGURE:
        aim, measured = f"{sign} {bound(goal.bound)} {row.unit}", f"{number(value)} {row.unit}"
    else:
        aim, measured = f"{sign} {bound(goal.bound)} of the bare loop", share(value)
    peer = (
        f"{times(standing.ratio)} {standing.fastest.label}" if standing and standing.ratio and standing.fastest else "-"
    )
    return Verdict(goal, aim, measured, peer, "this run", met)


def _of_peer(goal: Goal, standing: beside.Row, ratio: float) -> Verdict:
    ours, fastest = standing.ours, standing.fastest
    assert ours and fastest  # or there would be no ratio
    peer = f"{fastest.label}: {number(fastest.middle)} {standing.unit}; dray: {number(ours.middle)} {standing.unit}"
    aim = f"≥ {bound(goal.bound)}× the fastest peer"
    return Verdict(goal, aim, times(ratio), peer, "peers", ratio >= goal.bound)


def as_markdown(found: Sequence[Verdict], peers: beside.Standings | None) -> Iterator[str]:
    """Give the section of the goals."""
    yield from ("## Goals", "", textwrap.fill(HEAD.format(peers=_run_of(peers)), 120, break_on_hyphens=False), "")
    yield "| goal | of | aim | measured | beside the best peer | run | |"
    yield "|---|---|---|---:|---|---|---|"
    for one in found:
        verdict = MET if one.met else f"[{MISSED}]({SAID}#{anchor(one.goal.subject)})"
        yield f"| {' | '.join((*_words(one), verdict))} |"
    yield ""


def as_text(found: Sequence[Verdict]) -> Iterator[str]:
    """Give a line for each goal, for a terminal."""
    for one in found:
        subject, what, aim, measured, *_ = _words(one)
        yield f"{MET if one.met else MISSED:8}{subject}, {what}: {measured}, aim {aim}"


def _words(one: Verdict) -> tuple[str, ...]:
    goal = one.goal
    return goal.subject, f"{goal.measure}: {goal.figure}", one.aim, one.measured, one.peer, one.run


def _run_of(peers: beside.Standings | None) -> str:
    if peers is None:
        return "No run with peers was there to compare with."
    rounds = f"median of {peers.rounds} rounds" if peers.rounds > 1 else "one round"
    return (
        f"*Peers* is that of [performance-peers.md](performance-peers.md) ({peers.date}, {rounds}), with dray and all "
        "peers on the same servers: every ratio to a peer is of that run alone, whatever dray reached in this one."
    )
