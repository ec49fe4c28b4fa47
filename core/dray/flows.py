"""How calls put together are sent: what comes first as messages, what comes later inside them or in the store.

A line of calls needs no store: each message carries the rest of its line. Where several calls are waited for there is a
fan (fans.py), made in the store before the first message that belongs to it is sent. All ids follow from that of the
flow and from the place in it, so that whatever is sent twice is sent under the same ids.

    fetch | group(resize, resize) | store        fetch, carrying "then fan F"; F: two members, and "then store"
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from . import states
from .builtin_tasks import AFTER, COLLECT
from .canvas import Canvas, Chain, Group, Signature, steps
from .context import TRACE_HEADERS, current
from .eager_flows import run as run_here
from .errors import ArgumentsError, BackendUnavailable, NotSupported, TaskOptionError
from .fan_records import Fan, creation, member_id, pages
from .fan_results import PAGE, part
from .group_result import GroupResult
from .idempotency import call_id
from .message import Line, Message, Step
from .report import Report, record
from .result import AsyncResult
from .store import Change, Put

if TYPE_CHECKING:
    from .app import Dray
    from .codec import Writer

logger = logging.getLogger("dray")

#: A call that is sent at once: its message, what writes its arguments, and how it is published.
Head = tuple[Message, "Writer", Mapping[str, Any]]
#: The fan and the number of a member that a line is; ("", 0): it is none.
Slot = tuple[str, int]
NO_SLOT: Slot = ("", 0)
#: Most changes that the store is asked for at once: some are of `fan_records.PAGE_BYTES`.
CHANGES = 50
#: Options that say how a message is published, and not what it is.
PUBLISHING = ("connection", "retry", "retry_policy", "idempotency_key")


def send(canvas: Canvas, id: str | None = None) -> Any:
    """Send a canvas; return the handle on its end."""
    app = canvas.app
    if app.conf.task_always_eager:
        return run_here(app, canvas)
    flow = call_id("flow", id) if id is not None else app.new_id()
    items = flat(canvas)
    if id is not None and _sent(app, flow):
        return handle(app, items, flow)
    plan = Plan(app, flow)
    found = handle(app, items, flow)
    if len(items) == 1 and isinstance(items[0], Group) and not _is_waited_for(items[0]):
        found = _send_group(plan, items[0], flow)
    else:
        plan.begin(items, flow)
        plan.flush()
        if isinstance(found, GroupResult) and len(items) == 1:
            found.results = plan.members
    if id is not None:
        app.store("an id for a whole flow").commit([Change(f"flow:{flow}", (), (Put("sent", b""),), (), app.fans.ttl)])
    return found


def flat(canvas: Canvas) -> list[Canvas]:
    """Return the calls and groups that a canvas has one after the other."""
    return canvas._flat() if isinstance(canvas, Chain) else [canvas]


def handle(app: Dray, items: Sequence[Canvas], base: str) -> Any:
    """Return the handle on the end of a line, by which its `parent`s are reached."""
    found: Any = None
    for place, item in enumerate(items):
        before = found
        if isinstance(item, Signature):
            found = _result(app, item, _call_id(item, base, place))
        else:
            assert isinstance(item, Group)
            fan = f"{base}g{place}"
            members = () if item.is_stream else item.tasks
            found = GroupResult(fan, [handle(app, flat(member), f"{fan}.{n}") for n, member in enumerate(members)], app)
        found.parent = before
    return found


class Plan:
    """A canvas on its way: what is to be kept in the store, and what is to be sent."""

    def __init__(self, app: Dray, flow: str) -> None:
        self.app = app
        self.flow = flow
        self.changes: list[Change] = []
        self.heads: list[Head] = []
        #: Ids and tasks of calls that come later: neither the broker nor the backend would know of them till then.
        self.promised: list[tuple[str, str]] = []
        #: Handles on the members of the outermost group.
        self.members: list[Any] = []

    def begin(
        self,
        items: Sequence[Canvas],
        base: str,
        after: Line = (),
        slot: Slot = NO_SLOT,
        replaced: Message | None = None,
    ) -> None:
        """Have a line begin now, perhaps in the place of a call; `after` follows it."""
        first, rest = items[0], self.line(items[1:], base, after, slot, 1, replaced)
        if isinstance(first, Signature):
            self._head(first, _call_id(first, base, 0), rest, slot)
        else:
            assert isinstance(first, Group)
            self._open(first, f"{base}g0", rest, slot, replaced)

    def line(
        self,
        items: Sequence[Canvas],
        base: str,
        after: Line,
        slot: Slot,
        place: int = 0,
        replaced: Message | None = None,
    ) -> Line:
        """Return a line that begins later, as it travels; its groups are made in the store."""
        for number in range(place + len(items) - 1, place - 1, -1):
            item = items[number - place]
            if isinstance(item, Signature):
                id = _call_id(item, base, number)
                _check_alone(self.app, item)
                _check_fits(self.app, item)
                step = item.set(task_id=id).to_step(self.app)
                if not _ignored(self.app, item):
                    self.promised.append((id, item.task))
                after = (step if replaced is None else _in_place(step, replaced), *after)
            else:
                assert isinstance(item, Group)
                after = (self._fold(item, f"{base}g{number}", after, slot, replaced),)
        return after

    def flush(self) -> None:
        """Keep what is to be kept, and then send what is to be sent."""
        self._promise()
        # In this order: a member that ends before its fan is there would have nobody to tell.
        changes, self.changes = self.changes, []
        for start in range(0, len(changes), CHANGES):
            self.app.fans.store.commit(changes[start : start + CHANGES])
        heads, self.heads = self.heads, []
        while heads:
            (_, writer, options), batch = heads[0], []
            while heads and heads[0][1] is writer and heads[0][2] == options:
                batch.append(heads.pop(0)[0])
            self.app.sender.publish(batch, writer, options)

    def _promise(self) -> None:
        promised, self.promised = self.promised, []
        try:
            for start in range(0, len(promised), PAGE):
                some = promised[start : start + PAGE]
                pending = [record(self.app, id, Report(state=states.PENDING, task=task), 0) for id, task in some]
                self.app.connections.store(pending, self.app.conf.result_expires)
        except BackendUnavailable as error:
            logger.warning("%d call(s) are unknown to the result backend till they come: %s", len(promised), error)

    def _head(self, call: Signature, id: str, rest: Line, slot: Slot) -> None:
        _check_alone(self.app, call)
        options = call.options if call.options.get("idempotency_key") else {**call.options, "task_id": id}
        (message,), writer = self.app.call(call.task, call.args, call.kwargs, options)
        changes: dict[str, Any] = {"chain": rest, "fan": slot[0], "index": slot[1]}
        if current.get() is None:
            changes["root_id"] = self.flow
        publishing = {name: options[name] for name in PUBLISHING if options.get(name) is not None}
        self.heads.append((message.but(**changes), writer, publishing))

    def _open(self, group: Group, id: str, then: Line, slot: Slot, replaced: Message | None) -> None:
        """Have a group begin now that something waits for."""
        outermost = not slot[0]
        total = None if group.is_stream else len(group.tasks)
        self._make(group, id, then, slot, replaced, total, 0, waits=False)
        sent, longest = 0, 1
        for page in group.pages(PAGE):
            if group.is_stream:
                longest = _longest(page, longest)
            for number, member in enumerate(page, sent):
                items, base = flat(member), f"{id}.{number}"
                self.begin(items, base, (), (id, number))
                if outermost and not then:
                    self.members.append(handle(self.app, items, base))
            sent += len(page)
            if group.is_stream:
                self._still_sending(id)
            if len(self.heads) >= PAGE:
                self.flush()
        if group.is_stream:
            self.flush()
            self.app.fans.deliver(self.app.fans.seal(id, sent, longest))
        elif not total:
            self.flush()
            self.app.fans.deliver(self.app.fans.recount(id))

    def _fold(self, group: Group, id: str, then: Line, slot: Slot, replaced: Message | None) -> Step:
        """Keep a group that begins later; return the step that stands for it."""
        if group.is_stream:
            raise TaskOptionError("a streamed group is sent while it is made: it can only stand at the beginning")
        lines = (self.line(flat(member), f"{id}.{n}", (), (id, n)) for n, member in enumerate(group.tasks))
        kept = pages(id, lines, self.app.fans.ttl)
        self._make(group, id, then, slot, replaced, len(group.tasks), len(kept), waits=True)
        self.changes += kept
        return Step(task="", fan=id)

    def _make(
        self,
        group: Group,
        id: str,
        then: Line,
        slot: Slot,
        replaced: Message | None,
        total: int | None,
        kept: int,
        *,
        waits: bool,
    ) -> None:
        if group.cancel_rest and not self.app.connections.capabilities.cancel:
            raise NotSupported(
                "cancel_rest=True: the broker cannot cancel messages; a store beside it could (store_url)"
            )
        running = current.get()
        fan = Fan(
            flow=self.flow if running is None else running.root_id,
            then=then,
            link=steps(group.callbacks, "link", self.app),
            link_error=(
                *steps(group.errbacks, "link_error", self.app),
                *(() if replaced is None else replaced.link_error),
            ),
            on_failure=group.on_failure,
            cancel_rest=group.cancel_rest,
            fan=slot[0],
            index=slot[1],
            parent_id=None if running is None else running.id,
            reply_to=self.app.connections.address(""),
            headers={} if running is None else {h: running.headers[h] for h in TRACE_HEADERS if h in running.headers},
            pages=kept,
            longest=0 if group.is_stream else _longest(group.tasks),
        )
        fans = self.app.fans
        self.changes += creation(id, fan, total, fans.store.now(), fans.ttl, waits)

    def _still_sending(self, id: str) -> None:
        now = self.app.fans.store.now()
        self.changes.append(Change(part(id), (), (Put("moved", repr(now).encode()),)))


def replacement(app: Dray, message: Message, canvas: Canvas) -> tuple[Message, ...]:
    """Return the messages of what takes the place of a call that runs: its id, its callbacks, and what follows it.

    Made again after a crash it is the same, as far as the task makes the same of it again.
    """
    base = call_id(message.id, f"replaced/{message.retries}")
    items = [*flat(canvas)]
    if isinstance(items[-1], Group):
        # Somebody has to be what the call was: the one whose result is the list.
        items.append(Signature(COLLECT, app=app))
    last = items[-1]
    assert isinstance(last, Signature)
    items[-1] = last.set(task_id=message.id, ignore_result=message.ignore_result)
    plan = Plan(app, message.root_id or message.id)
    plan.begin(items, base, message.chain, (message.fan, message.index), message)
    heads, plan.heads = plan.heads, []
    plan.flush()
    in_line = isinstance(items[0], Signature)
    return tuple(
        app.sender.prepare(_head_in_place(head, message) if in_line else head, writer.fill) for head, writer, _ in heads
    )


def _in_place(step: Step, replaced: Message) -> Step:
    """Return a step of a line that takes the place of a call: what is called when that fails is called for each."""
    step = msgspec.structs.replace(step, link_error=(*step.link_error, *replaced.link_error))
    if step.options.get("task_id") != replaced.id:
        return step
    # Its end: no attempt of the call that it takes the place of, which the broker may have or remember.
    options = {**step.options, "replaces": replaced.replaced + 1}
    return msgspec.structs.replace(step, link=(*step.link, *replaced.link), options=options)


def _head_in_place(head: Message, replaced: Message) -> Message:
    """Return the first message of a line that takes the place of a call."""
    head = head.but(link_error=(*head.link_error, *replaced.link_error))
    if head.id != replaced.id:
        return head
    return head.but(link=(*head.link, *replaced.link), replaced=replaced.replaced + 1)


def send_after(call: Signature, depends_on: Any, allow_failure: bool) -> AsyncResult[Any]:
    """Send a call that begins when others, which were sent already, have ended; it fails if one of them does."""
    app = call.app
    others = [depends_on] if isinstance(depends_on, str | AsyncResult) else list(depends_on)
    ids = [other.id if isinstance(other, AsyncResult) else other for other in others]
    if not ids or not all(isinstance(id, str) for id in ids):
        raise TaskOptionError(f"{call.task}: depends_on takes handles on calls, or their ids; got {depends_on!r}")
    app.backend_for_reading()
    call = call.set(immutable=True)
    if app.conf.task_always_eager:
        return run_here(app, call)  # type: ignore[no-any-return]  # what was sent before has ended
    first = Signature(AFTER, (ids, allow_failure), app=app, immutable=True).set(queue=call.options.get("queue"))
    return Chain(first, call).apply_async()  # type: ignore[no-any-return]


def join(app: Dray, fan: str, call: Signature, link_error: Line = ()) -> AsyncResult[Any]:
    """Send a call as one more member of a fan, with these error callbacks beside its own."""
    _check_alone(app, call)
    number = app.fans.add(fan)
    id = member_id(fan, number)
    (made,), writer = app.call(call.task, call.args, call.kwargs, {**call.options, "task_id": id})
    made = made.but(fan=fan, index=number, link_error=(*made.link_error, *link_error))
    app.sender.publish([made], writer, call.options)
    return AsyncResult(id, app)


def _sent(app: Dray, flow: str) -> bool:
    """Return whether the flow with this id has been sent whole; one that was only begun is sent again."""
    return "sent" in app.store("an id for a whole flow").get(f"flow:{flow}", "sent")


def _is_waited_for(group: Group) -> bool:
    return bool(group.callbacks or group.errbacks or group.cancel_rest or group.on_failure != "fail_fast")


def _send_group(plan: Plan, group: Group, flow: str) -> GroupResult:
    """Send a group that nothing waits for: so many calls that know nothing of each other, and need no store."""
    results, sent = [], 0
    for page in group.pages(PAGE):
        for number, member in enumerate(page, sent):
            items, base = flat(member), f"{flow}.{number}"
            plan.begin(items, base)
            results.append(handle(plan.app, items, base))
        sent += len(page)
        plan.flush()
    return GroupResult(flow, results, plan.app)


def _call_id(call: Signature, base: str, place: int) -> str:
    """Return the id of the call at a place of a line."""
    if (key := call.options.get("idempotency_key")) is not None:
        return call_id(call.task, key)
    own: str | None = call.options.get("task_id")
    return own or (f"{base}-{place}" if place else base)


def _check_alone(app: Dray, call: Signature) -> None:
    """Raise `TaskOptionError` for a call of a unique task: what waits for it might wait for another one."""
    task = app.tasks.get(call.task)
    if task is not None and task.resolved.unique is not None:
        raise TaskOptionError(
            f"{call.task} is unique: a call of it may be dropped for the sake of another one, which a chain, group or "
            "chord could not wait for. Send it by itself, or from a task within the canvas"
        )


def _check_fits(app: Dray, call: Signature) -> None:
    """Raise `ArgumentsError` if a call cannot take what comes before it in front of its own arguments."""
    task = app.tasks.get(call.task)
    if task is None or call.immutable:
        return
    try:
        task.parameters.check((None, *call.args), call.kwargs)
    except ArgumentsError as error:
        raise ArgumentsError(
            f"{error}: the result of what comes before it is put in front of its own arguments; if it is to get only "
            f"those, write {call.task.rpartition('.')[2]}.si(...)"
        ) from None


def _longest(members: Iterable[Canvas], so_far: int = 1) -> int:
    """Return how many calls the longest line of a group's members has; 0 if some have ids of their own."""
    longest = so_far
    for member in members:
        items = flat(member)
        if not longest or any(isinstance(item, Signature) and _has_own_id(item) for item in items):
            return 0
        longest = max(longest, len(items))
    return longest


def _has_own_id(call: Signature) -> bool:
    return bool(call.options.get("task_id") or call.options.get("idempotency_key"))


def _ignored(app: Dray, call: Signature) -> bool:
    said = call.options.get("ignore_result")
    task = app.tasks.get(call.task)
    own = app.conf.task_ignore_result if task is None else task.resolved.ignore_result
    return bool(own if said is None else said)


def _result(app: Dray, call: Signature, id: str) -> AsyncResult[Any]:
    task = app.tasks.get(call.task)
    if task is None:
        return AsyncResult(id, app, ignored=_ignored(app, call))
    returns, backend = task.parameters.returns, task.resolved.backend
    return AsyncResult(id, app, ignored=_ignored(app, call), returns=returns, backend=backend)
