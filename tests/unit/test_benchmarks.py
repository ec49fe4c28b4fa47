"""The benchmark runs from end to end, and its report is complete. How fast anything is stays out of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RUN = Path(__file__).parents[2] / "benchmarks" / "run.py"

PER_BROKER = {
    ("enqueue one by one", "rate"),
    ("enqueue bulk", "rate"),
    ("work def", "rate"),
    ("work async def", "rate"),
    ("work def, results stored", "rate"),
    *(("latency", f"{what} {which}") for what in ("start", "result") for which in ("p50", "p99")),
    ("latency after 0.01 s idle", "start p50"),
    ("latency after 0.01 s idle", "start max"),
    ("idle worker", "load"),
}
ONCE = {("import dray", "time"), ("from dray import Dray", "time"), ("dray --help", "time")}


def run(*options: str) -> subprocess.CompletedProcess[str]:
    settings = {name: value for name, value in os.environ.items() if not name.startswith("DRAY_")}
    return subprocess.run([sys.executable, str(RUN), *options], capture_output=True, text=True, env=settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one tiny run of everything has left its report."""
    folder = tmp_path_factory.mktemp("report")
    files = ("--json", str(folder / "report.json"), "--markdown", str(folder / "performance.md"))
    done = run("--rounds", "1", "--tasks", "8", "--idle", "0.04", *files)
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "report.json").read_bytes())["rows"]
    return found


def test_every_measure_is_reported_for_every_broker(rows: list[dict[str, Any]]) -> None:
    by_place: dict[str, set[tuple[str, str]]] = {}
    for row in rows:
        by_place.setdefault(row["place"], set()).add((row["measure"], row["figure"]))
    assert by_place == {"memory": PER_BROKER, "sqlite": PER_BROKER, "": ONCE}


def test_dray_stands_beside_a_limit_wherever_there_is_one(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        has_limit = row["measure"] != "idle worker"
        assert len(row["dray"]) == 1, row
        assert len(row["limit"]) == has_limit, row
        assert (row["ratio"] is not None and row["ratio"] > 0) == has_limit, row


def test_every_round_leaves_a_sample_of_each_side(tmp_path: Path) -> None:
    done = run("--rounds", "3", "--tasks", "4", "--only", "work def", "--json", str(tmp_path / "report.json"))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "report.json").read_bytes())["rows"]
    assert [(len(row["dray"]), len(row["limit"]), len(row["dray_cpu"])) for row in rows] == [(3, 3, 3)] * 4


def test_the_pages_show_what_was_measured_and_what_it_does_not_say(folder: Path, rows: list[dict[str, Any]]) -> None:
    text, page = (folder / "stdout").read_text(), (folder / "performance.md").read_text()
    for row in rows:
        assert row["measure"] in text
        assert f"| {row['measure']} | {row['place'] or '-'} | {row['figure']} | {row['unit']} |" in page
    caveats = page.partition("What these numbers do not say")[2]
    assert all(row["measure"] in caveats for row in rows)


def test_a_part_can_be_chosen_by_measure_or_broker() -> None:
    done = run("--rounds", "1", "--tasks", "4", "--only", "bulk")
    assert [line.split("  ")[0] for line in done.stdout.splitlines()[3:]] == ["enqueue bulk", "enqueue bulk"]


def test_choosing_nothing_says_what_there_is() -> None:
    done = run("--only", "speed")
    assert done.returncode == 1
    assert "nothing to measure is called 'speed'" in done.stderr
    assert "enqueue bulk" in done.stderr
