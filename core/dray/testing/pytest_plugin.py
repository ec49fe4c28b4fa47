"""The pytest plugin: fixtures with which a test sends tasks, runs them on a real worker, and holds the clock still."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Switch on the grade cards of the conformance kits."""
    from . import grades

    grades.pytest_configure(config)
