"""The benchmark runs from end to end, and its report is complete. How fast anything is stays out of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..benchmark_modules import BENCHMARKS

#: Those that need no server.
HERE = ("--places", "memory,sqlite")

PER_BROKER = {
    ("enqueue one by one", "rate"),
    ("enqueue bulk", "rate"),
    ("work def", "rate"),
    ("work async def", "rate"),
    ("work def, results stored", "rate"),
    *(("latency", f"{what} {which}") for what in ("start", "result") for which in ("p50", "p99")),
    *(("latency after 0.01 s idle", f"{what} {which}") for what in ("start", "result") for which in ("p50", "max")),
    ("idle worker", "load"),
}
#: What is measured of a worker by its own command.
COMMANDED = {
    *(("dray worker", name) for name in ("ready", "PSS", "RSS")),
    *(("backlog", name) for name in ("rate at 8", "rate kept", "PSS at 8", "memory kept")),
    *(("delayed tasks", name) for name in ("PSS before", "PSS after", "memory kept")),
    *((f"payload of {size}", name) for size in ("1 KiB", "64 KiB", "1 MiB") for name in ("enqueue", "work")),
}
ONCE = {("import dray", "time"), ("from dray import Dray", "time"), ("dray --help", "time")}


def python(*arguments: str, **more_settings: str) -> subprocess.CompletedProcess[str]:
    settings = {name: value for name, value in os.environ.items() if not name.startswith("DRAY_")}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=settings | more_settings, cwd=BENCHMARKS
    )


def run(*options: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return python("run.py", *options, **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one tiny run of everything has left its report."""
    folder = tmp_path_factory.mktemp("report")
    files = ("--json", str(folder / "report.json"), "--markdown", str(folder / "performance.md"))
    sizes = ("--rounds", "1", "--tasks", "8", "--idle", "0.04", "--backlog", "8", "--delayed", "8")
    done = run(*sizes, *HERE, *files)
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
    assert by_place == {"memory": PER_BROKER, "sqlite": PER_BROKER | {("queued task", "size")} | COMMANDED, "": ONCE}


def test_dray_stands_beside_a_limit_wherever_there_is_one(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        has_limit = row["measure"] != "idle worker" and (row["measure"], row["figure"]) not in COMMANDED
        assert len(row["dray"]) == 1, row
        assert len(row["limit"]) == has_limit, row
        # So few tasks find room in the file as it is.
        has_ratio = has_limit and row["figure"] != "size"
        assert row["ratio"] is None or row["ratio"] > 0, row
        assert row["ratio"] is not None or not has_ratio, row


def test_every_round_leaves_a_sample_of_each_side(tmp_path: Path) -> None:
    done = run("--rounds", "3", "--tasks", "4", "--only", "work def", *HERE, "--json", str(tmp_path / "report.json"))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "report.json").read_bytes())["rows"]
    assert [(len(row["dray"]), len(row["limit"]), len(row["dray_cpu"])) for row in rows] == [(3, 3, 3)] * 4


def test_the_pages_show_what_was_measured_and_what_it_does_not_say(folder: Path, rows: list[dict[str, Any]]) -> None:
    text, page = (folder / "stdout").read_text(), (folder / "performance.md").read_text()
    for row in rows:
        assert row["measure"] in text
        assert f"| {row['measure']} | {row['place'] or '-'} | {row['figure']} | {row['unit']} |" in page
        assert f"## {row['part']}" in page
    caveats = page.partition("What these numbers do not say")[2]
    assert all(row["measure"] in caveats for row in rows)


def test_a_part_can_be_chosen_by_measure_or_broker() -> None:
    done = run("--rounds", "1", "--tasks", "4", "--only", "bulk", *HERE)
    table = done.stdout.split("\n\n")[1]
    assert [line.split("  ")[0] for line in table.splitlines()[1:]] == ["enqueue bulk", "enqueue bulk"]


