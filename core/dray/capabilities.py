"""What a broker can do, as data. The engine asks these; it never asks a broker for its name.

For each feature a broker's declaration resolves to *native* (the broker does it), *emulated* (the engine does it, at
a cost it can name) or *refused* (an error when the task is declared or sent, never silently less): `resolve`.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

#: Longer than any delay a broker with unlimited delays is asked for (seconds; about 31 years).
FOREVER = 1e9


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What one broker connection can do. The defaults describe the least that is still a broker.

    Durations are seconds, sizes are bytes. Read after `open()`: a server's version may decide.
    """

    #: Longest `Envelope.delay` it keeps by itself; 0 when it has no delays.
    max_delay: float = 0.0
    #: How many of the priorities 0-9 it tells apart; 1 means it has none.
    priority_levels: int = 1
    #: True: a delivery is lent for the time asked and `extend` renews it. False: it is held until the connection ends.
    lease: bool = False
    #: Longest time one delivery can be held, renewals included.
    lease_max: float = FOREVER
    #: True: `Delivery.delivery_count` is counted by the broker, before user code runs.
    delivery_count: bool = False
    #: True: `release` does not count as a delivery.
    release_uncharged: bool = False
    #: True: `requeue(delay=...)` keeps the message away that long by itself.
    requeue_delay: bool = False
    #: Largest `Envelope.body` it takes; None when only memory limits it.
    max_message_bytes: int | None = None
    #: Most envelopes one `publish` passes on at once, and most deliveries one `receive` brings.
    max_publish_batch: int = 1000
    max_receive_batch: int = 1000
    #: True: publishing an (id, attempt) that is still stored changes nothing.
    dedup: bool = False
    #: True: comes out in the order published, within one queue and priority, while nothing is redelivered.
    fifo: bool = False
    #: "" (ignored), "order" (same key: one at a time, in order) or "fair" (keys take turns).
    key: str = ""
    #: True: `cancel` and `cancelled` work, and deliveries carry `cancelled`.
    cancel: bool = False
    #: True: `find` tells whether an id is stored.
    find: bool = False
    #: True: `peek` lists waiting messages without touching them.
    peek: bool = False
    #: True: `bury`, `dead`, `replay` and `discard` keep dead letters, whole, with their reason.
    dead_letters: bool = False
    #: True: `purge` empties a queue.
    purge: bool = False
    #: "exact", "approximate" or "" when `sizes` cannot tell.
    size: str = ""
    #: True: what `publish` returned for survives the death of every process.
    durable: bool = True
    #: True: other processes see the same queues.
    shared: bool = True
    #: True: `declare` binds queues to exchanges, and envelopes with an exchange reach all that fit.
    exchanges: bool = False
    #: True: a queue declared with `broadcast` gives every consumer a copy of its own.
    broadcast: bool = False
    #: True: `publish_within` joins a transaction of the caller's.
    transactional: bool = False


class Support(NamedTuple):
    """How one feature is had on one broker: `how` is "native", "emulated" or "refused"; `note` says what it costs."""

    feature: str
    how: str
    note: str


def resolve(capabilities: Capabilities) -> list[Support]:
    """Return how each feature of the engine is had on a broker with these capabilities.

    This list is what `dray doctor` and `dray plugins` print and what the docs are generated from; the engine's own
    decisions read the same fields.
    """
    c = capabilities

    def row(feature: str, native: bool, note: str = "", *, otherwise: str = "refused", cost: str = "") -> Support:
        return Support(feature, "native", note) if native else Support(feature, otherwise, cost)

    return [
        row(
            "delay (countdown, eta)",
            c.max_delay > 0,
            "any length" if c.max_delay >= FOREVER else f"up to {c.max_delay:g} s",
            cost="countdown and eta are refused when sent",
        ),
        row(
            "priority",
            c.priority_levels > 1,
            f"{c.priority_levels} levels",
            cost="a priority above 0 is refused when sent",
        ),
        row(
            "lease and renewal",
            c.lease,
            "a dead worker's tasks come back by themselves",
            otherwise="emulated",
            cost="they come back when the connection is seen to be dead",
        ),
        row(
            "delivery count, poison limit",
            c.delivery_count,
            "counted by the broker",
            cost="a task that kills its worker is redelivered without a limit",
        ),
        row(
            "shutdown gives back uncharged",
            c.release_uncharged,
            otherwise="emulated",
            cost="giving back counts as one delivery",
        ),
        row("give back with delay", c.requeue_delay, otherwise="emulated", cost="it comes back at once"),
        row("retry with delay", c.max_delay > 0, cost="a retry runs at once"),
        row(
            "sending twice is harmless",
            c.dedup,
            otherwise="emulated",
            cost="a publish repeated after an outage can run twice",
        ),
        row("order within a queue", c.fifo, otherwise="refused", cost="order is not kept"),
        row("cancel (revoke)", c.cancel, "durable", cost="revoke() is refused"),
        row(
            "unknown id told from waiting",
            c.find,
            otherwise="emulated",
            cost="one result-backend write per task sent",
        ),
        row("list waiting messages", c.peek, cost="`dray queues --peek` is refused"),
        row(
            "dead letters",
            c.dead_letters,
            "kept whole, with the reason; replay and purge",
            cost="what cannot be run is logged and dropped",
        ),
        row("purge", c.purge, cost="`dray purge` is refused"),
        row("queue length", bool(c.size), c.size, cost="not shown"),
        row("survives a restart", c.durable, cost="messages live and die with the process"),
        row("shared between processes", c.shared, cost="worker and sender must be one process"),
    ]
