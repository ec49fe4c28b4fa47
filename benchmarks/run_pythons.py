"""dray on several Pythons: `python benchmarks/run_pythons.py python3.11 python3.13 python3.14t`.

Each gets an environment of its own, in which `run.py` measures workers; one that cannot be made is left out, and the
page says why.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec
from command_line import positive, say
from formats import number, share
from peers.environments import NotInstalled, python_of
from rows import Report, Row

HERE = Path(__file__).parent
ROOT, CACHE = HERE.parent, HERE / ".peers"
#: What an environment needs: dray as it is in this folder, the driver, and what starts servers.
REQUIREMENTS = ("--editable", f"{ROOT}[redis,testing]")
MEASURES, PLACES = ("work def", "work async def"), "memory,sqlite,redis"
ABOUT = """
import json, platform, sys, sysconfig
free = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
print(json.dumps([platform.python_version(), free, sys.version]))
"""
#: Whether it still runs without the lock once everything is loaded.
LOCKED = "import sys, dray, msgspec, redis, sqlite3; from dray import Dray; print(sys._is_gil_enabled())"
HEAD = """\
# Performance on several Pythons

Written by `make bench-pythons`; not edited by hand.

{date}, {machine}, {servers}.
Rounds on each Python: {rounds}, one after the other; `--tasks {tasks}`.

Empty tasks a second in one worker process, from the first task to the last; in brackets as a part of the bare loop on
the same Python, see [performance.md](performance.md). dray is as `pip install` leaves it there.
"""


class Python(NamedTuple):
    """An interpreter to measure with."""

    name: str
    executable: Path


class Interpreter(NamedTuple):
    """What an interpreter says about itself."""

    version: str
    free_threaded: bool
    build: str


def main() -> None:
    """Measure what the options say, and report it."""
    options = _options(sys.argv[1:])
    left_out: dict[str, str] = {}
    pythons = list(_pythons(options.interpreters, options.environments, left_out))
    found: dict[str, list[Report]] = {python.name: [] for python in pythons}
    for turn in range(options.rounds):
        for python in [one for one in pythons if one.name not in left_out]:
            say(f"round {turn + 1} of {options.rounds}: {python.name}")
            try:
                found[python.name].append(_measured(python, options.tasks))
            except subprocess.CalledProcessError as error:
                left_out[python.name] = _reason(error)
    say("")
    page = as_markdown({name: runs for name, runs in found.items() if name not in left_out}, left_out, options.tasks)
    print(page)
    if options.markdown:
        options.markdown.write_text(page, encoding="utf-8")


def _pythons(interpreters: Sequence[str], folder: Path, left_out: dict[str, str]) -> Iterator[Python]:
    """Yield an environment for each interpreter that can have one."""
    for interpreter in interpreters:
        try:
            about = Interpreter(*json.loads(_run(interpreter, "-c", ABOUT)))
            name = f"{about.version}{' free-threaded' if about.free_threaded else ''}"
            home = f"python-{name.replace(' ', '-')}"
            executable = python_of(home, REQUIREMENTS, folder, say, interpreter, about.build)
            if about.free_threaded and _run(str(executable), "-c", LOCKED).strip() == "True":
                name += ", lock on again by an extension"
            yield Python(name, executable)
        except (OSError, subprocess.CalledProcessError, NotInstalled) as error:
            left_out[Path(interpreter).name] = _reason(error)


def _measured(python: Python, tasks: int) -> Report:
    """Return what one round on one Python finds."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "report.json")
        only = [word for name in MEASURES for word in ("--only", name)]
        sizes = ["--rounds", "1", "--tasks", str(tasks), "--places", PLACES]
        _run(str(python.executable), str(HERE / "run.py"), *sizes, *only, "--json", str(file))
        return msgspec.json.decode(file.read_bytes(), type=Report)


def as_markdown(found: Mapping[str, Sequence[Report]], left_out: Mapping[str, str], tasks: int) -> str:
    """Return the page: a line for each measure and broker, a column for each Python."""
    every = [run for runs in found.values() for run in runs]
    lines = [f"{textwrap.fill(f'Not measured: {name} ({why}).', 120)}\n" for name, why in left_out.items()]
    if every:
        said = {"date": every[0].date, "machine": every[0].machine, "servers": ", ".join(every[0].servers)}
        rounds = max(len(runs) for runs in found.values())
        lines = [HEAD.format(**said, rounds=rounds, tasks=tasks), *lines]
        lines += [f"| measure | broker | {' | '.join(found)} |", f"|---|---|{'---:|' * len(found)}"]
    for measure, place in dict.fromkeys((row.measure, row.place) for run in every for row in run.rows):
        cells = [_cell([row for run in runs for row in _rates(run, measure, place)]) for runs in found.values()]
        lines.append(f"| {measure} | {place} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _rates(run: Report, measure: str, place: str) -> list[Row]:
    return [row for row in run.rows if (row.measure, row.place, row.figure) == (measure, place, "rate")]


def _cell(rows: Sequence[Row]) -> str:
    if not rows:
        return "-"
    ratios = [row.ratio for row in rows if row.ratio is not None]
    part = f" ({share(statistics.median(ratios))})" if ratios else ""
    return number(statistics.median(value for row in rows for value in row.dray)) + part


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "not there"
    said = getattr(error, "stderr", None) or str(error)
    return " ".join(said.split())[-200:]


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="python benchmarks/run_pythons.py")
    parser.add_argument("interpreters", nargs="+", metavar="PYTHON", help="an interpreter, by name or path")
    parser.add_argument("--rounds", type=positive, default=3, help="how often each is measured (3)")
    parser.add_argument("--tasks", type=positive, default=12_000, help="as for run.py (12000)")
    parser.add_argument(
        "--environments",
        type=lambda text: Path(text).resolve(),
        default=CACHE,
        metavar="FOLDER",
        help="where they are installed (benchmarks/.peers)",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page for the documentation")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
