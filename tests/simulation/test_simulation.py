"""The engine in simulated worlds: seeds that find nothing wrong, and worlds that are a function of their seed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .__main__ import told
from .faults import FAULTS
from .programs import all_programs
from .simulate import play

ROOT = Path(__file__).parents[2]
#: How many seeds every run of the tests plays, in so many parts.
SEEDS, PARTS = 200, 10


@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_lost_or_wrong_whatever_goes_wrong(part: int) -> None:
    red = [played for seed in range(part, SEEDS, PARTS) if (played := play(seed, keep=60)).complaints]
    assert not red, "\n".join(told(played) for played in red)


def test_every_fault_strikes() -> None:
    # Nothing that is simulated yet has somebody who sends again what was lost.
    missing = {fault.name for fault in FAULTS} - {"lost"}
    for seed in range(1000, 1060):
        missing -= play(seed).struck.keys()
        if not missing:
            break
    assert not missing


def test_every_program_runs_to_its_end_by_itself() -> None:
    for kind in all_programs():
        played = play(1, only=(kind.name,))
        assert not played.complaints, told(played, (kind.name,))
        assert played.runs or kind.name == "unknown"


def test_the_same_seed_gives_the_same_trace_whatever_the_hash_seed() -> None:
    seeds = [3, 4, 5, 6]
    code = (
        "import hashlib; from tests.simulation.simulate import play; "
        f"print(*(hashlib.sha256(chr(10).join(play(seed).trace).encode()).hexdigest() for seed in {seeds}))"
    )
    paths = os.pathsep.join([str(ROOT), *sys.path])
    told = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": paths},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for hash_seed in ("1", "2")
    ]
    here = [hashlib.sha256("\n".join(play(seed).trace).encode()).hexdigest() for seed in seeds]
    assert told == [here, here]


def test_another_seed_gives_another_trace() -> None:
    assert play(3).trace != play(4).trace
