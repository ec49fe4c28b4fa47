"""What the handles on a flow tell of it as a whole: how far it is, what it is made of; to cancel it, or try again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from . import states
from .errors import UnknownResult

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

    def retry_failed(self) -> int:
        """Run again, in the groups of the flow that ends here, what has failed; return how many calls were sent.

        What follows the groups goes on once it has ended well: a body that was given up runs after all, and once. Calls
        that are revoked run under another id, which this handle goes over to; of several callers one sends them. A
        group that has gone on without them (`on_error` "collect", "ignore", a share) stays as it is.

        Raises UnknownResult when nothing is kept of a group, because nothing waits for it, or that was longer ago than
        `flow_expires`; NotSupported when a call that failed is not kept: it was in no group, its message was gone, or
        too large.
        """
        groups = [each for each in _line(self) if getattr(each, "results", None) is not None]
        if not groups:
            raise UnknownResult(
                "only what has failed in a group can run again: nothing keeps the other calls of a flow"
            )
        sent = [group.app.fans.retry(group.id) for group in groups]
        for call in calls_of(self):
            call.id = next((each.renamed[call.id] for each in sent if call.id in each.renamed), call.id)
            call.refresh()
        return sum(each.count for each in sent)

    async def aretry_failed(self) -> int:
        """`retry_failed` for coroutines."""
        return await asyncio.to_thread(self.retry_failed)

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
