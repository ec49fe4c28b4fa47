"""A worker killed with -9 before and after every single call that it makes to broker and result backend. F2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .places import Place
from .site import Site
from .verdicts import Verdict

#: Each so many points one is tried in a quick run.
EVERY = 7


@pytest.mark.timeout(500)
@pytest.mark.fault("F2", "kill -9 before and after every call to broker and results", quick=("sqlite",))
def test_a_worker_killed_at_any_of_its_calls_loses_nothing(
    site: Site, place: Place, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    where = [""] if place.server is None else [site.url]
    whole = request.config.getoption("--all-faults", False)
    done = subprocess.run(
        [sys.executable, "kill_points.py", str(tmp_path / "points"), *where, *([] if whole else ["1", f"{EVERY}"])],
        cwd=Path(__file__).parent,
        env={name: value for name, value in site.environment.items() if not name.startswith("DRAY_")},
        capture_output=True,
        text=True,
        timeout=480,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    site.judge(Verdict(found["lost"], found["hung"], found["repeated"], 0.0, f"killed at {found['points']} points"))
    # open, consumer, receive, publish, store, ack, close: each before and after, several times over.
    assert found["points"] >= 5
    assert (found["lost"], found["hung"]) == (0, 0), done.stderr
