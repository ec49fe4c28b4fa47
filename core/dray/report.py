"""What is stored about a task: a `Report`, written by whoever ran it and read by whoever asks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from . import states
from .backend import Record
from .context import Context
from .errors import DecodeError, TaskFailed
from .message import Discreet, Message

if TYPE_CHECKING:
    from .app import Dray


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An exception as data: enough to rebuild it where its class is at hand."""

    module: str = msgspec.field(name="m")
    qualname: str = msgspec.field(name="n")
    text: str = msgspec.field(default="", name="t")
    #: The exception's `args`; what is not a plain value stands there as its repr.
    args: tuple[Any, ...] = msgspec.field(default=(), name="a")
    traceback: str = msgspec.field(default="", name="tb")

    @classmethod
    def of(cls, error: BaseException, traceback: str = "") -> Failure:
        """Take an exception apart. Never fails, whatever the exception's own methods do."""
        kind = type(error)
        return cls(
            module=kind.__module__,
            qualname=kind.__qualname__,
            text=_safely(str, error),
            args=tuple(_plain(value) for value in error.args),
            traceback=_clean(traceback),
        )

    def rebuild(self) -> BaseException:
        """Return an exception of the original class if that is loaded here, otherwise a TaskFailed.

        Nothing is imported for it: what a result names must not decide which code runs. `__init__` is not called.
        """
        kind: Any = sys.modules.get(self.module)
        for name in self.qualname.split("."):
            kind = getattr(kind, name, None)
        error: BaseException = TaskFailed(f"{self.module}.{self.qualname}".removeprefix("builtins."), self.text)
        # Not SystemExit and its like: asking for a result must not end the process that asks.
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                error = kind.__new__(kind, *self.args)
                error.args = self.args
            except Exception:
                pass  # a class that cannot even be allocated: TaskFailed says as much as can be said
        if self.traceback:
            error.add_note("the traceback in the worker was:\n" + self.traceback.rstrip())
        return error


#: Longest text kept of an exception or a traceback (characters).
LONGEST = 65_536


def _plain(value: Any) -> Any:
    """Return an argument of an exception as it is if it can be stored, else its repr."""
    if type(value) is str:
        return _clean(value)
    if value is None or type(value) in (bool, float) or (type(value) is int and -(2**63) <= value < 2**63):
        return value
    return _safely(repr, value)


def _safely(show: Callable[[Any], str], value: Any) -> str:
    try:
        return _clean(show(value))
    except BaseException as error:
        return f"<{type(value).__qualname__} that raises {type(error).__qualname__} when shown>"


def _clean(text: str) -> str:
    """Return a text that can be stored: without lone surrogates, and not longer than anybody will read."""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}... ({len(text) - LONGEST:,} more characters)"
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


class Report(Discreet, frozen=True, kw_only=True, omit_defaults=True):
    """What is stored about a task: the body of its record. Instants are seconds since 1970."""

    state: str = msgspec.field(name="s")
    task: str = msgspec.field(default="", name="t")
    #: The serialised value (SUCCESS) or meta (a state of the task's own).
    value: bytes = msgspec.field(default=b"", name="v")
    content_type: str = msgspec.field(default="application/json", name="ct")
    content_encoding: str = msgspec.field(default="", name="ce")
    failure: Failure | None = msgspec.field(default=None, name="f")
    #: Why it was revoked, or moved to the dead letters.
    reason: str = msgspec.field(default="", name="w")
    sent: float = msgspec.field(default=0.0, name="c")
    started: float | None = msgspec.field(default=None, name="b")
    ended: float | None = msgspec.field(default=None, name="e")
    retries: int = msgspec.field(default=0, name="n")
    worker: str = msgspec.field(default="", name="k")
    queue: str = msgspec.field(default="", name="q")
    root_id: str | None = msgspec.field(default=None, name="r")
    parent_id: str | None = msgspec.field(default=None, name="pa")
    children: tuple[str, ...] = msgspec.field(default=(), name="ch")
    #: With `result_extended`: the arguments as they were sent, without those that are not to be shown.
    call: bytes = msgspec.field(default=b"", name="a")
    call_type: str = msgspec.field(default="", name="at")
    call_encoding: str = msgspec.field(default="", name="ae")


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Report).decode


class Kept(Record, frozen=True, kw_only=True):
    """A record on its way to the result backend of its task."""

    #: The URL of that backend; "" for the app's own.
    backend: str = ""


def record(app: Dray, id: str, report: Report, rank: int, final: bool | None = None, reply_to: str = "") -> Kept:
    """Return the record that stores `report`; it is final if its state is, or as `final` says."""
    if final is None:
        final = report.state in states.FINAL_STATES
    body = _encode(report)
    if app.sealing is not None:
        body = app.sealing.seal(body, "result", id, report.state, final)
    return Kept(
        id=id,
        state=report.state,
        final=final,
        body=body,
        rank=rank,
        reply_to=reply_to,
        backend=app.backend_url_of(report.task),
    )


def read(app: Dray, found: Record) -> Report:
    """Return the report in a record; raise `DecodeError` when it cannot be read, or is not to be trusted."""
    body = found.body
    try:
        if app.sealing is not None:
            body = app.sealing.open(body, "result", found.id, found.state, found.final)
        return _decode(body)
    except (DecodeError, msgspec.DecodeError, ValueError) as error:
        raise DecodeError(f"what is stored about the task {found.id} cannot be used: {error}") from None


def rank(message: Message, delivery_count: int) -> int:
    """Return the rank of what this delivery writes: later retries, then later deliveries, stand above earlier ones."""
    return message.retries << 16 | (delivery_count if delivery_count < 0xFFFF else 0xFFFF)


def about(message: Message, state: str, **facts: Any) -> Report:
    """Return a report of `message` in `state`."""
    return Report(
        state=state,
        task=message.task,
        sent=message.created,
        retries=message.retries,
        queue=message.queue,
        root_id=message.root_id,
        parent_id=message.parent_id,
        **facts,
    )


def progress(app: Dray, message: Message | None, id: str, state: str | None, meta: Any, request: Context) -> Kept:
    """Return the record of a state that a task reports about itself. It is never a final one, whatever its name."""
    if not id:
        raise ValueError("update_state() outside a running task needs a task_id")
    packed = app.payloads.dump(meta, app.conf.result_serializer, app.conf.result_compression)
    facts: dict[str, Any] = {
        "value": packed.data,
        "content_type": packed.content_type,
        "content_encoding": packed.content_encoding,
    }
    name = state or states.PROGRESS
    report = about(message, name, worker=request.hostname, **facts) if message else Report(state=name, **facts)
    if message is None:
        return record(app, id, report, 0, final=False)
    return record(app, id, report, rank(message, request.delivery_count), False, message.reply_to)
