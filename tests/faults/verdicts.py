"""What came of each fault on each broker: counted, printed as a line, gathered into a table, and written as JSON.

A pytest plugin, registered by conftest.py. A cell that fails says how it is repeated.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class Verdict(NamedTuple):
    """What one run of one fault came to."""

    #: Confirmed calls that neither ran to an end, nor wait, nor are dead letters; and those that still wait.
    lost: int
    hung: int
    #: Runs that began once more than they should.
    duplicated: int
    #: From the end of the fault, or from the fault itself where it has none, until all was well.
    seconds: float
    note: str = ""


class Row(NamedTuple):
    """One fault, as a test's marker and parameters say it."""

    code: str
    title: str
    variant: str


def parameters_of(item: pytest.Item) -> dict[str, Any]:
    """Return what a test is parametrised with; what has no value in this run (no broker to be tried on) is left out."""
    found = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return {name: value for name, value in found.items() if isinstance(value, str | int | float)}


def row_of(item: pytest.Item) -> Row | None:
    """Return the row that a test fills, None if it is about no fault."""
    marker = item.get_closest_marker("fault")
    parameters = parameters_of(item)
    if marker is None or "place" not in parameters:
        return None
    variants = [str(value) for name, value in sorted(parameters.items()) if name not in ("place", "seed")]
    return Row(marker.args[0], marker.args[1], ", ".join(variants))


class Verdicts:
    """Collects the verdicts of one run."""

    def __init__(self) -> None:
        self.rows: dict[Row, dict[str, dict[str, Any]]] = {}

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        if (row := row_of(item)) is not None:
            item.user_properties.append(("fault", json.dumps([*row, parameters_of(item)["place"]])))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        known = dict(report.user_properties)
        if "fault" not in known or report.skipped or (report.when != "call" and report.passed):
            return
        code, title, variant, broker = json.loads(str(known["fault"]))
        cell = self.rows.setdefault(Row(code, title, variant), {}).setdefault(
            broker, {"runs": 0, "failed": 0, "lost": 0, "duplicated": 0, "hung": 0, "seconds": 0.0, "notes": []}
        )
        cell["runs"] += 1
        cell["failed"] += report.failed
        if "verdict" in known:
            verdict = Verdict(*json.loads(str(known["verdict"])))
            for name in ("lost", "duplicated", "hung"):
                cell[name] += getattr(verdict, name)
            cell["seconds"] = max(cell["seconds"], verdict.seconds)
            if verdict.note and verdict.note not in cell["notes"]:
                cell["notes"].append(verdict.note)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.rows:
            return
        terminalreporter.section("faults: lost / duplicated / hung / seconds to recover")
        for row in sorted(self.rows, key=order):
            for broker, cell in self.rows[row].items():
                failed = f"  FAILED {cell['failed']} of {cell['runs']}" if cell["failed"] else ""
                what = f"{row.title}{f' ({row.variant})' if row.variant else ''}"
                numbers = f"{cell['lost']} / {cell['duplicated']} / {cell['hung']} / {cell['seconds']:.1f} s"
                notes = f"  {'; '.join(cell['notes'])}" if cell["notes"] else ""
                terminalreporter.write_line(
                    f"{row.code:<4} {broker:<10} {numbers:<22} {what}{notes}{failed}", red=bool(failed)
                )
        if place := terminalreporter.config.getoption("--faults-report", None):
            write(Path(place), self.rows)


def order(row: Row) -> tuple[int, str, str]:
    """Sort F2 before F10, and F7-F9 between them."""
    return int(row.code.partition("-")[0][1:]), row.title, row.variant


def write(place: Path, rows: dict[Row, dict[str, dict[str, Any]]]) -> None:
    """Put cells into the report at `place`, beside those that other runs of the suite have put there."""
    with _alone(place):
        known: dict[Row, dict[str, dict[str, Any]]] = {}
        if place.exists():
            for entry in json.loads(place.read_text()):
                known[Row(entry["code"], entry["title"], entry["variant"])] = entry["cells"]
        for row, cells in rows.items():
            for broker, cell in cells.items():
                before = known.setdefault(row, {}).get(broker)
                known[row][broker] = together(before, cell) if before else cell
        entries = [{**row._asdict(), "cells": dict(sorted(known[row].items()))} for row in sorted(known, key=order)]
        place.write_text(json.dumps(entries, indent=1) + "\n")


def together(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return two runs of one cell as one: what is tried again, and passes, does not hide that it has failed."""
    added = {name: before[name] + now[name] for name in ("runs", "failed", "lost", "duplicated", "hung")}
    notes = list(dict.fromkeys([*before["notes"], *now["notes"]]))
    return {**added, "seconds": max(before["seconds"], now["seconds"]), "notes": notes}


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Brokers are tried side by side, by processes that write into one report."""
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
