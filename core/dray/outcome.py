"""What became of one execution, as data. The settler has one `match` over these, and nothing else settles."""

from __future__ import annotations

from typing import Any

import msgspec


class Done(msgspec.Struct, frozen=True, gc=False):
    """The task returned. `value` is what it returned."""

    value: Any


class Again(msgspec.Struct, frozen=True):
    """The task failed or asked to be run again, `delay` seconds from now; `error` is why.

    `args` and `kwargs`, when not None, replace the arguments.
    """

    delay: float
    error: BaseException
    args: tuple[Any, ...] | None = None
    kwargs: dict[str, Any] | None = None


class Failed(msgspec.Struct, frozen=True):
    """The task failed for good. With `bury` the message is kept in the dead letters as well, with the `traceback`."""

    error: BaseException
    bury: bool = False
    traceback: str = ""


class Rejected(msgspec.Struct, frozen=True):
    """Never run, or given up by the task itself: to the dead letters with `reason`. The bytes are kept as they came."""

    reason: str


class Requeued(msgspec.Struct, frozen=True):
    """Handed back by the task: comes out again after `delay` seconds, its delivery count kept."""

    delay: float


class HandedBack(msgspec.Struct, frozen=True):
    """Not for this worker, perhaps for a newer one: sent again, to come out after `delay` seconds, and counted anew."""

    delay: float


class Released(msgspec.Struct, frozen=True):
    """Not started, and given back at once and uncharged: shutdown, or a worker that woke up too late."""


class Ignored(msgspec.Struct, frozen=True):
    """The task raised Ignore: acked, and nothing stored."""


class Replaced(msgspec.Struct, frozen=True):
    """The task has put a canvas in its place: that is sent, and what it comes to is this call's result."""

    canvas: Any


class Revoked(msgspec.Struct, frozen=True):
    """Cancelled, before or while it ran; then perhaps ended by force, with `signal`."""

    reason: str = "revoked"
    signal: int | None = None


class Expired(msgspec.Struct, frozen=True):
    """Not started before its `expires`."""


Outcome = Done | Again | Failed | Rejected | Requeued | HandedBack | Released | Ignored | Replaced | Revoked | Expired
