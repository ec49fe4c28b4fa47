"""The goals of the benchmark: each is judged by a measure that exists, and what is missed is explained."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ..benchmark_modules import benchmark_modules

DOCS = Path(__file__).parents[2] / "docs"
HEADING = re.compile(r"^## (?P<subject>.+)$", re.M)


@pytest.fixture(scope="module")
def judging() -> Iterator[ModuleType]:
    with benchmark_modules() as load:
        yield load("judging")


@pytest.fixture(scope="module")
def goals(judging: ModuleType) -> ModuleType:
    return importlib.import_module("goals")


def row(values: list[float], limit: list[float], unit: str = "/s") -> Any:
    ground, rows = importlib.import_module("ground"), importlib.import_module("rows")
    figure = ground.Figure("rate", unit, ground.THROUGHPUT)
    measure = ground.Measure("flying", "pigeons", (figure,), {}, "Nothing.")
    sides = {"dray": [ground.Sample(value) for value in values], "limit": [ground.Sample(value) for value in limit]}
    return rows.row(measure, figure, sides)


def with_peers(ours: float, peer: float) -> Any:
    """Return a run with peers in which dray and a snail fly."""
    standings, trials = importlib.import_module("peers.standings"), importlib.import_module("peers.trials")
    figure = trials.Figure("rate", "/s")
    measure = trials.Measure("flying", (figure,), "tick", None, lambda *_: {}, lambda *_: 1, "Nothing.")
    samples = {("dray", "best"): [trials.Sample(ours)], ("snail", "best"): [trials.Sample(peer)]}
    rows = [standings.row(measure, "pigeons", figure, samples)]
    return standings.standings(rows, [], {}, [], {}, 1, "run")


def judged(judging: ModuleType, goals: ModuleType, rows: list[Any], peers: Any = None, **changes: Any) -> Any:
    goal = goals.Goal("Flying", "flying", "pigeons", "rate", 10.0)._replace(**changes)
    found = list(judging.verdicts(rows, peers, [goal]))
    return found[0] if found else None


# Verdicts


@pytest.mark.parametrize(("unit", "value", "met"), [("/s", 10.0, True), ("/s", 9.0, False), ("ms", 10.0, True)])
def test_a_goal_is_met_at_its_bound_and_missed_on_the_wrong_side_of_it(
    judging: ModuleType, goals: ModuleType, unit: str, value: float, met: bool
) -> None:
    assert judged(judging, goals, [row([1.0, value, 99.0], [], unit)]).met is met


def test_of_a_time_less_is_better(judging: ModuleType, goals: ModuleType) -> None:
    verdict = judged(judging, goals, [row([11.0], [], "ms")])
    assert (verdict.met, verdict.aim, verdict.measured) == (False, "≤ 10 ms", "11.0 ms")


def test_how_close_it_comes_to_the_bare_loop_is_of_each_round(judging: ModuleType, goals: ModuleType) -> None:
    found = row([3.0, 4.0, 5.0], [10.0, 8.0, 50.0])
    verdict = judged(judging, goals, [found], bound=0.3, of=goals.LOOP)
    assert (verdict.met, verdict.aim, verdict.measured) == (True, "≥ 0.3 of the bare loop", "0.30")


def test_a_ratio_to_a_peer_is_of_the_run_with_peers_alone(judging: ModuleType, goals: ModuleType) -> None:
    changes = {"bound": 12.0, "of": goals.PEER, "beside": ("flying", "rate")}
    verdict = judged(judging, goals, [row([9999.0], [])], with_peers(30.0, 3.0), **changes)
    assert (verdict.met, verdict.measured, verdict.run) == (False, "10.0×", "peers")
    assert verdict.peer == "snail, best: 3.00 /s; dray: 30.0 /s"


def test_the_best_peer_stands_beside_every_figure_that_peers_have_too(judging: ModuleType, goals: ModuleType) -> None:
    changes = {"beside": ("flying", "rate")}
    assert judged(judging, goals, [row([9.0], [])], with_peers(30.0, 3.0), **changes).peer == "10.0× snail, best"
    assert judged(judging, goals, [row([9.0], [])], None, **changes).peer == "-"


def test_what_was_not_measured_is_not_judged(judging: ModuleType, goals: ModuleType) -> None:
    assert judged(judging, goals, []) is None
    assert judged(judging, goals, [row([9.0], [])], of=goals.LOOP) is None
    assert judged(judging, goals, [row([9.0], [])], of=goals.PEER, beside=("flying", "rate")) is None


def test_what_is_missed_leads_to_what_is_said_of_it(judging: ModuleType, goals: ModuleType) -> None:
    verdict = judged(judging, goals, [row([9.0], [])])
    page = "\n".join(judging.as_markdown([verdict, verdict._replace(met=True)], None))
    assert (
        "| Flying | flying: rate | ≥ 10 /s | 9.00 /s | - | this run | [missed](performance-limits.md#flying) |" in page
    )
    assert "| Flying | flying: rate | ≥ 10 /s | 9.00 /s | - | this run | met |" in page


# The goals that there are


def test_every_goal_is_decided_by_something_that_is_measured(judging: ModuleType, goals: ModuleType) -> None:
    ground, measures = importlib.import_module("ground"), importlib.import_module("measures")
    places = importlib.import_module("places").PLACES
    size = ground.Size(tasks=8, idle=1.0)
    every = measures.measures(size, list(places), importlib.import_module("services").Servers())
    figures = {(one.measure, one.place, one.figure) for one in goals.GOALS}
    known = {(one.name, one.place, figure.name) for one in every for figure in one.figures}
    assert figures - known == set()


def test_every_ratio_to_peers_is_of_something_that_peers_do_too(judging: ModuleType, goals: ModuleType) -> None:
    trials = importlib.import_module("peers.trials")
    table = importlib.import_module("peers.table")
    known = {(one.name, figure.name) for one in trials.MEASURES for figure in one.figures}
    asked = [goal for goal in goals.GOALS if goal.beside]
    assert {goal.beside for goal in asked} - known == set()
    assert {goal.place for goal in asked} - set(table.PLACES) == set()
    assert all(goal.beside for goal in goals.GOALS if goal.of == goals.PEER)


# What the pages say


def test_every_goal_that_is_missed_is_explained_and_none_that_is_met() -> None:
    table = (DOCS / "performance.md").read_text(encoding="utf-8")
    missed = {line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if "[missed](" in line}
    explained = HEADING.findall((DOCS / "performance-limits.md").read_text(encoding="utf-8"))
    assert sorted(explained) == sorted(missed)
