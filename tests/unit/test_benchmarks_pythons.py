"""dray on several Pythons: each is a column of one table, and one that is not there is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ..benchmark_modules import benchmark_modules


@pytest.fixture
def pythons() -> Iterator[ModuleType]:
    with benchmark_modules() as load:
        yield load("run_pythons")


def run(pythons: ModuleType, rate: float) -> Any:
    """Return a run in which dray did so much, and the bare loop twice that."""
    sides = {"dray": [rate], "limit": [2 * rate], "dray_cpu": [], "limit_cpu": []}
    row = pythons.Row(
        measure="flying", place="pigeons", figure="rate", unit="/s", part="", more=True, ratio=0.5, **sides
    )
    about = {"machine": "two cores", "python": "CPython", "servers": ["Redis 7"], "left_out": {}, "date": "today"}
    return pythons.Report(**about, command="run", rounds=1, rows=[row], caveats={})


def test_each_python_is_a_column_with_medians_and_a_missing_one_is_told(pythons: ModuleType) -> None:
    found = {
        "3.11.7": [run(pythons, rate) for rate in (100.0, 300.0, 200.0)],
        "3.14.0 free-threaded": [run(pythons, 500.0)],
    }
    page = pythons.as_markdown(found, {"python3.13": "not there"}, 8)
    assert "| measure | broker | 3.11.7 | 3.14.0 free-threaded |" in page
    assert "| flying | pigeons | 200 (0.50) | 500 (0.50) |" in page
    assert "Not measured: python3.13 (not there)." in page
    assert all(len(line) <= 120 for line in page.splitlines() if not line.startswith("|"))


def test_an_interpreter_that_is_not_there_is_left_out(pythons: ModuleType, tmp_path: Path) -> None:
    left_out: dict[str, str] = {}
    assert list(pythons._pythons([str(tmp_path / "python3.99")], tmp_path, left_out)) == []
    assert left_out == {"python3.99": "not there"}
