"""How properties are tried: in any time, and in CI always with the same examples."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# A machine that stands still for a moment breaks no property. New examples are for those who can look into what they
# find: CI tries the same ones each time, so what it refuses is a change.
settings.register_profile(
    "dray",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("DRAY_TEST_SERVICES") == "require",
)
settings.load_profile("dray")
