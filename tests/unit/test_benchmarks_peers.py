"""The comparison with other task queues: who is measured when, what is made of it, and that nothing is left out unsaid.

No peer is installed here; dray itself runs from end to end on SQLite.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

from ..benchmark_modules import BENCHMARKS, benchmark_modules

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def harness() -> Iterator[ModuleType]:
    with benchmark_modules() as load:
        yield load("run_peers")


@pytest.fixture(scope="module")
def trials(harness: ModuleType) -> ModuleType:
    return importlib.import_module("peers.trials")


@pytest.fixture(scope="module")
def table(harness: ModuleType) -> ModuleType:
    return importlib.import_module("peers.table")


def about(trials: ModuleType, **changes: Any) -> Any:
    said = {"versions": {"pigeon": "1.0"}, "configs": {"default": "plain", "best": "fast"}, "kinds": ["def"]}
    return trials.About(**{**said, "stores": True, "bulk": True, "naps": True, **changes})


def measure(trials: ModuleType, name: str, unit: str = "/s", more: bool = True, **changes: Any) -> Any:
    figure = trials.Figure("rate" if more else "time", unit, more)
    said = trials.Measure(name, (figure,), "tick", None, lambda *_: {}, lambda *_: 1, f"Nothing about {name}.")
    return said._replace(**changes)


def compared(
    harness: ModuleType, trials: ModuleType, found: Mapping[tuple[str, str], Sequence[float]], **changes: Any
) -> Any:
    """Return the row of one measure in which these sides found these values, round by round."""
    samples = {side: [trials.Sample(value, 2.0) for value in values] for side, values in found.items()}
    flying = measure(trials, "flying")._replace(**changes)
    return harness.row(flying, "redis", flying.figures[0], samples)


# Rounds


def test_every_side_is_measured_once_a_round_one_after_the_other(
    harness: ModuleType, trials: ModuleType, table: ModuleType
) -> None:
    sides = {table.Side(name, "redis", 1.0, 1.0): about(trials) for name in ("dray", "pigeon", "snail")}
    ran: list[str] = []

    def run(measured: Any, side: Any, said: Any, config: str) -> Mapping[str, Any]:
        ran.append(f"{measured.name} {side.name} {config}")
        return {"rate": trials.Sample(float(len(ran)))}

    measures = [measure(trials, "flying"), measure(trials, "walking", configs=("best",))]
    rows = harness.rounds(measures, sides, ("default", "best"), 2, run, {})
    once = [f"flying {name} {config}" for name in ("dray", "pigeon", "snail") for config in ("default", "best")]
    once += [f"walking {name} best" for name in ("dray", "pigeon", "snail")]
    assert ran == once * 2
    assert [(row.measure, len(row.standings)) for row in rows] == [("flying", 6), ("walking", 3)]
    assert all(len(standing.values) == 2 for row in rows for standing in row.standings)


def test_a_side_that_fails_is_left_out_with_its_reason_and_the_others_go_on(
    harness: ModuleType, trials: ModuleType, table: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = {table.Side(name, "redis", 1.0, 1.0): about(trials) for name in ("dray", "pigeon")}
    left_out: dict[str, str] = {}
    asked: list[str] = []

    def run(measured: Any, side: Any, said: Any, config: str) -> Mapping[str, Any]:
        asked.append(side.name)
        if side.name == "pigeon" and len(asked) > 2:
            raise RuntimeError("lost\nits way")
        return {"rate": trials.Sample(4.0)}

    (row,) = harness.rounds([measure(trials, "flying")], sides, ("best",), 3, run, left_out)
    assert asked == ["dray", "pigeon", "dray", "pigeon", "dray"]
    assert [standing.name for standing in row.standings] == ["dray"]
    assert left_out == {"flying: pigeon on redis, best": "failed: RuntimeError lost its way"}
    assert "lost its way" in capsys.readouterr().err


def test_what_was_found_before_it_was_stopped_is_reported(
    harness: ModuleType, trials: ModuleType, table: ModuleType
) -> None:
    sides = {table.Side(name, "redis", 1.0, 1.0): about(trials) for name in ("dray", "pigeon")}
    left_out: dict[str, str] = {}
    asked: list[str] = []

    def run(measured: Any, side: Any, said: Any, config: str) -> Mapping[str, Any]:
        asked.append(side.name)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return {"rate": trials.Sample(4.0)}

    (row,) = harness.rounds([measure(trials, "flying")], sides, ("best",), 3, run, left_out)
    assert [(standing.name, len(standing.values)) for standing in row.standings] == [("dray", 2), ("pigeon", 1)]
    assert left_out == {"the rest of round 2 and what would follow": "stopped"}


def test_a_side_is_asked_only_for_what_it_can(trials: ModuleType) -> None:
    named = {one.name: one for one in trials.MEASURES}
    able = about(trials, kinds=["def", "async def"])
    plain = about(trials, stores=False, bulk=False, naps=False)
    assert all(one.fits(able, "best") for one in trials.MEASURES)
    fitting = {name for name, one in named.items() if one.fits(plain, "best")}
    assert fitting == {"work def", "enqueue one by one", "latency"}
    assert {name for name, one in named.items() if one.fits(able, "default")} == {
        "work def",
        "work async def",
        "latency",
    }


def test_dray_is_measured_wherever_one_of_the_peers_is(harness: ModuleType) -> None:
    def chosen(*arguments: Any) -> list[tuple[str, str]]:
        return [(side.name, side.place) for side in harness._sides(*arguments)]

    every = ["redis", "rabbitmq", "sqlite", "postgresql"]
    assert chosen(["huey"], every) == [("dray", "redis"), ("huey", "redis"), ("dray", "sqlite"), ("huey", "sqlite")]
    assert chosen(["huey"], ["sqlite"]) == [("dray", "sqlite"), ("huey", "sqlite")]
    assert chosen([], ["sqlite"]) == [("dray", "sqlite")]


# Ratios


def test_more_tasks_a_second_are_better_and_the_ratio_is_the_median_of_the_rounds(
    harness: ModuleType, trials: ModuleType
) -> None:
    found = {
        ("dray", "default"): [1.0, 1.0, 1.0],
        ("dray", "best"): [80.0, 90.0, 400.0],
        ("pigeon", "default"): [5.0, 5.0, 5.0],
        ("pigeon", "best"): [10.0, 10.0, 10.0],
        ("snail", "best"): [1.0, 99.0, 2.0],
    }
    row = compared(harness, trials, found)
    assert row.fastest.label == "pigeon, best"
    assert row.ratio == 9.0
    assert row.ours.label == "dray, best"


def test_less_time_is_better(harness: ModuleType, trials: ModuleType) -> None:
    found = {("dray", "best"): [0.5], ("pigeon", "default"): [1.0], ("pigeon", "best"): [4.0]}
    row = compared(harness, trials, found, figures=(trials.Figure("start p50", "ms", False),))
    assert (row.fastest.label, row.ratio) == ("pigeon, default", 2.0)


def test_there_is_no_ratio_without_a_peer_or_without_dray(harness: ModuleType, trials: ModuleType) -> None:
    alone = compared(harness, trials, {("dray", "best"): [0.5]})
    without = compared(harness, trials, {("pigeon", "best"): [0.5]})
    assert (alone.fastest, alone.ratio) == (None, None)
    assert (without.ours, without.ratio) == (None, None)
    assert without.fastest is not None


# The page


@pytest.fixture
def found(harness: ModuleType, trials: ModuleType) -> Any:
    values = {
        ("dray", "best"): [30_000.0, 20_000.0],
        ("pigeon", "best"): [2000.0, 2500.0],
        ("pigeon", "default"): [3.0],
    }
    rows = [compared(harness, trials, values), compared(harness, trials, values, name="work def")]
    installed = {
        name: ({name: "1.0"}, {"default": f"plain {name}", "best": f"fast {name}"}) for name in ("dray", "pigeon")
    }
    measured = [measure(trials, "flying"), measure(trials, "work def")]
    left_out = {"snail": "not installed: no such snail"}
    return harness.standings(rows, measured, installed, ["Redis 7"], left_out, 2, "run <it>")


def test_the_page_has_medians_spread_ratios_and_who_is_missing(harness: ModuleType, found: Any) -> None:
    page = harness.as_markdown(found, "make it")
    assert "| flying | redis | rate, /s | 25,000 | 2,250 | pigeon, best | 12× |" in page
    assert "## flying, redis" in page
    assert "| dray | best | 25,000 | 20,000 - 30,000 | 2.00 |" in page
    assert "| pigeon | default | 3.00 | 3.00 - 3.00 | 2.00 |" in page
    assert "Not measured: snail (not installed: no such snail)." in page
    assert "| pigeon | pigeon 1.0 | plain pigeon | fast pigeon |" in page
    assert "- **flying**: Nothing about flying." in page
    assert "Redis 7, median of 2 rounds. Command: `run <it>`." in page
    assert "](performance-peers.svg)" in page
    assert all(len(line) <= 120 for line in page.splitlines() if not line.startswith("|"))


def test_the_text_and_the_samples_say_the_same(harness: ModuleType, found: Any) -> None:
    assert "dray is 12 times pigeon, best" in harness.as_text(found)
    said = json.loads(harness.as_json(found))["rows"][0]
    assert said["standings"][0]["values"] == [30_000.0, 20_000.0]
    assert said["fastest"]["name"] == "pigeon"


def test_the_chart_has_a_bar_for_what_each_library_reached_at_best(harness: ModuleType, found: Any) -> None:
    root = ElementTree.fromstring(harness.chart(found))
    bars = [float(bar.attrib["width"]) for bar in root.iter(f"{SVG}rect")]
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert texts[2:] == ["redis", "dray, best", "25,000/s", "pigeon, best", "2,250/s"]
    assert bars[0] / bars[1] == pytest.approx(25_000 / 2250, rel=0.01)


def test_a_chart_ends_at_its_highest_round_and_escapes_what_it_says(harness: ModuleType) -> None:
    chart = importlib.import_module("peers.chart")
    bars = [chart.Bar("<a> & b", 5.0, 1.0, 10.0, "5"), chart.Bar("nothing", 0.0, 0.0, 0.0, "0")]
    root = ElementTree.fromstring(chart.as_svg('say "it"', "note", [chart.Group("group", bars)]))
    (line, _) = root.iter(f"{SVG}line")
    first, last = float(line.attrib["x1"]), float(line.attrib["x2"])
    wide = chart.WIDTH - chart.LABEL - chart.FIGURE
    assert (first, last) == pytest.approx((chart.LABEL + wide / 10, chart.LABEL + wide), abs=0.1)
    assert "<a> & b" in [text.text for text in root.iter(f"{SVG}text")]
    assert all(float(bar.attrib["width"]) > 0 for bar in root.iter(f"{SVG}rect"))


# Who takes part


def test_every_peer_is_pinned_and_has_an_app(table: ModuleType) -> None:
    attempts = importlib.import_module("peers.attempts")
    for side in table.SIDES:
        assert (attempts.APPS / f"{side.app}.py").is_file(), side
        assert side.place in table.PLACES
        if side.name != table.OURS:
            assert all("==" in requirement for requirement in table.REQUIREMENTS[side.name]), side
    assert {side.name for side in table.SIDES} == {table.OURS, *table.REQUIREMENTS}


def test_a_peer_is_installed_once_and_again_when_its_pins_change(
    harness: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environments = importlib.import_module("peers.environments")
    installed: list[Sequence[str]] = []
    monkeypatch.setattr(environments, "_create", lambda base, home: home.mkdir(parents=True, exist_ok=True))
    monkeypatch.setattr(environments, "_install", lambda python, requirements: installed.append(requirements))
    for requirements in (("pigeon==1",), ("pigeon==1",), ("pigeon==2",)):
        found, left_out = environments.pythons({"pigeon": requirements}, tmp_path, lambda text: None)
        assert (found, left_out) == ({"pigeon": tmp_path / "pigeon" / "bin" / "python"}, {})
    assert installed == [("pigeon==1",), ("pigeon==2",)]


def test_a_peer_that_cannot_be_installed_is_left_out_and_tried_again_the_next_time(
    harness: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environments = importlib.import_module("peers.environments")
    tried: list[Path] = []

    def fail(python: Path, requirements: Sequence[str]) -> None:
        tried.append(python)
        raise subprocess.CalledProcessError(1, "pip", stderr="WARNING: slow\nERROR: No matching snail\n\n")

    monkeypatch.setattr(environments, "_create", lambda base, home: home.mkdir(parents=True, exist_ok=True))
    monkeypatch.setattr(environments, "_install", fail)
    for _ in range(2):
        left_out: dict[str, str] = {}
        sides = harness._sides(["huey"], ["sqlite"])
        sides, interpreters = harness._with_environments(sides, tmp_path, left_out)
        assert [side.name for side in sides] == ["dray"]
        assert left_out == {"huey": "not installed: ERROR: No matching snail"}
        assert "not measured: huey (not installed: ERROR: No matching snail)" in capsys.readouterr().err
    assert len(tried) == 2


# Processes


def test_a_worker_that_ends_is_told_with_its_last_words(harness: ModuleType, tmp_path: Path) -> None:
    attempts = importlib.import_module("peers.attempts")
    attempt = attempts.Attempt(Path(sys.executable), "nobody_app", tmp_path, {})
    with (
        attempt.worker() as worker,
        pytest.raises(attempts.TrialFailed, match=r"the worker ended with 1: .*No module named 'nobody_app'"),
    ):
        worker.progress(1)
    with pytest.raises(attempts.TrialFailed, match=r"send ended with 1: .*nobody_app"):
        attempt.do("send", 1)


def test_dray_runs_from_end_to_end_and_its_page_is_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    only = [part for word in ("work def", "bulk", "latency", "naps async") for part in ("--only", word)]
    done = subprocess.run(
        [
            *(sys.executable, "run_peers.py", "--peers", "", "--places", "sqlite", "--configs", "best", *only),
            *("--tasks", "10", "--rounds", "1", "--markdown", str(page), "--json", str(tmp_path / "found.json")),
        ],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "found.json").read_bytes())["rows"]
    latency = [("latency", f"{what} {which}") for what in ("start", "result") for which in ("p50", "p99")]
    assert [(row["measure"], row["figure"]) for row in rows] == [
        ("work def", "rate"),
        ("enqueue bulk", "rate"),
        *latency,
        ("naps async def", "of the ideal"),
    ]
    assert all(value > 0 for row in rows for value in row["standings"][0]["values"])
    assert "## work def, sqlite" in page.read_text()
    assert ElementTree.parse(tmp_path / "page.svg").getroot().tag == f"{SVG}svg"


def test_a_peer_that_nobody_knows_is_refused_with_those_that_are_known() -> None:
    done = subprocess.run(
        [sys.executable, "run_peers.py", "--peers", "carrier-pigeon"], cwd=BENCHMARKS, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "'carrier-pigeon' is none of celery, rq, arq" in done.stderr
