"""Plays many seeds, or one with its trace: `make simulate SEEDS=2000`, `make simulate SEED=17`.

Says which invariant a failing seed has broken, how its trace ended, and the command that repeats it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial

from .faults import FAULTS
from .simulate import Played, play

#: Lines of a failing seed's trace that are shown.
SHOWN = 40


def told(played: Played, only: Sequence[str] = ()) -> str:
    """Return what is told of a failing seed."""
    rules = "\n".join(f"  {rule}: {what}" for rule, what in played.complaints[:5])
    trace = "\n".join(f"  {line}" for line in played.trace[-SHOWN:])
    again = f"make simulate SEED={played.seed}" + (f" ONLY={','.join(only)}" if only else "")
    return f"RED {played.about}\n{rules}\nthe end of its trace:\n{trace}\nrepeat it: {again}\n"


def play_one(seed: int, only: Sequence[str]) -> int:
    """Play a seed and show its trace; return how the process ends."""
    played = play(seed, only=tuple(only))
    print("\n".join(played.trace))
    print(told(played, only) if played.complaints else f"green: {played.about}")
    return 1 if played.complaints else 0


def play_many(pool: Executor | None, seeds: Iterable[int], only: Sequence[str]) -> Iterator[Played]:
    """Play seeds, in the processes of a pool or in this one, and yield what they came to in their order."""
    one = partial(play, only=tuple(only), keep=SHOWN)
    return map(one, seeds) if pool is None else pool.map(one, seeds, chunksize=10)


def play_all(pool: Executor | None, seeds: range, only: Sequence[str]) -> int:
    """Play seeds, tell of those that are red, and of what has struck; return how the process ends."""
    began, red, runs, lasted = time.monotonic(), 0, 0, 0.0
    struck, every = Counter[str](), Counter[str]()
    for played in play_many(pool, seeds, only):
        struck.update(played.struck.keys())
        every.update(played.struck)
        runs, lasted = runs + played.runs, lasted + played.lasted
        if played.complaints:
            red += 1
            print(told(played, only), flush=True)
    took = time.monotonic() - began
    print(f"{len(seeds):,} seeds, {red} red; {runs:,} runs of tasks in {lasted / 3600:.1f} simulated hours")
    print(f"{took:.1f} s, {len(seeds) / took:.0f} seeds a second")
    for fault in FAULTS:
        share = struck[fault.name] / len(seeds)
        print(f"  {fault.name:<28} struck in {share:6.1%} of the seeds, {every[fault.name]:,} times")
    return 1 if red else 0


def red_without(rule: str, seed: int) -> bool:
    """Tell whether a seed notices that a rule has been taken away."""
    from .mutations import MUTATIONS

    return bool(next(each for each in MUTATIONS if each.rule == rule).play(seed).complaints)


def mutate(pool: Executor | None, seeds: range) -> int:
    """Take one rule away after the other; tell how many seeds notice. Return how the process ends."""
    from .mutations import MUTATIONS

    unnoticed = 0
    for mutation in MUTATIONS:
        one = partial(red_without, mutation.rule)
        red = sum(map(one, seeds) if pool is None else pool.map(one, seeds, chunksize=5))
        unnoticed += not red
        print(f"| {mutation.rule} | {', '.join(mutation.only)} | {red} of {len(seeds)} |", flush=True)
    return 1 if unnoticed else 0


def main() -> int:
    """Play what the command line asks for; return how the process ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds to play")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="play this one alone, and show its trace")
    parser.add_argument("--only", default="", help="these programs, by name, with commas between")
    parser.add_argument("--mutations", action="store_true", help="take one rule of the engine away after the other")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes to play in")
    asked = parser.parse_args()
    only = [name for name in asked.only.split(",") if name]
    if asked.seed is not None:
        return play_one(asked.seed, only)
    seeds = range(asked.first, asked.first + asked.seeds)
    if asked.jobs == 1:
        return mutate(None, seeds) if asked.mutations else play_all(None, seeds, only)
    with ProcessPoolExecutor(asked.jobs) as pool:
        return mutate(pool, seeds) if asked.mutations else play_all(pool, seeds, only)


if __name__ == "__main__":
    sys.exit(main())
