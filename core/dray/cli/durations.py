"""Write durations and instants for people: "12s", "3m 20s", "2 days ago"."""

from __future__ import annotations

import time
from datetime import UTC, datetime

_STEPS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def short(seconds: float) -> str:
    """Return a duration in its two largest units: "850 ms", "12s", "3m 20s", "2d 4h"."""
    if seconds < 0.9995:
        return f"{max(seconds, 0) * 1000:.3g} ms"
    if seconds < 10:
        return f"{seconds:.3g}s"
    left = round(seconds)
    for n, (size, unit) in enumerate(_STEPS):
        if left >= size:
            rest = left % size // _STEPS[n + 1][0] if size > 1 else 0
            return f"{left // size}{unit}" + (f" {rest}{_STEPS[n + 1][1]}" if rest else "")
    return "0s"


def age(instant: float | None) -> str:
    """Return how long ago an instant (seconds since 1970) was, in whole seconds at the finest; "" for None."""
    if instant is None:
        return ""
    passed = int(time.time() - instant)
    return short(passed) if passed >= 1 else "now"


def moment(when: datetime | float | None) -> str:
    """Return an instant in local time, with its zone; "" for None."""
    if when is None:
        return ""
    local = when.astimezone() if isinstance(when, datetime) else datetime.fromtimestamp(when).astimezone()
    return local.strftime("%Y-%m-%d %H:%M:%S %Z")


def iso(when: datetime | float | None) -> str | None:
    """Return an instant for JSON, in UTC; None for None."""
    if when is None:
        return None
    aware = when if isinstance(when, datetime) else datetime.fromtimestamp(when, UTC)
    return aware.astimezone(UTC).isoformat()
