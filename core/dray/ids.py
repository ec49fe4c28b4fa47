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

    #: The millisecond for which the beginning of an id was made last, and that beginning. Replaced as one, so that two
    #: threads can at worst make the same one twice.
    latest = (-1, "")
    time = clock.time

    def new_id() -> str:
        nonlocal latest
        milliseconds, beginning = latest
        now = int(time() * 1000)
        if now != milliseconds:
            text = f"{now & 0xFFFF_FFFF_FFFF:012x}"
            beginning = f"{text[:8]}-{text[8:]}-7"
            latest = now, beginning
        # 72 random bits; the "8" is the variant.
        noise = bits(72).to_bytes(9).hex("-", 6)
        return f"{beginning}{noise[:3]}-8{noise[3:]}"

    return new_id
