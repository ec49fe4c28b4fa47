"""What travels: Message (what tasks see), Envelope (what a broker sees), Delivery (a broker's loan to a worker).

All are frozen; a changed one is a copy: `message.but(retries=1)`. Instants are seconds since 1970 as float,
durations are seconds as float.
"""

from __future__ import annotations

from typing import Any

import msgspec

#: What tells the attempts of a call from those of the call that takes its place, under the same id.
REPLACED_ATTEMPTS = 1_000_000
#: Priorities go from 0 to 9 and 9 is the most urgent, on every broker.
HIGHEST_PRIORITY = 9


class Discreet(msgspec.Struct, frozen=True):
    """Shows, in `repr` and tracebacks, everything about itself but what it carries: of that only how much there is."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        shown: list[tuple[str, Any]] = []
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            if value == (field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()):
                continue
            if isinstance(value, bytes) or field.name in ("args", "kwargs"):
                value = _Size(len(value))
            shown.append((field.name, value))
        return shown


class _Size(int):
    """How much there is of what is not shown."""

    def __repr__(self) -> str:
        return f"<{int(self)} not shown>"


class Step(Discreet, frozen=True, kw_only=True, omit_defaults=True):
    """A call that has not been made yet and travels inside a message: a callback, or what comes next in a chain.

    Its arguments are already serialised, so carrying it costs no decoding.
    """

    task: str = msgspec.field(name="t")
    #: The serialised `[args, kwargs]`, as in a message's own payload.
    payload: bytes = msgspec.field(default=b"", name="b")
    content_type: str = msgspec.field(default="application/json", name="ct")
    content_encoding: str = msgspec.field(default="", name="ce")
    #: True: the parent's result is not put in front of the arguments (`task.si()`).
    immutable: bool = msgspec.field(default=False, name="im")
    #: Options of `apply_async`, plain values only (queue, priority, countdown, expires, headers, ...).
    options: dict[str, Any] = msgspec.field(default_factory=dict, name="o")
    #: Which arguments are not to be shown, as in a message.
    sensitive: tuple[int | str, ...] = msgspec.field(default=(), name="se")
    #: Its own callbacks.
    link: tuple[Step, ...] = msgspec.field(default=(), name="l")
    link_error: tuple[Step, ...] = msgspec.field(default=(), name="le")
    #: Instead of a call: the fan (fans.py) that begins here; `task` is "" then, and nothing stands after it.
    fan: str = msgspec.field(default="", name="f")


#: What comes one after the other.
Line = tuple[Step, ...]


class Turn(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a message that waits for a rate limit knows about that."""

    #: How often it has been sent again because of limits.
    waits: int = 0
    #: The instant (the store's clock) at which its turn comes, and the limits at which that was reserved.
    at: float = 0.0
    of: tuple[str, ...] = ()


