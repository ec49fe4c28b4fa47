"""What holds for every test: nothing that is global to the process leaks from one test into the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dray import shared


@pytest.fixture(autouse=True)
def shared_tasks_stay_in_their_test() -> Iterator[None]:
    """Forget the shared tasks that a test declared: every app of the process would have them."""
    before = list(shared.declared)
    yield
    shared.declared[:] = before
