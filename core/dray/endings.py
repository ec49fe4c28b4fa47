"""How calls that others wait for have ended: as it is stored, and as whoever waited for them gets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from . import states
from .errors import TaskFailed
from .message import Line, Message
from .report import Failure

if TYPE_CHECKING:
    from .codec import Packed


class Told(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """How a member ended, as it is stored."""

    #: The id of the call that it ended with.
    id: str = msgspec.field(name="i")
    state: str = msgspec.field(name="s")
    task: str = msgspec.field(default="", name="t")
    value: bytes = msgspec.field(default=b"", name="v")
    content_type: str = msgspec.field(default="", name="ct")
    content_encoding: str = msgspec.field(default="", name="ce")
    failure: Failure | None = msgspec.field(default=None, name="f")
    reason: str = msgspec.field(default="", name="w")
    #: Instead of a value: the fan whose results it is.
    given: str = msgspec.field(default="", name="g")
    #: Instead of a call that has failed: the fan that has.
    fan: str = msgspec.field(default="", name="n")
    #: Of one that has failed: the call itself, as it travelled, should it have to run again.
    call: bytes = msgspec.field(default=b"", name="c")

    @property
    def ok(self) -> bool:
        """Whether it came to a value."""
        return self.state == states.SUCCESS


class Ending(msgspec.Struct, frozen=True):
    """How a member of a group ended: what the body of a chord gets of each with `on_error="collect"`."""

    #: The id of the call that it ended with.
    id: str
    #: One of `dray.states`.
    state: str
    #: What it returned; None if it failed.
    value: Any = None
    #: What it raised; None if it did not.
    error: BaseException | None = None

    @property
    def ok(self) -> bool:
        """Whether it returned."""
        return self.state == states.SUCCESS


class Onward(msgspec.Struct, frozen=True, gc=False):
    """What the end of a call means for the flow that it is part of; made where it ran, written where it is settled."""

    #: The fan that begins now, and its input.
    opens: str = ""
    input: Told | None = None
    #: What the fan that it is a member of is told.
    told: Told | None = None
    #: What will not run because it failed.
    lost: Line = ()


class Results:
    """The results of a group that is too large for a list, read page by page as often as one goes through them."""

    def __init__(self, count: int, read: Callable[[], Iterator[Any]]) -> None:
        self._count = count
        self._read = read

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        return self._read()

    def __repr__(self) -> str:
        return f"<{self._count:,} results>"


def gone_on(message: Message, packed: Packed) -> Onward | None:
    """Return what it means for its flow that a call has succeeded."""
    told = Told(message.id, states.SUCCESS, message.task, packed.data, packed.content_type, packed.content_encoding)
    if not message.chain:
        return Onward(told=told)
    return Onward(opens=message.chain[0].fan, input=told) if message.chain[0].fan else None


def stopped(message: Message, state: str, failure: Failure | None, reason: str = "") -> Onward:
    """Return what it means for its flow that a call has ended without a value."""
    return Onward(told=Told(message.id, state, message.task, failure=failure, reason=reason), lost=message.chain)


def error_of(told: Told) -> BaseException:
    """Return the exception that a member ended with."""
    if told.failure is not None:
        return told.failure.rebuild()
    return TaskFailed(told.reason or f"{told.task}[{told.id}]: {told.state}")
