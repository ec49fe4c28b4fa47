"""How fans (fans.py) are kept in the store: what they are made with, their keys, and what these stand for.

meta, rule, total, page/N   what it was made with          ended, bad     how many members have ended, and badly
state                       open, again, ok or err         m/N            how member N has ended
out                         what is to be delivered        again/R/N      the same, of one that runs again, round R
why, cause                  because of what it failed      input          what it was given, if it began later
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from .fan_results import PAGE, part
from .message import Line, Step
from .store import Absent, Change, Index, Put

#: The index of fans that someone has to look at, and the keys of its entries: something is to be delivered; members
#: may have been lost.
INDEX, OUT, STALL = "fans", "out", "stall"
#: Seconds after which others deliver what its own worker should have, and after which lost members are looked for.
GRACE, STALLED = 10.0, 60.0
#: Largest record (bytes) of lines that are sent later, as long as one line is no larger.
PAGE_BYTES = 64 * 1024
#: Values of the keys "state" and "out". AGAIN: members that have failed are being sent again; nothing decides it then.
OPEN, OK, ERR, START, END, AGAIN = b"open", b"ok", b"err", b"start", b"end", b"again"


class Fan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a fan is made with."""

    flow: str = msgspec.field(name="r")
    #: What follows it, with the list of results: one line, and callbacks beside it.
    then: Line = msgspec.field(default=(), name="c")
    link: tuple[Step, ...] = msgspec.field(default=(), name="l")
    #: What is called once when it fails, with the id of the member that did.
    link_error: tuple[Step, ...] = msgspec.field(default=(), name="le")
    on_failure: str | float = msgspec.field(default="fail_fast", name="p")
    #: Whether members that have not ended are cancelled when it has failed.
    cancel_rest: bool = msgspec.field(default=False, name="x")
    #: The fan whose member this one is (or the line that it belongs to), and which.
    fan: str = msgspec.field(default="", name="f")
    index: int = msgspec.field(default=0, name="fi")
    parent_id: str | None = msgspec.field(default=None, name="pa")
    reply_to: str = msgspec.field(default="", name="rt")
    #: The trace that what follows belongs to.
    headers: dict[str, Any] = msgspec.field(default_factory=dict, name="h")
    #: How many records its members' lines fill, if they are sent later only.
    pages: int = msgspec.field(default=0, name="n")
    #: How many calls the longest of its members' lines has; 0: some have ids of their own, by which none is found.
    longest: int = msgspec.field(default=1, name="k")


encode = msgspec.msgpack.Encoder().encode
fan_in = msgspec.msgpack.Decoder(Fan).decode
#: A record of lines that are sent later: the number of the first, and the lines.
page_in = msgspec.msgpack.Decoder(tuple[int, tuple[Line, ...]]).decode


def member_id(fan: str, index: int, place: int = 0) -> str:
    """Return the id of the call at a place in a member's line, where it was given no other."""
    return f"{fan}.{index}-{place}" if place else f"{fan}.{index}"


def errbacks(own: Line, then: Line) -> Line:
    """Return what is called when a fan fails: its own error callbacks, and those of the call that it is for.

    What both have is called once: `chord(...).on_error(alert.s())` gives it to both.
    """
    body = then[0].link_error if then else ()
    return (*own, *(step for step in body if step not in own))


def creation(id: str, fan: Fan, total: int | None, now: float, ttl: float, waits: bool) -> list[Change]:
    """Return what makes a fan; making it once more changes nothing. `total` is None while more members may come.

    It `waits` if its members are sent later, by what comes before it.
    """
    writes = [
        Put("meta", encode(fan)),
        Put("rule", str(fan.on_failure).encode()),
        Put("state", OPEN),
        *([Put("total", b"%d" % total)] if total is not None else ()),
        *(() if waits else (Index(INDEX, STALL, now + STALLED),)),
    ]
    return [Change(part(id), (Absent("meta"),), tuple(writes), (), ttl)]


def pages(id: str, lines: Iterable[Line], ttl: float) -> list[Change]:
    """Return what keeps the lines of a fan's members until they are sent, each change a record of its own.

    A record has no more than `PAGE` lines, and is as small as one that every store has to take where that can be.
    """
    kept: list[bytes] = []
    some: list[msgspec.Raw] = []
    first = size = 0
    for line in lines:
        data = encode(line)
        if some and (len(some) == PAGE or size + len(data) > PAGE_BYTES):
            kept.append(encode((first, some)))
            first, some, size = first + len(some), [], 0
        some.append(msgspec.Raw(data))
        size += len(data)
    if some:
        kept.append(encode((first, some)))
    return [Change(part(id), (), (Put(f"page/{number}", data),), (), ttl) for number, data in enumerate(kept)]
