"""The handle on a group that was sent: its members' handles, and what they have come to together."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from .errors import ResultTimeout, UnknownResult
from .lineage import Lineage
from .result import AsyncResult
from .store import Change, Put

if TYPE_CHECKING:
    from .app import Dray

#: Seconds between two looks for the members that have ended meanwhile.
LOOK = 0.05


class GroupResult(Lineage):
    """A handle on a group: the handles on its members, in their order. Safe from any thread."""

    def __init__(self, id: str, results: list[AsyncResult[Any] | GroupResult], app: Dray) -> None:
        self.id = id
        self.results = results
        self.app = app

    @property
    def children(self) -> list[AsyncResult[Any] | GroupResult]:
        """The handles on its members."""
        return self.results

    # Looking

    def completed_count(self) -> int:
        """Return how many members have ended well."""
        return sum(result.successful() for result in self.results)

    def ready(self) -> bool:
        """Return whether all members have ended, well or badly."""
        return all(result.ready() for result in self.results)

    def waiting(self) -> bool:
        """Return whether some member has not ended."""
        return not self.ready()

    def successful(self) -> bool:
        """Return whether all members have ended with a value."""
        return all(result.successful() for result in self.results)

    def failed(self) -> bool:
        """Return whether some member has ended with an exception."""
        return any(result.failed() for result in self.results)

    # Waiting

    def get(
        self, timeout: float | None = None, propagate: bool = True, *, disable_sync_subtasks: bool = True
    ) -> list[Any]:
        """Wait for all members and return the list of their values, in their order.

        Raises what the first of them that failed has raised, or (propagate=False) has that in its place in the list.
        Everything else is as in `AsyncResult.get`; `timeout` is for all of them together.
        """
        clock = self.app.clock
        end = math.inf if timeout is None else clock.monotonic() + timeout
        values = []
        for result in self.results:
            left = None if timeout is None else max(0.0, end - clock.monotonic())
            values.append(result.get(left, propagate, disable_sync_subtasks=disable_sync_subtasks))
        return values

    join = get

    async def aget(self, timeout: float | None = None, propagate: bool = True) -> list[Any]:
        """`get` for coroutines."""
        try:
            async with asyncio.timeout(timeout):
                return list(await asyncio.gather(*(result.aget(None, propagate) for result in self.results)))
        except TimeoutError:
            raise ResultTimeout(f"group {self.id}: not all of its members have ended within {timeout} s") from None

    def __await__(self) -> Any:
        return self.aget().__await__()

    def as_completed(self, timeout: float | None = None) -> Iterator[AsyncResult[Any] | GroupResult]:
        """Yield the handles on members as these end, whatever their order; raise ResultTimeout after `timeout` s."""
        clock = self.app.clock
        end = math.inf if timeout is None else clock.monotonic() + timeout
        left = list(self.results)
        while left:
            ended = [result for result in left if result.ready()]
            yield from ended
            left = [result for result in left if result not in ended]
            if left and not ended:
                if clock.monotonic() >= end:
                    raise ResultTimeout(f"group {self.id}: {len(left)} members have not ended within {timeout} s")
                self._wait_for(left[0])

    async def acompleted(self, timeout: float | None = None) -> AsyncIterator[AsyncResult[Any] | GroupResult]:
        """`as_completed` for coroutines."""
        async with asyncio.timeout(timeout):
            waiting = {asyncio.ensure_future(result.aget(None, False)): result for result in self.results}
            try:
                while waiting:
                    ended, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    for each in ended:
                        yield waiting.pop(each)
            finally:
                for each in waiting:
                    each.cancel()

    def _wait_for(self, result: AsyncResult[Any] | GroupResult) -> None:
        try:
            result.get(LOOK, False)
        except (ResultTimeout, UnknownResult):
            pass

    # Ending

    def revoke(self, *, terminate: bool = False, signal: str | int = "SIGTERM") -> None:
        """Cancel all members: see `AsyncResult.revoke`."""
        for result in self.results:
            result.revoke(terminate=terminate, signal=signal)

    def forget(self) -> None:
        """Delete what is stored about the members. The tasks themselves go on."""
        for result in self.results:
            result.forget()

    # Keeping

    def save(self) -> None:
        """Keep in the store which members it has, so that `app.GroupResult(id)` finds them, anywhere."""
        kept = Put("members", msgspec.msgpack.encode(_tree(self)))
        store = self.app.store("GroupResult.save")
        store.commit([Change(f"group:{self.id}", (), (kept,), (), self.app.conf.result_expires or math.inf)])

    @classmethod
    def restore(cls, id: str, app: Dray) -> GroupResult:
        """Return the handle on a group that was saved; raise `UnknownResult` when there is none under this id."""
        kept = app.store("GroupResult.restore").get(f"group:{id}", "members").get("members")
        if kept is None:
            raise UnknownResult(f"no group {id!r} was saved, or that was longer ago than result_expires")
        return _made(msgspec.msgpack.decode(kept), app)  # type: ignore[return-value]

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[AsyncResult[Any] | GroupResult]:
        return iter(self.results)

    def __getitem__(self, place: int) -> AsyncResult[Any] | GroupResult:
        return self.results[place]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GroupResult) and other.id == self.id and other.results == self.results

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<GroupResult {self.id} of {len(self.results)}>"


def _tree(result: AsyncResult[Any] | GroupResult) -> Any:
    """Return a handle as data: an id, or an id and the handles below it."""
    if isinstance(result, GroupResult):
        return [result.id, [_tree(each) for each in result.results]]
    return result.id


def _made(tree: Any, app: Dray) -> AsyncResult[Any] | GroupResult:
    if isinstance(tree, str):
        return AsyncResult(tree, app)
    id, members = tree
    return GroupResult(id, [_made(each, app) for each in members], app)
