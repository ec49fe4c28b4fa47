"""Batches: calls that belong together, more of which may come while they run, and what is called as they end.

app.batch([resize.s(name) for name in names]).then(publish.s()).catch(alert.s()).finally_(tidy.s())()

A batch is a group (canvas.py) with callbacks; what it has come to is kept in its fan (fans.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

from .canvas import Canvas, Group, Signature, signatures
from .errors import NotSupported, TaskOptionError, UnknownResult
from .fan_records import ERR, OK, fan_in, member_id
from .fan_results import part
from .flows import join, send
from .group_result import GroupResult
from .idempotency import call_id
from .lineage import FlowProgress
from .result import AsyncResult
from .store import Change, Present, Put

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .app import Dray
    from .store import Store

FEATURE = "a batch"


class Batch:
    """Calls that belong together, before they are sent: made by `app.batch`. The callbacks return the batch itself."""

    def __init__(self, calls: Iterable[Canvas], *, app: Dray, name: str = "", allow_failures: bool = False) -> None:
        self.app = app
        self.name = name
        self.allow_failures = allow_failures
        self.calls = tuple(Group(calls, app=app))
        self._then: list[Signature] = []
        self._catch: list[Signature] = []
        self._finally: list[Signature] = []

    def then(self, call: Signature) -> Self:
        """Have it call this, once, with the list of the results, when all of it has ended well."""
        self._then += signatures(call, "then")
        return self

    def catch(self, call: Signature) -> Self:
        """Have it call this, once, at the first failure, with the id of the call that has failed."""
        self._catch += signatures(call, "catch")
        return self

    def finally_(self, call: Signature) -> Self:
        """Have it call this when it is over, whatever came: it is given nothing but its own arguments."""
        self._finally += signatures(call, "finally_")
        return self

    def apply_async(self, *, id: str | None = None) -> BatchResult:
        """Send it; return the handle on it. Sent a second time under the same `id`, nothing new begins.

        Raises NotSupported without a store, and with `task_always_eager`.
        """
        app = self.app
        if app.conf.task_always_eager:
            raise NotSupported("a batch runs beside whoever sends it: it cannot be run with task_always_eager")
        flow = id if id is not None else app.new_id()
        fan = f"{call_id('flow', flow)}g0"
        # First: with it, members that run at once see that they are in a batch.
        named = Put("name", self.name.encode())
        app.store(FEATURE).commit([Change(part(fan), (), (named,), (), app.fans.ttl)])
        sent = send(self._group(fan), flow)
        return BatchResult(sent.id, sent.results, app)

    async def aapply_async(self, *, id: str | None = None) -> BatchResult:
        """`apply_async` for coroutines."""
        return await asyncio.to_thread(self.apply_async, id=id)

    __call__ = apply_async

    def _group(self, fan: str) -> Group:
        """Return it as the group that it is, with its callbacks."""
        # One id wherever it is called from: by any member that fails, and, of those that cannot, by the whole.
        catches = [call.set(idempotency_key=f"{fan}/catch/{n}") for n, call in enumerate(self._catch)]
        calls = [call.copy() for call in self.calls]
        for call in calls:
            for each in catches:
                call.link_error(each)
        on_error = "wait" if self.allow_failures else "fail_fast"
        group = Group(calls, on_error=on_error, cancel_rest=not self.allow_failures, app=self.app)
        last = [call.set(immutable=True) for call in self._finally]
        for callback in (*self._then, *last):
            group.link(callback)
        for callback in (*catches, *last):
            group.link_error(callback)
        return group


class BatchResult(GroupResult):
    """The handle on a batch: of its members, and of what it has come to. `app.BatchResult(id)` finds it anywhere."""

    @classmethod
    def restore(cls, id: str, app: Dray) -> BatchResult:
        """Return the handle on the batch with this id; raise `UnknownResult` when there is none.

        Its handles are those on the first calls of its members.
        """
        values = app.store(FEATURE).get(part(id), "name", "total")
        if "name" not in values or "total" not in values:
            raise UnknownResult(f"no batch {id!r}, or it was sent longer ago than flow_expires")
        return cls(id, [AsyncResult(member_id(id, n), app) for n in range(int(values["total"]))], app)

    @property
    def name(self) -> str:
        """The name that it was given."""
        return self._values("name")["name"].decode()

    @property
    def finished(self) -> bool:
        """Whether it is over, well or badly."""
        return self._values("state").get("state") in (OK, ERR)

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return "cancelled" in self._values("cancelled")

    def progress(self) -> FlowProgress:
        """Return how far it is: how many members it has by now, and how many of them have ended."""
        values = self._values("total", "ended", "bad")
        total, ended, bad = (int(values.get(key, b"0")) for key in ("total", "ended", "bad"))
        return FlowProgress(total=total, succeeded=ended - bad, failed=bad)

    def add(self, calls: Iterable[Signature] | Signature) -> list[AsyncResult[Any]]:
        """Have more calls belong to it; return the handles on them.

        Raises TaskOptionError when it is over, or was cancelled. As long as a member runs it is not over.
        """
        values = self._values("meta", "cancelled")
        if "cancelled" in values:
            raise TaskOptionError(f"the batch {self.id} was cancelled: it takes no more calls")
        # The errbacks of the whole that have a key are those that members call as well: `catch`.
        catches = [step for step in fan_in(values["meta"]).link_error if "idempotency_key" in step.options]
        added = [join(self.app, self.id, call, tuple(catches)) for call in signatures(calls, "add")]
        self.results += added
        return added

    async def aadd(self, calls: Iterable[Signature] | Signature) -> list[AsyncResult[Any]]:
        """`add` for coroutines."""
        return await asyncio.to_thread(self.add, calls)

    def cancel(self, *, terminate: bool = False, signal: str | int = "SIGTERM") -> None:
        """Cancel what has not ended, and take no more calls: it has failed then. Safe to repeat."""
        self._store.commit([Change(part(self.id), (Present("meta"),), (Put("cancelled", b""),), (), self.app.fans.ttl)])
        self.app.fans.cancel(self.id, signal if terminate else None)

    @property
    def _store(self) -> Store:
        return self.app.store(FEATURE)

    def _values(self, *keys: str) -> Mapping[str, bytes]:
        values = self._store.get(part(self.id), "name", *keys)
        if "name" not in values:
            raise UnknownResult(f"no batch {self.id!r}, or it was sent longer ago than flow_expires")
        return values

    def __repr__(self) -> str:
        return f"<BatchResult {self.id} of {len(self.results)}>"
