"""Reads what groups have come to, page by page: for the call that gets their results, and for whoever looks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from .endings import Ending, Results, Told, error_of
from .errors import DecodeError

if TYPE_CHECKING:
    from .app import Dray
    from .store import Store

#: Members read at once, and most results that come as a list: beyond that they come as `Results`.
PAGE, LISTED = 500, 10_000

told_in = msgspec.msgpack.Decoder(Told).decode


def part(fan: str) -> str:
    """Return the name of a fan's partition."""
    return f"fan:{fan}"


def given(app: Dray, ref: str) -> Any:
    """Return what a call is given: the results of a fan, or ("=fan") what a fan itself was given.

    Raises `DecodeError` when it is not there any more, `StoreUnavailable` when the store is away.
    """
    store = app.fans.store
    if ref.startswith("="):
        kept = store.get(part(ref[1:]), "input").get("input")
        if kept is None:
            raise DecodeError(f"what the group {ref[1:]} was given is not in the store any more (flow_expires)")
        return value_of(app, told_in(kept))
    values = store.get(part(ref), "rule", "total", "bad")
    if "rule" not in values:
        raise DecodeError(f"the results of the group {ref} are not in the store any more (flow_expires)")
    collects = values["rule"] == b"collect"

    def read() -> Iterator[Any]:
        for _, told in members(store, ref):
            if collects:
                yield ending_of(app, told)
            elif told.ok:
                yield value_of(app, told)

    total, bad = int(values.get("total", b"0")), int(values.get("bad", b"0"))
    return list(read()) if total <= LISTED else Results(total if collects else total - bad, read)


def members(store: Store, fan: str) -> Iterator[tuple[int, Told]]:
    """Yield the members of a fan that have ended, in their order."""
    total = store.get(part(fan), "total").get("total")
    for start in range(0, int(total or b"0"), PAGE):
        keys = [f"m/{index}" for index in range(start, min(int(total or b"0"), start + PAGE))]
        # A member that has ended never changes: it does not matter that they are not read at one instant.
        found = store.get_many(part(fan), keys)
        for index, key in enumerate(keys, start):
            if key in found:
                yield index, told_in(found[key])


def unended(store: Store, fan: str, total: int) -> Iterator[int]:
    """Yield the numbers of those of a fan's members that have not ended."""
    following = 0
    for index, _ in members(store, fan):
        yield from range(following, index)
        following = index + 1
    yield from range(following, total)


def value_of(app: Dray, told: Told) -> Any:
    """Return the value that a member came to."""
    if told.given:
        return given(app, told.given)
    return app.payloads.load(told.value, told.content_type, told.content_encoding) if told.value else None


def ending_of(app: Dray, told: Told) -> Ending:
    """Return how a member ended."""
    if told.ok:
        return Ending(told.id, told.state, value_of(app, told))
    return Ending(told.id, told.state, None, error_of(told))
