"""Rates: what `rate_limit` may say ("10/m", "5000/d", 2.5), and the bucket of tokens that it comes to."""

from __future__ import annotations

import re
from typing import Any

import msgspec

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_RATE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*/\s*([smhd])\s*")
FORMS = 'a number and a unit, such as "10/s", "10/m", "10/h" or "10/d", or a number per second; None: no limit'


class Rate(msgspec.Struct, frozen=True, gc=False):
    """So many in so many seconds, of which `burst` may come at once after a rest."""

    number: float
    #: Seconds.
    per: float
    burst: int = 1

    @property
    def every(self) -> float:
        """Seconds between two turns."""
        return self.per / self.number

    def __str__(self) -> str:
        unit = next(unit for unit, seconds in _UNITS.items() if seconds == self.per)
        return f"{self.number:g}/{unit}"


def read_rate(value: Any, burst: Any = None) -> Rate | None:
    """Return a rate from what a user says, None for no limit; ValueError says what is wrong with it.

    As in Celery, 0 is no limit.
    """
    if burst is not None and (isinstance(burst, bool) or not isinstance(burst, int) or burst < 1):
        raise ValueError(f"burst is a whole number >= 1; got {burst!r}")
    if value is None:
        return None
    number, per = _read(value)
    return Rate(number, per, burst or 1) if number else None


def _read(value: Any) -> tuple[float, float]:
    if isinstance(value, str):
        if (found := _RATE.fullmatch(value)) is not None:
            return float(found[1]), _UNITS[found[2]]
        try:
            value = float(value)
        except ValueError:
            raise ValueError(f"a rate is {FORMS}; got {value!r}") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise ValueError(f"a rate is {FORMS}; got {value!r}")
    return float(value), 1.0
