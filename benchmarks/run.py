"""The benchmark: `python benchmarks/run.py`, or `make bench`. Prints how close dray comes to the bare loops."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from measures import Measure, Sample, Size, measures
from report import Row, as_json, as_markdown, as_text, report, row


def main() -> None:
    """Measure what the options say, and report it."""
    options = _options(sys.argv[1:])
    chosen = _chosen(list(measures(Size(options.tasks, options.idle))), options.only)
    rows = _rounds(chosen, options.rounds)
    found = report(rows, chosen, options.rounds, _command(options))
    print(as_text(found))
    if options.json:
        options.json.write_bytes(as_json(found))
    if options.markdown:
        options.markdown.write_text(as_markdown(found), encoding="utf-8")


def _rounds(chosen: Sequence[Measure], rounds: int) -> list[Row]:
    """Run every side of every measure once a round, so that a slow minute of the machine hits all of them."""
    # For each measure: by figure, by side, one sample for each round.
    found: list[dict[str, dict[str, list[Sample]]]] = [{} for _ in chosen]
    for turn in range(rounds):
        for measure, figures in zip(chosen, found, strict=True):
            _say(f"round {turn + 1} of {rounds}: {measure.name} {measure.place}")
            for side, trial in measure.sides.items():
                for name, sample in trial().items():
                    figures.setdefault(name, {}).setdefault(side, []).append(sample)
    _say("")
    return [
        row(measure, figure, figures[figure.name])
        for measure, figures in zip(chosen, found, strict=True)
        for figure in measure.figures
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
    parser.add_argument("--rounds", type=_positive, default=5, help="how often everything is measured (5)")
    parser.add_argument("--tasks", type=_positive, default=20_000, help="tasks of a throughput trial (20000)")
    parser.add_argument("--idle", type=float, default=4.0, metavar="SECONDS", help="watch an idle worker for (4)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, every sample included")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page for the documentation")
    return parser.parse_args(arguments)


def _command(options: argparse.Namespace) -> str:
    """Return the command that measures the same again, wherever its report goes."""
    only = [part for word in options.only for part in ("--only", word)]
    sizes = ["--rounds", options.rounds, "--tasks", options.tasks, "--idle", options.idle]
    return shlex.join(["python", "benchmarks/run.py", *map(str, sizes), *only])


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


def _say(text: str) -> None:
    """Show how far it is, to people only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
