"""The options of the fault suite, and what each of its tests gets: a broker, a seed, a site.

A test says which fault it is and where it is tried:

    @pytest.mark.fault("F1", "kill -9 of the whole worker", quick=("sqlite", "redis"))

`quick` are the brokers of a run without `--all-faults`, `on` those of a run with it; all where nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from .places import BROKERS, Place
from .site import Site, to_json
from .verdicts import Verdict, Verdicts, parameters_of, row_of


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--fault-seeds", metavar="N", type=int, default=1, help="try each fault with the seeds 1 to N")
    group.addoption("--fault-seed", metavar="SEED", type=int, help="try each fault with this seed only")
    group.addoption("--fault-brokers", metavar="NAMES", help=f"brokers to try them on, of {','.join(BROKERS)}")
    group.addoption("--all-faults", action="store_true", help="try all faults on all brokers, not the quick ones only")
    group.addoption("--faults-report", metavar="FILE", help="write what came of them into FILE, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(code, title, quick=, on=): which fault a test is about, and where.")
    if not config.pluginmanager.has_plugin("dray-faults"):
        config.pluginmanager.register(Verdicts(), "dray-faults")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("fault")
    if marker is None:
        return
    config = metafunc.config
    everywhere = marker.kwargs.get("on", BROKERS)
    brokers = everywhere if config.getoption("--all-faults", False) else marker.kwargs.get("quick", everywhere)
    chosen: str | None = config.getoption("--fault-brokers", "") or None
    if chosen is not None:
        brokers = [name for name in brokers if name in chosen.split(",")]
    metafunc.parametrize("place", brokers, indirect=True, scope="session")
    if "seed" in metafunc.fixturenames:
        one: int | None = config.getoption("--fault-seed", 0) or None
        metafunc.parametrize("seed", [one] if one else range(1, config.getoption("--fault-seeds", 1) + 1))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out those whose brokers are not tried in this run, without a word: they are no skipped tests."""
    out = [item for item in items if item.get_closest_marker("fault") and row_of(item) is None]
    if out:
        items[:] = [item for item in items if item not in out]
        config.hook.pytest_deselected(items=out)


@pytest.fixture(scope="session")
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """The broker that the fault is tried on, started once for all of them."""
    with closing(Place(request.param)) as made:
        yield made


@pytest.fixture
def site(place: Place, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """Where the fault happens: see `Site`."""
    seed = int(parameters_of(request.node).get("seed", 0))

    def judge(verdict: Verdict) -> None:
        row = row_of(request.node)
        assert row is not None
        request.node.user_properties.append(("verdict", to_json(verdict)))
        print(
            f"{row.code} {row.title} {row.variant} on {place.name}, seed {seed}: lost {verdict.lost}, duplicated "
            f"{verdict.duplicated}, hung {verdict.hung}, {verdict.seconds:.1f} s to recover {verdict.note}"
        )

    place.restore()
    made = Site(place, tmp_path, seed, judge)
    yield made
    made.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Say below a failure how it is repeated."""
    report = yield
    if report.failed and row_of(item) is not None:
        parameters = parameters_of(item)
        again = f"python -m pytest tests/faults --all-faults --fault-brokers {parameters['place']}"
        if "seed" in parameters:
            again += f" --fault-seed {parameters['seed']}"
        name = item.nodeid.rpartition("::")[2].partition("[")[0]
        if isinstance(site := getattr(item, "funcargs", {}).get("site"), Site) and report.when == "call":
            report.sections.append(("what happened", site.story()))
        report.sections.append(("to repeat it", f"{again} -k {name}"))
    return report
