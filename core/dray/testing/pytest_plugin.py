"""The pytest plugin: fixtures with which a test sends tasks, runs them on a real worker, and holds the clock still.

    def test_an_order_is_confirmed_a_minute_later(dray_app, dray_worker, dray_enqueued):
        confirm = dray_app.task(shop.confirm)
        result = confirm.apply_async((7,), countdown=60)
        dray_enqueued.assert_enqueued(confirm, args=(7,), count=1)
        dray_worker.run_until_idle()                        # what is due now: nothing
        dray_worker.advance(60)                             # what falls due within a minute, at its own instant
        assert result.get() == "confirmed"

Settings of the app go into the marker: `@pytest.mark.dray(task_always_eager=True)`. To have the other fixtures work on
an app of your own, override `dray_app`:

    @pytest.fixture
    def dray_app(dray_clock):
        with dray.testing.on_memory(shop.app, dray_clock) as app:
            yield app

pytest loads this file in every run, whether dray is tested or not: the engine is imported inside the fixtures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..app import Dray
    from ..clock import ManualClock
    from .driver import Driver
    from .enqueued import Enqueued


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("dray").addoption(
        "--dray-grades", metavar="FILE", help="write the grade cards of conformance kits to FILE, as JSON"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and switch on the grade cards of the conformance kits."""
    config.addinivalue_line(
        "markers", "dray(**settings): settings of the app that the fixture dray_app makes, for this test."
    )
    config.pluginmanager.import_plugin("dray.testing.grades")


@pytest.fixture
def dray_clock() -> ManualClock:
    """A clock that stands still until the test calls `advance(seconds)`."""
    from .held_clock import HeldClock

    return HeldClock()


@pytest.fixture
def dray_app(request: pytest.FixtureRequest, dray_clock: ManualClock) -> Iterator[Dray]:
    """A new app on memory:// whose time is `dray_clock`; it is the current app during the test.

    It has the settings of the markers `@pytest.mark.dray(**settings)`, the nearest one winning, over the defaults;
    environment, configuration files and installed plugins are not looked at.
    """
    from .memory import memory_app

    settings: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("dray"))):
        if marker.args:
            raise pytest.UsageError(f"@pytest.mark.dray takes settings by name, task_acks_late=True; got {marker.args}")
        settings.update(marker.kwargs)
    with memory_app(dray_clock, **settings) as app, app.as_current():
        yield app


@pytest.fixture
def dray_worker(dray_app: Dray) -> Driver:
    """A real worker of `dray_app`, for `run_until_idle()` and `advance(seconds)`: see `dray.testing.Driver`."""
    from .driver import Driver

    return Driver(dray_app)


@pytest.fixture
def dray_worker_for() -> Callable[..., Driver]:
    """`dray_worker_for(app, **options)`: the like of `dray_worker` for another app, or with options of its own."""
    from .driver import Driver

    return Driver


@pytest.fixture
def dray_enqueued(dray_app: Dray) -> Enqueued:
    """What `dray_app` has sent and nobody has run: `assert_enqueued(...)`, `all()`: see `dray.testing.Enqueued`."""
    from .enqueued import Enqueued

    return Enqueued(dray_app)
