"""Revocations that end what runs: how the wish, and its signal, travel through any broker that can cancel.

A broker remembers ids, and nothing beside them. So the wish is an id of its own, made of the task's and the signal,
remembered beside the plain one and looked for only when that is found.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Collection, Sequence
from signal import Signals

from .broker import Broker
from .errors import ConfigurationError
from .urls import nearest

#: Seconds that a revocation is remembered: as long as a message may sensibly be delayed.
REVOKED_FOR = 90 * 86400.0
#: The signals that a task may be ended with, those that not every system has left out.
ENDING = {
    name: Signals[name]
    for name in ("SIGTERM", "SIGKILL", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGABRT")
    if hasattr(signals, name)
}


def revoke(broker: Broker, ids: Sequence[str], ttl: float, signal: str | int | None) -> None:
    """Have the broker remember that `ids` are revoked; with a signal, that they are to be ended if they run."""
    if signal is not None:
        # First the wish: whoever finds the plain mark shall find it too.
        broker.cancel([f"{id}!{_named(signal)}" for id in ids], ttl)
    broker.cancel(ids, ttl)


def terminated(broker: Broker, ids: Collection[str]) -> dict[str, int | None]:
    """Return for each of these revoked ids the signal that it is to be ended with, or None for none."""
    wishes = {f"{id}!{name}": (id, number) for id in ids for name, number in ENDING.items()}
    found: dict[str, int | None] = dict.fromkeys(ids)
    for wish in broker.cancelled(list(wishes)) if wishes else ():
        id, number = wishes[wish]
        found[id] = int(number)
    return found


def _named(signal: str | int) -> str:
    for name, number in ENDING.items():
        if signal in (name, name.removeprefix("SIG"), number):
            return name
    known = ", ".join(ENDING)
    hint = nearest(str(signal), ENDING)
    raise ConfigurationError(f"a task can be ended with {known}; asked for {signal!r}{hint}")