class Message(Discreet, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One call of a task, as data: what tasks, middleware and callbacks see.

    On the wire (docs/envelope.md) the fields below are the metadata, under their short names, and the arguments are
    the payload. A message read from the wire has `payload` set and `args`/`kwargs` empty until the executor decodes
    them, so that routing, retrying and burying never touch the arguments.
    """

    #: Unique id of the call; the same through all its retries. Any text up to 128 characters.
    id: str
    #: Registered name of the task.
    task: str = msgspec.field(name="t")
    #: Queue it was sent to.
    queue: str = msgspec.field(default="default", name="q")
    #: 0 to 9, 9 is the most urgent.
    priority: int = msgspec.field(default=0, name="p")
    #: When it was sent first.
    created: float = msgspec.field(default=0.0, name="ts")
    #: Not to be started before this instant.
    eta: float | None = msgspec.field(default=None, name="nb")
    #: Not to be started after this instant.
    expires: float | None = msgspec.field(default=None, name="x")
    #: How many times it has been retried so far: 0 on the first attempt.
    retries: int = msgspec.field(default=0, name="n")
    #: How many times a worker has sent it again as it was: it does not know the task, or stops.
    handed_back: int = msgspec.field(default=0, name="hb")
    #: Id of the message at the head of this tree of calls; None means its own id.
    root_id: str | None = msgspec.field(default=None, name="r")
    #: Id of the task that sent it, if a task did.
    parent_id: str | None = msgspec.field(default=None, name="pa")
    #: How the payload is written (a serializer's content type) and packed ("", "gzip" or "zstd").
    content_type: str = msgspec.field(default="application/json", name="ct")
    content_encoding: str = msgspec.field(default="", name="ce")
    #: True: no state and no result are stored.
    ignore_result: bool = msgspec.field(default=False, name="ir")
    #: Calls to make when it succeeds, and when it has failed for good.
    link: tuple[Step, ...] = msgspec.field(default=(), name="l")
    link_error: tuple[Step, ...] = msgspec.field(default=(), name="le")
    #: Free for users and plugins; `traceparent`, `tracestate` and `baggage` (W3C) live here under those names.
    headers: dict[str, Any] = msgspec.field(default_factory=dict, name="h")
    #: Who sent it: `pid@host`.
    origin: str = msgspec.field(default="", name="og")
    #: Which arguments are not to be shown: positions and names of the task's parameters, or "*" for all of them.
    sensitive: tuple[int | str, ...] = msgspec.field(default=(), name="se")
    #: Whom or what it is about: brokers keep the messages of one key in order, or give keys their turns
    #: (`Capabilities.key`). `ordered`: it may only be sent where they keep the order; `fair`: where they take turns.
    key: str | None = msgspec.field(default=None, name="k")
    ordered: bool = msgspec.field(default=False, name="ko")
    fair: bool = msgspec.field(default=False, name="kf")
    #: How it was addressed when several queues got it; `queue` is then "", until it comes out of one of them.
    exchange: str = msgspec.field(default="", name="ex")
    routing_key: str = msgspec.field(default="", name="rk")
    #: Seconds this call's runs may take; None: as its task says.
    time_limit: float | None = msgspec.field(default=None, name="tl")
    soft_time_limit: float | None = msgspec.field(default=None, name="sl")
    #: True: its id was made from an idempotency key, so whoever has succeeded under it already has done its work.
    idempotent: bool = msgspec.field(default=False, name="ik")
    #: Where its result is to be sent, for backends that send results instead of keeping them (`ResultBackend.address`).
    reply_to: str = msgspec.field(default="", name="rt")
    #: What comes after it when it succeeds, and gets its result; the end of that line is the end of this call, too.
    chain: Line = msgspec.field(default=(), name="c")
    #: The fan whose member this line is, and which of its members.
    fan: str = msgspec.field(default="", name="f")
    index: int = msgspec.field(default=0, name="fi")
    #: How many calls, one after the other, it has taken the place of (`replace`), under the id of the first of them.
    replaced: int = msgspec.field(default=0, name="rp")
    #: The fan whose results (or, with a leading "=", whose input) are the first of its arguments.
    given: str = msgspec.field(default="", name="g")

    #: Its place among those that wait for a rate limit, if it has waited.
    turn: Turn | None = msgspec.field(default=None, name="tu")
    #: The store's partition in which the call of a unique task is claimed; "" for none.
    claim: str = msgspec.field(default="", name="cl")

    # Not metadata: these three are written as the payload and are always at their defaults in the metadata.
    args: tuple[Any, ...] = msgspec.field(default=(), name="-args")
    kwargs: dict[str, Any] = msgspec.field(default_factory=dict, name="-kwargs")
    payload: bytes = msgspec.field(default=b"", name="-payload")

    def but(self, **changes: Any) -> Message:
        """Return a copy with `changes`."""
        return msgspec.structs.replace(self, **changes)


class Envelope(Discreet, frozen=True, kw_only=True, gc=False):
    """What a broker stores: opaque bytes and the few facts that decide where and when they come out.

    A broker never learns what a task is.
    """

    #: Together with `attempt` it names the envelope: see `Broker.publish` for what a second publish does.
    id: str
    queue: str
    #: Any bytes whatever, including none at all.
    body: bytes
    #: 0 to 9, 9 comes out first. Brokers with fewer levels map them down and keep the order.
    priority: int = 0
    #: Seconds from now before which it must not come out.
    delay: float = 0.0
    #: Which attempt of this id it carries. A retry is a new envelope with the same id and the next attempt.
    attempt: int = 0
    #: Ordering or fairness key, for brokers whose capabilities say what they do with it.
    key: str | None = None
    #: Where a broker with `Capabilities.exchanges` delivers it instead of to `queue`: to every queue that is bound to
    #: this exchange with a key that `routing_key` fits. `queue` is then "".
    exchange: str = ""
    routing_key: str = ""


class Queue(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """A queue that is declared beforehand (the setting `task_queues`), and how messages get into it.

    A plain queue needs none of this: it is there as soon as somebody sends to it.
    """

    name: str
    #: The exchange it is bound to; "" for none. `type` is "direct" (the key is equal), "topic" (the key fits a pattern
    #: in which `*` is one word and `#` any number) or "fanout" (any key).
    exchange: str = ""
    type: str = "direct"
    routing_key: str = ""
    #: True: every worker gets a copy of its own of each message; what is sent while a worker is away passes it by.
    broadcast: bool = False
    #: Arguments for the broker, as it names them, such as `{"x-max-length": 1000}`.
    arguments: dict[str, Any] = {}


class Delivery(Discreet, frozen=True, kw_only=True, gc=False):
    """An envelope in a worker's hands: lent for a while, and not yet settled."""

    id: str
    queue: str
    body: bytes
    #: The broker's own proof of the loan, with its fencing token. Opaque to the engine; hashable.
    receipt: Any
    #: How many times it has been handed out, this time included: 1 on the first delivery.
    delivery_count: int = 1
    priority: int = 0
    attempt: int = 0
    #: When it was published, or None where the broker does not keep that.
    published: float | None = None
    #: How long ago it was published (seconds), by the broker's own clock; None where the broker does not say.
    age: float | None = None
    #: True when `Broker.cancel` has been called for this id (brokers with `Capabilities.cancel`).
    cancelled: bool = False


class Waiting(Discreet, frozen=True, kw_only=True):
    """What `Broker.peek` and `Broker.dead` show of a stored envelope: for people, never for settling."""

    id: str
    queue: str
    body: bytes
    priority: int = 0
    attempt: int = 0
    delivery_count: int = 0
    published: float | None = None
    #: Seconds until it may come out; 0 when it is ready.
    delay: float = 0.0
    #: "ready", "delayed", "leased" or "dead".
    state: str = "ready"
    #: For dead letters: why, and when it was buried.
    reason: str = ""
    buried: float | None = None
