"""What the handles on a flow tell of it as a whole: how far it is, what it is made of; and how it is cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from . import states

if TYPE_CHECKING:
    from .group_result import GroupResult
    from .result import AsyncResult


class FlowProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a flow is: how many calls it has, as far as they are known by its handle, and how many have ended."""

    total: int
    succeeded: int
    #: Failed, revoked, expired or rejected.
    failed: int

    @property
    def ended(self) -> int:
        """How many have ended, well or badly."""
        return self.succeeded + self.failed

    @property
    def share(self) -> float:
        """Which share of it has ended: 0 to 1."""
        return self.ended / self.total if self.total else 1.0


class Lineage:
    """The part of a handle that looks at what came before it."""

    #: The handle on what came before it in a chain.
    parent: AsyncResult[Any] | GroupResult | None = None

    def progress(self) -> FlowProgress:
        """Return how far the flow is that ends here: all calls before this one in the chain, and in its groups."""
        seen = [call.state for call in calls_of(self)]
        succeeded = seen.count(states.SUCCESS)
        failed = sum(state in states.EXCEPTION_STATES for state in seen)
        return FlowProgress(total=len(seen), succeeded=succeeded, failed=failed)

    def cancel(self, *, terminate: bool = False, signal: str | int = "SIGTERM") -> None:
        """Cancel the flow that ends here: what runs is told, what has not begun never does, whatever comes first.

        Raises NotSupported where the broker cannot cancel.
        """
        calls = list(calls_of(self))
        if calls:
            calls[0].app.revoke([call.id for call in calls], terminate=terminate, signal=signal)

    def tree(self) -> list[Any]:
        """Return what the flow is made of, in order: (id, state) of a call, and a list of members of a group."""
        return [_shown(each) for each in _line(self)]


def calls_of(handle: Any) -> Iterator[AsyncResult[Any]]:
    """Yield the handles on all calls of a flow, from its beginning to `handle`."""
    for each in _line(handle):
        members = getattr(each, "results", None)
        if members is None:
            yield each
        else:
            for member in members:
                yield from calls_of(member)


def _line(handle: Any) -> list[Any]:
    """Return the handles that lead to this one, itself included, the first one first."""
    line = [handle]
    while line[-1].parent is not None:
        line.append(line[-1].parent)
    return line[::-1]


def _shown(handle: Any) -> Any:
    members = getattr(handle, "results", None)
    if members is None:
        return handle.id, handle.state
    return [shown if len(shown) > 1 else shown[0] for shown in (member.tree() for member in members)]
