"""Ids for calls: UUID version 7 as text, so that ids sort by the time they were made (RFC 9562)."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from .clock import SYSTEM_CLOCK, Clock

#: Where the random part comes from. Seeded by the system; seeded again in every forked child.
_random = random.Random(int.from_bytes(os.urandom(16), "big"))
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _random.seed(int.from_bytes(os.urandom(16), "big")))


def id_source(clock: Clock = SYSTEM_CLOCK, bits: Callable[[int], int] = _random.getrandbits) -> Callable[[], str]:
    """Return a function that makes ids. Thread-safe with the default source of random bits."""

    def new_id() -> str:
        milliseconds = int(clock.time() * 1000)
        noise = bits(74)
        high, low = milliseconds >> 16 & 0xFFFF_FFFF, milliseconds & 0xFFFF
        variant = 0x8000 | noise >> 12 & 0x3FFF
        return f"{high:08x}-{low:04x}-7{noise & 0xFFF:03x}-{variant:04x}-{noise >> 26:012x}"

    return new_id
