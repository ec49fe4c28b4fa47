"""The benchmark: `python benchmarks/run.py`, or `make bench`. Prints how close dray comes to the bare loops."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from command_line import positive, say, some_of
from ground import Measure, Sample, Size
from measures import measures
from peers.standings import Standings
from places import PLACES
from report import as_markdown, as_text
from rows import Report, Row, as_json, report, row
from services import Servers, running

#: What a run with peers has found, beside its page.
PEERS = Path(__file__).parents[1] / "docs" / "performance-peers.json"

S = TypeVar("S", bound=msgspec.Struct)


def main() -> None:
    """Measure what the options say, and report it."""
    options = _options(sys.argv[1:])
    failures: dict[str, str] = {}
    found = _read(options.again, Report) if options.again else _measured(options, failures)
    peers = _read(options.peers, Standings) if options.peers.exists() else None
    print(as_text(found, peers))
    if options.json:
        options.json.write_bytes(as_json(found))
    if options.markdown:
        options.markdown.write_text(as_markdown(found, peers), encoding="utf-8")
    if failures:
        raise SystemExit(1)


def _measured(options: argparse.Namespace, failures: dict[str, str]) -> Report:
    """Return what a run finds; `failures` says what did not work."""
    with running(say) as servers:
        size = Size(options.tasks, options.idle, options.rest, options.backlog, options.delayed)
        chosen = _chosen(list(measures(size, options.places, servers)), options.only)
        left_out = _left_out(chosen, servers)
        chosen = [one for one in chosen if one.place not in left_out]
        rows = _rounds(chosen, options.rounds, failures)
        return report(rows, chosen, options.rounds, _command(options), servers.versions, left_out | failures)


def _read(file: Path, kind: type[S]) -> S:
    """Return what an earlier run has written."""
    return msgspec.json.decode(file.read_bytes(), type=kind)


def _left_out(chosen: Sequence[Measure], servers: Servers) -> dict[str, str]:
    """Start the servers that are needed; return the places that have to do without, and why."""
    left_out = {}
    for place in dict.fromkeys(one.place for one in chosen if one.place):
        needed = PLACES[place].servers
        servers.start(needed)
        if missing := [f"{name}: {servers.missing[name]}" for name in needed if name in servers.missing]:
            left_out[place] = "; ".join(missing)
            print(f"not measured: {place} ({left_out[place]})", file=sys.stderr)
    return left_out


def _rounds(chosen: Sequence[Measure], rounds: int, failures: dict[str, str]) -> list[Row]:
    """Run every side of every measure once a round, so that a slow minute of the machine hits all of them.

    A measure that fails is left out, and `failures` says why: the others took too long to be lost with it.
    """
    # For each measure: by figure, by side, one sample for each round.
    found: list[dict[str, dict[str, list[Sample]]]] = [{} for _ in chosen]
    for turn in range(rounds):
        for measure, figures in zip(chosen, found, strict=True):
            what = f"{measure.name} {measure.place}"
            if what in failures or (turn and measure.once):
                continue
            say(f"round {turn + 1} of {rounds}: {what}")
            try:
                for side, trial in measure.sides.items():
                    for name, sample in trial().items():
                        figures.setdefault(name, {}).setdefault(side, []).append(sample)
            except Exception as error:
                failures[what] = f"failed: {' '.join(f'{type(error).__name__} {error}'.split())[:200]}"
                print(f"{what} {failures[what]}", file=sys.stderr)
    say("")
    return [
        row(measure, figure, figures[figure.name])
        for measure, figures in zip(chosen, found, strict=True)
        if f"{measure.name} {measure.place}" not in failures
        for figure in measure.figures
        if figure.name in figures
    ]


def _chosen(every: Sequence[Measure], words: Sequence[str]) -> Sequence[Measure]:
    """Return the measures whose name or broker has one of the words in it; all of them when there are no words."""
    chosen = [one for one in every if not words or any(word in f"{one.name} {one.place}" for word in words)]
    if not chosen:
        names = ", ".join(dict.fromkeys(one.name for one in every))
        raise SystemExit(f"nothing to measure is called {' or '.join(map(repr, words))}; there are: {names}")
    return chosen


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="python benchmarks/run.py")
    parser.add_argument(
        "--only", action="append", default=[], metavar="WORD", help="measures or brokers with this word"
    )
    parser.add_argument(
        "--places",
        type=lambda text: some_of(text, PLACES),
        default=list(PLACES),
        metavar="PLACE,...",
        help=f"brokers: {', '.join(PLACES)} (all)",
    )
    parser.add_argument("--rounds", type=positive, default=3, help="how often everything is measured (3)")
    parser.add_argument(
        "--tasks", type=positive, default=12_000, help="tasks of a trial (12000; fast brokers get more)"
    )
    parser.add_argument("--idle", type=float, default=2.0, metavar="SECONDS", help="watch an idle worker for (2)")
    parser.add_argument("--rest", type=float, default=30.0, metavar="SECONDS", help="a long pause before a call (30)")
    parser.add_argument("--backlog", type=positive, default=200_000, help="the longest queue that is tried (200000)")
    parser.add_argument("--delayed", type=positive, default=100_000, help="tasks that are due later (100000)")
    parser.add_argument(
        "--peers", type=Path, default=PEERS, metavar="FILE", help="what run_peers.py has found, for the goals"
    )
    parser.add_argument(
        "--again", type=Path, metavar="FILE", help="measure nothing: show what --json has written in an earlier run"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, every sample included")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page for the documentation")
    return parser.parse_args(arguments)


def _command(options: argparse.Namespace) -> str:
    """Return the command that measures the same again, wherever its report goes."""
    only = [part for word in options.only for part in ("--only", word)]
    only += [] if options.places == list(PLACES) else ["--places", ",".join(options.places)]
    names = ("rounds", "tasks", "idle", "rest", "backlog", "delayed")
    sizes = [word for name in names for word in (f"--{name}", getattr(options, name))]
    return shlex.join(["python", "benchmarks/run.py", *map(str, sizes), *only])


if __name__ == "__main__":
    main()
