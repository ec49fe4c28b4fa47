"""What is to be done about an entry whose time has come: which ticks are sent, and which are not, and why.

A decision only: nothing is read and nothing written here. `Scheduler` has it made and carries it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from .schedule_book import Leaf, Tick
from .schedule_entries import Entry
from .schedules import Schedule, jittered, latest, ticks
from .store import MAX_KEYS

#: Seconds by which a tick may be late with `missed="skip"`, so that no short pause of the scheduler loses one.
GRACE = 60.0
#: Most ticks of one entry that are decided at once: each is a record and an entry of the index, beside the four that
#: every such change has.
BATCH = (MAX_KEYS - 4) // 2
#: Seconds between two looks at whether the run that a tick waits for has ended.
AGAIN = 2.0


class Decision(NamedTuple):
    """What is to become of an entry."""

    #: The instants of the ticks to send.
    send: Sequence[float]
    #: What the history says of those that are not sent.
    passed: Sequence[Tick]
    #: The last instant that is dealt with by this, None: none is; and the next one after it.
    last: float | None = None
    next: float | None = None
    #: When to look at it again, if that is not when it is next due.
    look: float | None = None


def decide(leaf: Leaf, found: Schedule, now: float, running: bool | None, by: str) -> Decision:
    """Return what is to be done about an entry at the instant `now`.

    `running`: its last run has not ended; None: that cannot be told now.
    """
    entry, standing = leaf.kept.entry, leaf.standing
    first = standing.next
    if first is None or (fires := jittered(entry.name, first, entry.jitter)) > now:
        return Decision((), (), look=None if first is None else fires)
    if running is None or (running and entry.overlap == "queue"):
        return Decision((), (), look=now + AGAIN)
    chosen, passed = _chosen(entry, found, first, now, standing.since, by)
    if running and entry.overlap == "skip":
        skipped = Tick(due=chosen[-1], at=now, what="skipped", by=by, note=f"{standing.id} has not ended")
        return Decision((), [*passed, skipped], chosen[-1], found.next(chosen[-1], standing.since))
    if entry.overlap != "allow":
        chosen = chosen[:1]
    limit = entry.deadline if entry.deadline is not None or entry.missed != "skip" else GRACE
    sent = [due for due in chosen if limit is None or now - jittered(entry.name, due, entry.jitter) <= limit]
    passed += [
        Tick(due=due, at=now, what="missed", by=by, note=f"{now - due:.0f} s late") for due in chosen if due not in sent
    ]
    return Decision(sent, passed, chosen[-1], found.next(chosen[-1], standing.since))


def _chosen(
    entry: Entry, found: Schedule, first: float, now: float, since: float, by: str
) -> tuple[list[float], list[Tick]]:
    """Return the instants to make up for, at least one, and what is said of those that are not."""
    until = max(first, now - entry.jitter)
    if entry.missed == "all":
        return list(islice(ticks(found, first, until, since), BATCH)), []
    last = latest(found, first, until, since)
    if last == first:
        return [first], []
    return [last], [Tick(due=first, at=now, what="missed", by=by, note="and those after it, up to the last one")]
