"""Who is there: the workers of one app, in the store. Each says now and then that it lives; the others miss it if not.

A worker has a partition, `worker:APP:NAME`, that holds what it said last, and an entry in the index `workers:APP` for
when it will be missed. Of several that miss it at once, one takes it out, and tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from .store import Change, Delete, Equals, Index, Put, Store, Unindex

if TYPE_CHECKING:
    from .app import Dray

#: Seconds without a sign of life after which a worker is missed, and its last words are forgotten by themselves.
MISSED_AFTER, FORGOTTEN_AFTER = 20.0, 3600.0
#: Most workers that are missed at one look.
MOST = 100
_KEY = "beat"


class Presence:
    """Signs of life of the workers of one app. Raises what the store raises."""

    def __init__(self, app: Dray) -> None:
        self._app = app
        self._index = f"workers:{app.name}"
        self._prefix = f"worker:{app.name}:"

    def beat(self, worker: str, count: int) -> None:
        """Say that a worker lives, for the `count`th time."""
        store = self._store
        until = store.now() + MISSED_AFTER
        said = msgspec.msgpack.encode((count, until))
        writes = Put(_KEY, said), Index(self._index, _KEY, until)
        store.commit([Change(self._prefix + worker, (), writes, (), FORGOTTEN_AFTER)])

    def leave(self, worker: str) -> None:
        """Say that a worker has ended: nobody is to miss it."""
        self._store.commit([Change(self._prefix + worker, (), (Delete(_KEY), Unindex(self._index, _KEY)))])

    def missed(self) -> list[str]:
        """Return the names of workers that are missed, each to one caller."""
        store = self._store
        now = store.now()
        parts = [found.part for found in store.due(self._index, now, MOST)]
        return [part.removeprefix(self._prefix) for part in parts if self._take(part, now)]

    def _take(self, part: str, now: float) -> bool:
        said = self._store.get(part, _KEY).get(_KEY)
        if said is None:
            return False  # forgotten, or just taken by another one
        if msgspec.msgpack.decode(said, type=tuple[int, float])[1] > now:
            return False  # it has spoken meanwhile
        (done,) = self._store.commit([Change(part, (Equals(_KEY, said),), (Delete(_KEY), Unindex(self._index, _KEY)))])
        return done.applied

    @property
    def _store(self) -> Store:
        return self._app.store("telling that a worker is missed")
