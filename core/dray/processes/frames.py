"""What a worker and its children say to each other: frames of msgpack, each behind its length.

Three pipes lead to and from a child: jobs (`Run`s, in batches), orders, and reports. A job has a number, counted up
for each child: they begin in this order, so "all after 17" says it all when jobs are taken back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from ..endings import Onward
from ..hookspecs import Event
from ..message import Message
from ..report import Kept, Report

#: Bytes in front of a frame that say how long it is.
HEAD = 4
#: Most bytes taken out of a pipe at once.
READ = 1 << 18


class Run(msgspec.Struct, array_like=True, frozen=True):
    """A job to run."""

    number: int
    message: Message
    #: The queue it came from, in the broker's words.
    queue: str
    delivery_count: int
    #: When (monotonic) it is too late to begin: less than half of the loan would be left.
    begin_by: float


# Orders


class Cancel(msgspec.Struct, array_like=True, frozen=True, tag="c"):
    """Tell a job that it is not wanted any more."""

    number: int


class Throw(msgspec.Struct, array_like=True, frozen=True, tag="t"):
    """Raise SoftTimeLimitExceeded (`soft`) or Interrupted in a job."""

    number: int
    soft: bool


class End(msgspec.Struct, array_like=True, frozen=True, tag="e"):
    """End a job with a signal. SIGKILL ends the child; another one is heard by the task, which is `reason` to end."""

    number: int
    signal: int
    reason: str
    #: True: it is its time limit that ends it.
    overdue: bool = False


class Room(msgspec.Struct, array_like=True, frozen=True, tag="n"):
    """Run so many jobs at a time. For a child that runs more than one."""

    slots: int


class Recall(msgspec.Struct, array_like=True, frozen=True, tag="r"):
    """Begin no job up to this number any more. Answered with `Recalled`."""

    upto: int


class Show(msgspec.Struct, array_like=True, frozen=True, tag="s"):
    """Say what is running, and where it is. Answered with `Stack`."""


Order = Cancel | Throw | End | Room | Recall | Show


# Reports


class Came(msgspec.Struct, array_like=True, frozen=True):
    """What a job came to: what the worker has to settle, for the child has told people and plugins already."""

    number: int
    #: How long it ran (seconds).
    ran: float
    #: What becomes of its message: "done", "released", "requeued", "rejected"; "judged": what was said beforehand,
    #: `reason` being the traceback then.
    fate: str
    #: How long a requeued one stays away (seconds), and why one is rejected.
    delay: float
    reason: str
    report: Report | None
    followups: tuple[Message, ...]
    onward: Onward | None = None


class Ready(msgspec.Struct, array_like=True, frozen=True, tag="r"):
    """It can run jobs."""


class Broken(msgspec.Struct, array_like=True, frozen=True, tag="b"):
    """It cannot run jobs, and ends; `reason` says why."""

    reason: str


class Progress(msgspec.Struct, array_like=True, frozen=True, tag="p"):
    """What has happened since the last one, in a child that runs one job at a time."""

    ended: list[Came]
    #: Numbers of jobs that were not begun because it was too late.
    returned: list[int]
    #: The job that begins now (0: none, there is nothing to do), and when (monotonic).
    begun: int
    at: float


class Moved(msgspec.Struct, array_like=True, frozen=True, tag="m"):
    """What has happened since the last one, in a child that runs many jobs at a time."""

    ended: list[Came]
    #: Numbers of jobs that were not begun because it was too late.
    returned: list[int]
    #: The jobs that begin now, and when (monotonic).
    begun: list[tuple[int, float]]


class Recalled(msgspec.Struct, array_like=True, frozen=True, tag="c"):
    """Of the jobs up to `upto` none after `begun` will be begun."""

    upto: int
    begun: int


class Leaving(msgspec.Struct, array_like=True, frozen=True, tag="l"):
    """It has become too large: it begins nothing any more, and ends. What it has not begun is to be taken back."""

    #: Resident memory (bytes).
    size: int


class Note(msgspec.Struct, array_like=True, frozen=True, tag="n"):
    """A state that a task reports, to be stored."""

    state: Kept


class Told(msgspec.Struct, array_like=True, frozen=True, tag="t"):
    """An event for the worker's plugins."""

    event: Event


class Stack(msgspec.Struct, array_like=True, frozen=True, tag="s"):
    """What is running, and where it is, as text."""

    text: str


Word = Ready | Broken | Progress | Moved | Recalled | Leaving | Note | Told | Stack

# What a plugin or a task puts into an event, of all things, is shown as `repr` does.
_encode = msgspec.msgpack.Encoder(enc_hook=repr).encode
read_runs = msgspec.msgpack.Decoder(list[Run]).decode
read_order = msgspec.msgpack.Decoder(Order).decode
read_word = msgspec.msgpack.Decoder(Word).decode


def framed(content: Any) -> bytes:
    """Return a frame, ready to be written. Raises what msgspec raises for what cannot be written."""
    written = _encode(content)
    return len(written).to_bytes(HEAD, "little") + written


class Cutter:
    """Cuts what comes out of a pipe into frames. One thread."""

    def __init__(self) -> None:
        self._begun: list[bytes] = []
        #: How much of a frame has come, and how much has to come before there is anything to be cut.
        self._there, self._wanted = 0, HEAD

    def cut(self, data: bytes) -> Iterator[bytes]:
        """Take what was read; yield what is complete. Whoever stops half-way loses the rest."""
        if self._begun:
            # Joined once, when all of it is there: a large frame comes in many pieces.
            self._begun.append(data)
            self._there += len(data)
            if self._there < self._wanted:
                return
            data = b"".join(self._begun)
        start, have = 0, len(data)
        wanted = HEAD
        while have - start >= HEAD:
            wanted = HEAD + int.from_bytes(data[start : start + HEAD], "little")
            if have - start < wanted:
                break
            yield data[start + HEAD : start + wanted]
            start, wanted = start + wanted, HEAD
        rest = data[start:]
        self._begun, self._there, self._wanted = [rest] if rest else [], len(rest), wanted
