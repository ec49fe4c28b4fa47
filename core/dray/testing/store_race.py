"""What one of several processes does where the store contract lets processes race: a program of its own.

It reads one line of JSON that says which store, which race, and who it is; opens the store, says "ready", waits for a
line, races, and writes as JSON what it was told. The race "fill" goes on, a line for each change, until it is killed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from itertools import count
from typing import Any

from ..store import Absent, Add, Change, Hold, Index, Put, Store, Take
from ..urls import Url

#: How often each process asks, in each race; tokens in the bucket, and seconds until the next one comes.
ROUNDS, BURST, EVERY = 20, 25, 3600.0


def claims(store: Store, who: str) -> int:
    """Return how many of the claims were won."""
    asked = [Change(f"p{n}", (Absent("winner"),), (Put("winner", who.encode()), Add("n"))) for n in range(ROUNDS)]
    return sum(store.commit([change])[0].applied for change in asked)


def counts(store: Store, who: str) -> list[int]:
    """Return what the count was after each adding."""
    changes = [Change("p", writes=(Add("n"),), reads=("n",)) for _ in range(ROUNDS)]
    return [int(store.commit([change])[0].values["n"]) for change in changes]


def members(store: Store, who: str) -> list[int]:
    """Return of each group how many members it had when this one was added."""
    return [store.add_member(f"p{n}", "g", who, b"done")[1] for n in range(ROUNDS)]


def limits(store: Store, who: str) -> int:
    """Return how many tokens were given."""
    return sum(store.take([Take("l", EVERY, BURST)])[0] == 0.0 for _ in range(ROUNDS))


def places(store: Store, who: str) -> list[int]:
    """Return of each lock the token, or 0."""
    return [store.hold([Hold(f"l{n}", who, EVERY)])[0] for n in range(ROUNDS)]


def fill(store: Store, who: str) -> None:
    for n in count():
        store.commit([Change("p", writes=(Put(f"m/{n:06}", b"value"), Index("i", f"{n}", 1.0), Add("n")))])
        say(n)


RACES: dict[str, Callable[[Store, str], object]] = {
    race.__name__: race for race in (claims, counts, members, limits, places, fill)
}


def say(told: Any) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def main() -> None:
    home, url, race, who = json.loads(sys.stdin.readline())
    module, _, name = home.partition(":")
    store: Store = getattr(import_module(module), name)(Url.parse(url))
    store.open()
    say("ready")
    sys.stdin.readline()
    say(RACES[race](store, who))
    store.close()


if __name__ == "__main__":
    main()
