"""dray beside other task queues: `python benchmarks/run_peers.py`, or `make bench-peers`.

Each peer is installed once, in an environment of its own; one that cannot be is left out, and the report says why.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path

from command_line import positive, say, some_of
from peers.chart import Bar, Group, as_svg
from peers.environments import pythons
from peers.standings import Row, Standings, as_json, as_markdown, as_text, number, row, standings
from peers.table import CONFIGS, OURS, PLACES, REQUIREMENTS, SIDES, Side
from peers.trials import MEASURES, About, Ground, Measure, Sample
from services import Servers, running

CACHE = Path(__file__).with_name(".peers")
PEERS = tuple(dict.fromkeys(side.name for side in SIDES if side.name != OURS))


def main() -> None:
    """Measure what the options say, and report it."""
    options = _options(sys.argv[1:])
    measures = _measures(options.only)
    left_out: dict[str, str] = {}
    with running(say) as servers:
        sides = _with_servers(_sides(options.peers, options.places), servers, left_out)
        sides, interpreters = _with_environments(sides, options.environments, left_out)
        ground = Ground(servers, interpreters, options.tasks)
        abouts = _known(sides, ground.about, left_out)
        rows = rounds(measures, abouts, options.configs, options.rounds, ground.run, left_out)
        found = standings(
            rows, measures, _installed(abouts), servers.versions, left_out, options.rounds, _command(options)
        )
    print(as_text(found))
    if options.json:
        options.json.write_bytes(as_json(found))
    if options.markdown:
        options.markdown.write_text(as_markdown(found, "make bench-peers"), encoding="utf-8")
        options.markdown.with_suffix(".svg").write_text(chart(found), encoding="utf-8")
        # The goals of `performance.md` are judged by it.
        options.markdown.with_suffix(".json").write_bytes(as_json(found))
    if any(why.startswith("failed") for why in left_out.values()):
        raise SystemExit(1)


Run = Callable[[Measure, Side, About, str], Mapping[str, Sample]]


def rounds(
    measures: Sequence[Measure],
    abouts: Mapping[Side, About],
    configs: Sequence[str],
    count: int,
    run: Run,
    left_out: dict[str, str],
) -> list[Row]:
    """Run every side of every measure once a round, so that a slow minute of the machine hits all of them.

    What fails is not tried again, and `left_out` says why; its earlier rounds do not count. Stopped by Ctrl-C, it
    leaves what was found by then.
    """
    plan = [
        (measure, side, config)
        for measure in measures
        for side in abouts
        for config in configs
        if measure.fits(abouts[side], config)
    ]
    found: dict[tuple[Measure, Side, str], list[Mapping[str, Sample]]] = {trial: [] for trial in plan}
    for turn, trial in product(range(count), plan):
        measure, side, config = trial
        what = f"{measure.name}: {side.name} on {side.place}, {config}"
        if what in left_out:
            continue
        say(f"round {turn + 1} of {count}: {what}")
        try:
            found[trial].append(run(measure, side, abouts[side], config))
        except KeyboardInterrupt:
            _leave_out(left_out, f"the rest of round {turn + 1} and what would follow", "stopped")
            break
        except Exception as error:
            _leave_out(left_out, what, f"failed: {' '.join(f'{type(error).__name__} {error}'.split())[:300]}")
            del found[trial]
    say("")
    return [*_rows(measures, found)]


def _rows(
    measures: Sequence[Measure], found: Mapping[tuple[Measure, Side, str], Sequence[Mapping[str, Sample]]]
) -> list[Row]:
    """Return a row for every figure on every broker where anything was found."""
    rows = []
    for measure in measures:
        for place in PLACES:
            for figure in measure.figures:
                samples = {
                    (side.name, config): [one[figure.name] for one in trials if figure.name in one]
                    for (measured, side, config), trials in found.items()
                    if measured is measure and side.place == place
                }
                if any(samples.values()):
                    rows.append(row(measure, place, figure, samples))
    return rows


def chart(found: Standings) -> str:
    """Return the chart of worker throughput: of each library what it reached at best, whatever the kind of task."""
    groups = []
    for place in PLACES:
        best: dict[str, Bar] = {}
        rows = [one for one in found.rows if one.place == place and one.measure in ("work def", "work async def")]
        for standing in (standing for one in rows for standing in one.standings):
            bar = Bar(
                standing.label,
                standing.middle,
                min(standing.values),
                max(standing.values),
                f"{number(standing.middle)}/s",
                standing.name == OURS,
            )
            if standing.name not in best or best[standing.name].value < bar.value:
                best[standing.name] = bar
        if best:
            groups.append(Group(place, sorted(best.values(), key=lambda bar: -bar.value)))
    note = f"{found.date}, {found.machine}; of each library its fastest configuration; line: lowest to highest round"
    return as_svg("No-op tasks a second, worker, results ignored", note, groups)


def _measures(words: Sequence[str]) -> list[Measure]:
    """Return the measures whose name has one of the words in it; all of them when there are no words."""
    chosen = [one for one in MEASURES if not words or any(word in one.name for word in words)]
    if not chosen:
        names = ", ".join(one.name for one in MEASURES)
        raise SystemExit(f"nothing to measure is called {' or '.join(map(repr, words))}; there are: {names}")
    return chosen


def _sides(peers: Sequence[str], places: Sequence[str]) -> list[Side]:
    """Return these peers at these places, and dray wherever there is one of them; dray alone when there are none."""
    beside = {side.place for side in SIDES if side.name in peers}
    return [
        side
        for side in SIDES
        if side.place in places and (side.name in peers or (side.name == OURS and (not peers or side.place in beside)))
    ]


def _with_servers(sides: Sequence[Side], servers: Servers, left_out: dict[str, str]) -> list[Side]:
    """Start the servers that are needed; return the sides that have theirs."""
    for place in dict.fromkeys(side.place for side in sides):
        servers.start(PLACES[place].servers)
        missing = [f"{name}: {servers.missing[name]}" for name in PLACES[place].servers if name in servers.missing]
        if missing:
            _leave_out(left_out, place, "; ".join(missing))
    return [side for side in sides if side.place not in left_out]


def _with_environments(
    sides: Sequence[Side], folder: Path, left_out: dict[str, str]
) -> tuple[list[Side], dict[str, Path]]:
    """Return the sides that are installed, and their interpreters."""
    needed = {side.name: REQUIREMENTS[side.name] for side in sides if side.name != OURS}
    interpreters, missing = pythons(needed, folder, say)
    for name, why in missing.items():
        _leave_out(left_out, name, why)
    interpreters[OURS] = Path(sys.executable)
    return [side for side in sides if side.name in interpreters], interpreters


def _known(sides: Sequence[Side], about: Callable[[Side], About], left_out: dict[str, str]) -> dict[Side, About]:
    """Return what every side says about itself; one that cannot even do that does not take part."""
    found = {}
    for side in sides:
        try:
            found[side] = about(side)
        except Exception as error:
            _leave_out(left_out, f"{side.name} on {side.place}", f"failed: {' '.join(str(error).split())[:300]}")
    return found


def _leave_out(left_out: dict[str, str], who: str, why: str) -> None:
    left_out[who] = why
    print(f"not measured: {who} ({why})", file=sys.stderr)


def _installed(abouts: Mapping[Side, About]) -> dict[str, tuple[dict[str, str], dict[str, str]]]:
    return {side.name: (about.versions, about.configs) for side, about in abouts.items()}


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="python benchmarks/run_peers.py")
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="measures with this word")
    parser.add_argument(
        "--peers",
        type=lambda text: some_of(text, PEERS) if text else [],
        default=list(PEERS),
        metavar="PEER,...",
        help=f"beside dray, which is always there: {', '.join(PEERS)} (all); '' for none",
    )
    parser.add_argument(
        "--places",
        type=lambda text: some_of(text, PLACES),
        default=list(PLACES),
        metavar="PLACE,...",
        help=f"brokers: {', '.join(PLACES)} (all)",
    )
    parser.add_argument(
        "--configs",
        type=lambda text: some_of(text, CONFIGS),
        default=list(CONFIGS),
        metavar="CONFIG,...",
        help="configurations: default, best (both)",
    )
    parser.add_argument("--rounds", type=positive, default=3, help="how often everything is measured (3)")
    parser.add_argument(
        "--tasks", type=positive, default=20_000, help="tasks of a throughput trial (20000; slow peers get fewer)"
    )
    parser.add_argument(
        "--environments",
        type=lambda text: Path(text).resolve(),
        default=CACHE,
        metavar="FOLDER",
        help="where peers are installed (benchmarks/.peers)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, every sample included")
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="write the page for the documentation; beside it its chart and every sample",
    )
    return parser.parse_args(arguments)


def _command(options: argparse.Namespace) -> str:
    """Return the command that measures the same again, wherever its report goes."""
    words = ["--rounds", str(options.rounds), "--tasks", str(options.tasks)]
    words += [part for word in options.only for part in ("--only", word)]
    for name, every in (("peers", PEERS), ("places", PLACES), ("configs", CONFIGS)):
        chosen = getattr(options, name)
        words += [] if chosen == list(every) else [f"--{name}", ",".join(chosen)]
    return shlex.join(["python", "benchmarks/run_peers.py", *words])


if __name__ == "__main__":
    main()
