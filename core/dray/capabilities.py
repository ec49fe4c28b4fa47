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
    #: True: what a worker held when it was killed comes out again, when its lease is over or its connection is seen
    #: to be dead. False: it is gone.
    redelivers: bool = True
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
    #: Most messages that one request brings or settles, where every request is dear: the engine then waits a few
    #: milliseconds for a full one while others lie ready. 1: it does not wait.
    request_batch: int = 1
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


#: Priorities as the engine tells them apart where the broker has none: each step has a queue of its own.
STEPS = (5, 1, 0)
#: Bytes of a body that the engine may need for a label of its own.
LABEL_BYTES = 4096


def assisted(native: Capabilities, store: Capabilities | None) -> Capabilities:
    """Return what a broker with `native` capabilities can do when the engine helps, with or without a store."""
    kept = store is not None
    # A copy would be taken for a repeated publish by a broker that recognises those, and leave its place in an order.
    copies = not native.dedup and native.key != "order"
    delays = kept or (native.max_delay > 0 and copies)
    counts = native.delivery_count or kept
    helped = msgspec.structs.replace(
        native,
        max_delay=FOREVER if delays else native.max_delay,
        priority_levels=native.priority_levels if native.priority_levels > 1 else len(STEPS),
        delivery_count=counts,
        release_uncharged=native.release_uncharged or (counts and copies and not native.fifo),
        requeue_delay=native.requeue_delay or (delays and copies),
        cancel=native.cancel or kept,
        # It does not see what is kept elsewhere, or in another queue.
        find=native.find and native.dead_letters and native.max_delay >= FOREVER,
        dead_letters=True,
    )
    if helped == native or native.max_message_bytes is None:
        return helped
    return msgspec.structs.replace(helped, max_message_bytes=native.max_message_bytes - LABEL_BYTES)


def lacks(native: Capabilities) -> bool:
    """Tell whether the engine has anything to add to a broker with these capabilities."""
    return assisted(native, Capabilities()) != native


class Support(NamedTuple):
    """How one feature is had on one broker: `how` is "native", "emulated" or "refused"; `note` says what it costs."""

    feature: str
    how: str
    note: str


def resolve(native: Capabilities, store: Capabilities | None = None) -> list[Support]:
    """Return how each feature of the engine is had on a broker with `native` capabilities, with or without a store.

    This list is what `dray doctor` and `dray plugins` print and what the docs are generated from; the engine's own
    decisions read the same fields.
    """
    n, a, kept = native, assisted(native, store), store is not None

    def row(feature: str, has: bool, note: str, does: bool, cost: str, refused: str) -> Support:
        if has:
            return Support(feature, "native", note)
        return Support(feature, "emulated", cost) if does else Support(feature, "refused", refused)

    def plain(feature: str, has: bool, note: str, refused: str) -> Support:
        return row(feature, has, note, False, "", refused)

    with_store = "; with a store: emulated"
    limit = f"up to {n.max_delay:g} s"
    longer = "the store keeps longer ones" if kept else "longer ones in hops: one more message each"
    return [
        row(
            "delay (countdown, eta), retry with delay",
            n.max_delay >= FOREVER,
            "any length",
            a.max_delay > 0,
            f"{limit} by the broker, {longer}" if n.max_delay else "the store keeps them until they are due",
            f"refused when sent{with_store}",
        ),
        row(
            "priority",
            n.priority_levels > 1,
            f"{n.priority_levels} levels",
            True,
            f"{len(STEPS)} levels, a queue for each",
            "",
        ),
        row(
            "lease and renewal",
            n.lease,
            "a dead worker's tasks come back by themselves",
            n.redelivers,
            "they come back when the connection is seen to be dead",
            "what a killed worker held is lost",
        ),
        row(
            "delivery count, poison limit",
            n.delivery_count,
            "counted by the broker",
            a.delivery_count,
            "one mark in the store for each delivery",
            f"a task that kills its worker is redelivered without a limit{with_store}",
        ),
        row(
            "shutdown gives back uncharged",
            n.release_uncharged,
            "",
            a.release_uncharged,
            "a copy takes its place: two requests, and it goes to the end of the queue",
            "giving back counts as one delivery",
        ),
        row(
            "give back with delay",
            n.requeue_delay,
            "",
            a.requeue_delay,
            "a delayed copy takes its place",
            "it comes back at once",
        ),
        row(
            "sending twice is harmless",
            n.dedup,
            "",
            kept,
            "what has ended is remembered in the store for `store_remember` seconds, and dropped when it comes again",
            f"a publish repeated after an outage can run twice{with_store}",
        ),
        plain("order within a queue", n.fifo, "", "order is not kept"),
        row(
            "cancel (revoke)",
            n.cancel,
            "durable",
            a.cancel,
            "marks in the store, asked for once a batch",
            f"revoke() is refused{with_store}",
        ),
        row("unknown id told from waiting", a.find, "", True, "one result-backend write per task sent", ""),
        plain("list waiting messages", n.peek, "", "`dray queues --peek` is refused"),
        row(
            "dead letters",
            n.dead_letters,
            "kept whole, with the reason; replay and purge",
            True,
            "in a queue of their own, which is borrowed to be looked at",
            "",
        ),
        plain("purge", n.purge, "", "`dray purge` is refused"),
        plain("queue length", bool(n.size), n.size, "not shown"),
        plain("exchanges and topics", n.exchanges, "", "where exactly one queue fits, it is sent there; else refused"),
        plain("broadcast to all workers", n.broadcast, "", "refused when the queue is declared"),
        plain(
            "ordering or fairness key",
            bool(n.key),
            {"order": "in order", "fair": "in turns"}.get(n.key, ""),
            "ignored; `ordered=True` is refused, and `tenant=` too where a queue has no lanes (`task_tenant_lanes`)",
        ),
        plain("send in the caller's transaction", n.transactional, "", "`connection=` is refused"),
        plain("survives a restart", n.durable, "", "messages live and die with the process"),
        plain("shared between processes", n.shared, "", "worker and sender must be one process"),
    ]