def test_a_page_can_be_made_again_without_measuring(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "again.md"
    done = run("--again", str(folder / "report.json"), "--markdown", str(page))
    assert done.returncode == 0, done.stderr
    assert page.read_text() == (folder / "performance.md").read_text()


def test_choosing_nothing_says_what_there_is() -> None:
    done = run("--only", "speed")
    assert done.returncode == 1
    assert "nothing to measure is called 'speed'" in done.stderr
    assert "enqueue bulk" in done.stderr


def test_a_broker_whose_server_cannot_be_had_is_left_out_and_said_so(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    options = ("--rounds", "1", "--tasks", "4", "--only", "bulk", "--places", "redis,memory", "--markdown", str(page))
    done = run(*options, DRAY_TEST_SERVICES="docker", DOCKER_HOST="tcp://nowhere.invalid")
    assert done.returncode == 0, done.stderr
    assert "not measured: redis (redis: no redis server: Docker does not answer" in done.stderr
    assert "Not measured: redis (redis: no redis server" in page.read_text()
    assert "| memory |" in page.read_text()
    assert "| redis |" not in page.read_text()


def test_a_broker_that_is_not_measured_is_refused_with_those_that_are() -> None:
    done = run("--places", "memory,carrier-pigeon")
    assert done.returncode == 2
    assert "'carrier-pigeon' is none of memory, sqlite, redis" in done.stderr


def test_every_broker_has_a_bare_loop_beside_it() -> None:
    done = python("-c", "from places import PLACES; print(*(place.loop().__name__ for place in PLACES.values()))")
    assert done.stdout.split() == [
        *("MemoryLoop", "SqliteLoop", "RedisLoop", "RabbitLoop", "QuorumLoop", "PostgresLoop", "SqsLoop", "KombuLoop")
    ], done.stderr


COUNT_REQUESTS = """
import redis
from traffic import RedisRequests

class Deaf(redis.connection.AbstractConnection):
    def __init__(self): self._sock = self
    def sendall(self, item): pass
    def check_health(self): pass
    def repr_pieces(self): return []
    def _connect(self): pass
    def _host_error(self): pass
    def __del__(self): pass

meters = [RedisRequests({}), RedisRequests({})]
for command in ("PING", [b"GET a", b"GET b"]):
    Deaf().send_packed_command(command)
print([meter.read() for meter in meters])
"""


def test_a_request_of_a_driver_is_counted_once_however_many_count() -> None:
    done = python("-c", COUNT_REQUESTS)
    assert done.stdout == "[2, 2]\n", done.stderr


SHOW_TRAFFIC = """
from ground import TRAFFIC, Figure, Measure, Sample
from report import as_markdown
from rows import report, row

def counted(measure, unit, ours, limit):
    figure = Figure("requests", unit, TRAFFIC)
    measured = Measure(measure, "pigeons", (figure,), {}, "Nothing.")
    sides = {"dray": [Sample(ours)], **({"limit": [Sample(limit)]} if limit else {})}
    return row(measured, figure, sides)

rows = [counted("work def", "per task", 0.5, 0.25), counted("idle worker", "per s", 3.0, 0.0)]
print(as_markdown(report(rows, [], 1, "run", [], {}), None))
"""


def test_traffic_is_one_line_for_each_broker_and_what_is_counted() -> None:
    done = python("-c", SHOW_TRAFFIC)
    assert "| broker | counted | work def | idle worker, per s |" in done.stdout, done.stderr
    assert "| pigeons | requests | 0.50 (0.25) | 3.00 |" in done.stdout


ONE_BREAKS = """
import run
from ground import THROUGHPUT, Figure, Measure, Sample

def measure(name, trial):
    return Measure(name, "pigeons", (Figure("rate", "/s", THROUGHPUT),), {"dray": trial}, "Nothing.")

failures = {}
both = [measure("flying", lambda: 1 / 0), measure("walking", lambda: {"rate": Sample(4.0)})]
print([row.measure for row in run._rounds(both, 2, failures)], failures)
"""


def test_a_measure_that_fails_is_left_out_with_its_reason_and_the_others_go_on() -> None:
    done = python("-c", ONE_BREAKS)
    assert done.stdout == "['walking'] {'flying pigeons': 'failed: ZeroDivisionError division by zero'}\n", done.stderr
    assert done.stderr.count("flying") == 1


ONCE_IS_ENOUGH = """
import run
from ground import THROUGHPUT, Figure, Measure, Sample

def measure(name, once):
    figure = Figure("rate", "/s", THROUGHPUT)
    return Measure(name, "pigeons", (figure,), {"dray": lambda: {"rate": Sample(4.0)}}, "Nothing.", once)

print([len(row.dray) for row in run._rounds([measure("flying", True), measure("walking", False)], 3, {})])
"""


def test_what_takes_long_is_measured_in_the_first_round_only() -> None:
    done = python("-c", ONCE_IS_ENOUGH)
    assert done.stdout == "[1, 3]\n", done.stderr
