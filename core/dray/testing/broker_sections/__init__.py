"""The sections of the broker contract: one file, one class, one side of what a broker must do."""

from __future__ import annotations

import pytest

# Before the sections are imported: a failing contract should show the two values, as a test of one's own would.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{section}"
        for section in (
            "bodies",
            "cancelling",
            "connections",
            "dead_letters",
            "delays",
            "leases",
            "looking",
            "order",
            "publishing",
            "routing",
            "settling",
            "sharing",
        )
    )
)
