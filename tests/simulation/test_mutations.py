"""The simulation notices: with any one rule of the engine taken away, some seed turns red."""

from __future__ import annotations

import pytest

from .mutations import MUTATIONS, Mutation

#: The seeds of which one has to notice.
SEEDS = range(100)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.rule.replace(" ", "-"))
def test_it_is_noticed_when_this_is_no_longer_so(mutation: Mutation) -> None:
    assert mutation.first_red(SEEDS) is not None, f"nobody notices without: {mutation.rule}"
