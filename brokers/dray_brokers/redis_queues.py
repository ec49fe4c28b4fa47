"""The queues in one Redis as broker and consumers see them: keys, scripts, bells, and what a cluster keeps apart.

In a cluster a queue lives in one slot, and a script sees one slot. What is not of one queue, the bells, the marks of
the cancelled ones and the names of the queues, lives elsewhere and is a step of its own there. Killed before it, a
process leaves a ring that is late by 2.5 s, or a mark that the worker's own look at running tasks finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from .redis_connection import RedisLink, Script, load_script
from .redis_records import quoted

#: Most ids, and most queues, of one step, so that none keeps the server from others for long.
IDS, QUEUES = 1000, 100

#: What a script needs besides `shared`.
_NEEDS = {"letters": ("records",), **dict.fromkeys(("receive", "settle", "look", "purge"), ("records", "loans"))}


class RedisQueues:
    """Keys and steps. Every method may be called from any thread."""

    def __init__(self, link: RedisLink) -> None:
        self.link = link
        #: Sorted set of the names of all queues.
        self.names = f"{link.prefix}:queues"
        #: Sorted set of the ids that are cancelled.
        self.marks = f"{link.prefix}:cancelled"

    def base(self, queue: str) -> str:
        """Return what the keys of a queue begin with."""
        return f"{self.link.prefix}:{{{quoted(queue)}}}"

    def bell(self, queue: str) -> str:
        """Return the list that workers on a queue listen to. All bells are in one slot, for they listen to several."""
        return f"{self.link.prefix}:bell:{{all}}:{queue}"

    def with_bell(self, queue: str) -> list[str]:
        """Return the keys of a script that may ring."""
        return [self.base(queue)] if self.link.cluster else [self.base(queue), self.bell(queue)]

    def with_bells_and_marks(self, queues: Sequence[str]) -> list[str]:
        """Return the keys of the script that lends from `queues`."""
        bases = list(map(self.base, queues))
        return bases if self.link.cluster else [*bases, *map(self.bell, queues), self.marks]

    def together(self, queues: Sequence[str]) -> Iterable[Sequence[str]]:
        """Give `queues` in groups that one script can see."""
        return pages(queues, 1 if self.link.cluster else QUEUES)

    def run(self, name: str, keys: Iterable[str], *arguments: Any) -> Any:
        """Run the script of that name."""
        return self.link.main.run(_script(name), list(keys), *arguments)

    def write_each(self, name: str, keys: Iterable[str], calls: Iterable[Sequence[Any]]) -> list[Any]:
        """Run the script of that name once for each of `calls`: see `Line.write_each`."""
        return self.link.main.write_each(_script(name), list(keys), calls)

    def open(self) -> None:
        """Connect, and try out whether the rights suffice."""
        self.link.open(_script("look"), [self.base("")], "sizes")

    def ring(self, queue: str, wakes: int) -> None:
        """Wake up to `wakes` workers, where the script could not."""
        if wakes and self.link.cluster:
            self.run("ring", [self.bell(queue)], wakes)


@cache
def _script(name: str) -> Script:
    return load_script("dray_brokers", "shared", *_NEEDS.get(name, ()), name)


def pages(items: Sequence[str], size: int = IDS) -> Iterator[Sequence[str]]:
    """Give `items` in portions of up to `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
