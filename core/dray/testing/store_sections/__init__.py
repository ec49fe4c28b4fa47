"""The sections of the store contract: one file for each side of what a store must do."""

from __future__ import annotations

import pytest

# Before the sections are imported: a failing contract should show the two values, as a test of one's own would.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{section}"
        for section in (
            "changing",
            "checking",
            "clocks",
            "connections",
            "counting",
            "forgetting",
            "limits",
            "looking",
            "processes",
            "replies",
        )
    )
)
