"""Plays seeds and tells what came of them: the function behind `make simulate` and the tests."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from .programs import all_programs
from .stage import Stage


class Played(NamedTuple):
    """What one seed has come to."""

    seed: int
    about: str
    complaints: list[tuple[str, str]]
    trace: list[str]
    struck: dict[str, int]
    #: Seconds of the world.
    lasted: float
    runs: int


def play(seed: int, *, only: tuple[str, ...] = (), kind: str = "", keep: int | None = None) -> Played:
    """Play one seed: with the programs and the kind of broker that it draws, or with these."""
    kinds = all_programs()
    if only:
        kinds = [kind for kind in kinds if kind.name in only]
    else:
        chance = Random(f"{seed} programs")
        kinds = sorted(chance.sample(kinds, min(len(kinds), chance.randint(2, 4))), key=lambda kind: kind.name)
    stage = Stage(seed, kinds, kind=kind, keep=keep)
    stage.play()
    world = stage.world
    return Played(
        seed,
        str(stage),
        world.complaints,
        world.trace,
        dict(sorted(stage.faults.struck.items())),
        world.now,
        len(stage.history.runs),
    )
