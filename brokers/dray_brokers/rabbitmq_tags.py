"""Which deliveries of a channel are open, and how few acks tell the server of those that are not.

One ack can stand for all deliveries up to its own. Tasks end nearly in the order in which they came: who waits a moment
for those that are late needs one ack for a hundred of them, and who does not needs a hundred.
"""

from __future__ import annotations

from collections.abc import Iterable


class Tags:
    """The delivery tags of one channel. Belongs to the thread of its connection."""

    def __init__(self) -> None:
        #: What the server takes to be open, in the order in which it came; a set that is ordered.
        self._open: dict[int, None] = {}
        #: Those of them that are to be acked; and which of these there were when `overdue` was asked last.
        self._untold: set[int] = set()
        self._before: set[int] = set()

    def opened(self, tags: Iterable[int]) -> None:
        """Note that these have come, in this order."""
        self._open.update(dict.fromkeys(tags))

    def closed(self, tags: Iterable[int]) -> None:
        """Note that the server has been told of these."""
        for tag in tags:
            self._open.pop(tag, None)
            self._untold.discard(tag)

    def done(self, tags: Iterable[int]) -> int:
        """Note that these are to be acked; return up to which all can be, with one ack, and count as told. 0: none."""
        self._untold.update(tag for tag in tags if tag in self._open)
        told = []
        for tag in self._open:
            if tag not in self._untold:
                break
            told.append(tag)
        self.closed(told)
        return told[-1] if told else 0

    def overdue(self) -> list[int]:
        """Return those that wait for one before them since this was asked last; they count as told."""
        late = sorted(self._before & self._untold)
        self.closed(late)
        self._before = set(self._untold)
        return late

    def rest(self) -> list[int]:
        """Return all that are still to be acked; they count as told."""
        rest = sorted(self._untold)
        self.closed(rest)
        return rest

    @property
    def waiting(self) -> bool:
        """Whether there are any that are still to be acked."""
        return bool(self._untold)
