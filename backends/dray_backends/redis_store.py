"""The redis:// store: records in Redis or Valkey, changed by scripts, so that each change is one step for everybody.

What a partition looks like there is at the head of `redis_scripts/part.lua`; why, and what shards are, in
docs/decisions/0019-a-partition-in-redis-is-one-hash.md. Only the server's clock is asked what time it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from heapq import merge
from itertools import islice
from typing import Any
from zlib import crc32

from dray import (
    Change,
    Changed,
    Due,
    Hold,
    Store,
    StoreCapabilities,
    StoreError,
    StoreUnavailable,
    Take,
    Url,
    UrlError,
)
from dray_brokers.redis_connection import RedisLink, Script, load_script

from .redis_store_format import (
    array,
    change_to_bytes,
    changed_from_bytes,
    encode,
    entries_from,
    escaped,
    indexes_of,
    member_of,
    text,
    texts_from,
)

#: In how many shards a new store is: alone there is nothing to spread; in a cluster each is in a slot of its own.
ALONE, SPREAD, MOST_SHARDS = 1, 16, 256
#: Most changes, wishes or entries, and most bytes, of one step, so that none keeps the server from others for long.
STEP, STEP_BYTES = 1000, 8 * 1024 * 1024
#: What an answer begins with that is all there is.
WHOLE = b"+"
#: What scripts share, beside what all of them do.
NEEDED = {"scan": ["above"], "due": ["above"], "hold": ["places"], "let_go": ["places"]}


class RedisStore(Store):
    """`redis://localhost:6379/0` and the other schemes and options of the Redis broker; it may share its server."""

    capabilities = StoreCapabilities(server_time=True, max_value_bytes=STEP_BYTES, max_keys=STEP)

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        self._link = RedisLink(url, refused=StoreError, unavailable=StoreUnavailable)
        self._wanted = self._link.place.options.shards
        if self._wanted is not None and not 1 <= self._wanted <= MOST_SHARDS:
            raise UrlError(f"{url}: shards is a number from 1 to {MOST_SHARDS}")
        self._home = f"{self._link.prefix}:store:"
        #: What the keys of each shard begin with.
        self._bases = self._bases_of(1)

    def open(self) -> None:
        # Which changes nothing: it is to see whether the rights suffice.
        self._link.open(_script("commit"), [self._home], self._home, encode(()))
        try:
            self._bases = self._bases_of(self._shards())
        except BaseException:
            self._link.close()
            raise

    def _shards(self) -> int:
        """Return in how many shards the store is: as many as whoever opened it first has said."""
        usual = self._wanted or (SPREAD if self._link.cluster else ALONE)
        kept = int(self._link.main.run(load_script("dray_backends", "shards"), [f"{self._home}shards"], str(usual)))
        if self._wanted not in (None, kept):
            raise StoreError(
                f"{self.url}: what is stored here is in {kept} shards; write shards={kept}, or leave it out. For "
                "another number take another prefix: under this one nothing would be found with it"
            )
        return kept

    def _bases_of(self, shards: int) -> list[str]:
        return [f"{self._home}{{{number:02x}}}:" for number in range(shards)]

    def close(self) -> None:
        self._link.close()

    def commit(self, changes: Sequence[Change]) -> Sequence[Changed]:
        parts, rows = [change.part for change in changes], [change_to_bytes(change) for change in changes]
        done: dict[int, Changed] = {}
        for base, numbers in self._steps(parts, rows):
            some = [changes[number] for number in numbers]
            touched = (change.part for change in some)
            indexes = (index for change in some for index in indexes_of(change))
            answer = self._write("commit", base, array([rows[number] for number in numbers]), touched, indexes)
            done.update(zip(numbers, changed_from_bytes(some, answer), strict=True))
        return [done[number] for number in range(len(changes))]

    def scan(self, part: str, prefix: str = "", after: str = "", limit: int = 1000) -> Sequence[tuple[str, bytes]]:
        if limit < 1:
            return []
        whole, texts = self._scan(part, prefix, after, "", limit)
        while not whole:
            # Those are too many to bring their values too, and are the keys alone. What comes into the page in between
            # is brought with it; if all of the page has gone in between, there may still be something behind it.
            whole, texts = self._scan(part, prefix, after, sorted(texts)[limit - 1].decode(), limit)
            if not texts:
                whole, texts = self._scan(part, prefix, after, "", limit)
        middle = len(texts) // 2
        found = sorted(zip(texts[:middle], texts[middle:], strict=True))
        return [(key.decode(), value) for key, value in found[:limit]]

    def _scan(self, part: str, prefix: str, after: str, last: str, limit: int) -> tuple[bool, list[bytes]]:
        base, name = self._base(part), escaped(part)
        answer = self._read("scan", f"{base}p:{name}", base, (name, prefix, after, last, limit))
        return answer[:1] == WHOLE, texts_from(answer[1:])

    def due(self, index: str, until: float, limit: int, after: Due | None = None) -> Sequence[Due]:
        shards = [self._due(base, index, until, limit, after) for base in self._bases]
        return list(islice(merge(*shards), limit)) if len(shards) > 1 else shards[0]

    def _due(self, base: str, index: str, until: float, limit: int, after: Due | None) -> list[Due]:
        found: list[Due] = []
        whole = False
        while len(found) < limit and not whole:
            wanted = min(limit - len(found), STEP)
            place = (False, "") if after is None else (after.at, member_of(after))
            answer = self._read("due", f"{base}i:{index}", base, (index, until, wanted, *place))
            some = entries_from(texts_from(answer[1:]))
            found += some
            after = some[-1] if some else after
            whole = answer[:1] == WHOLE and len(some) < wanted
        return found

    def now(self) -> float:
        return float(self._read("now", self._home, self._home, ()))

    def add_member(self, part: str, group: str, member: str, value: bytes) -> tuple[bool, int]:
        asked = encode((escaped(part), f"{group}/{member}", f"{group}#", text(value)))
        answer = self._write("add_member", self._base(part), asked, [part])
        return answer[:1] == b"1", int(answer[1:])

    def take(self, takes: Sequence[Take]) -> Sequence[float]:
        rows = [encode((escaped(wish.part), wish.every, wish.burst, wish.cost, wish.ahead)) for wish in takes]
        return [float(wait) for wait in self._each("take", [wish.part for wish in takes], rows)]

    def hold(self, holds: Sequence[Hold]) -> Sequence[int]:
        rows = [encode((escaped(wish.part), wish.holder, wish.seconds, wish.most)) for wish in holds]
        return [int(token) for token in self._each("hold", [wish.part for wish in holds], rows)]

    def let_go(self, holds: Sequence[Hold]) -> None:
        rows = [encode((escaped(wish.part), wish.holder)) for wish in holds]
        self._each("let_go", [wish.part for wish in holds], rows)

    def advice(self) -> Sequence[str]:
        return [*self._eviction(), *self._persistence()]

    def _eviction(self) -> Sequence[str]:
        policy = self._link.configuration("maxmemory-policy")
        if policy is None:
            return ["CONFIG is not allowed, so eviction was not looked at: maxmemory-policy should be noeviction"]
        if policy == "noeviction":
            return []
        return [
            f"maxmemory-policy is {policy}: when Redis is full it silently deletes workflows and locks, so that groups "
            "never end and locks are held twice; set noeviction"
        ]

    def _persistence(self) -> Sequence[str]:
        kept = self._link.configuration("appendonly")
        if kept is None:
            return ["CONFIG is not allowed, so persistence was not looked at: appendonly should be yes"]
        if kept != "yes":
            return ["appendonly is no: a crash of Redis takes back what was committed; set appendonly yes"]
        if self._link.configuration("appendfsync") != "always":
            return [
                "appendfsync is not always: a crash of the host takes back about a second of what was committed, and "
                "fencing tokens of that second are given out again"
            ]
        return []

    # Steps

    def _base(self, part: str) -> str:
        return self._bases[crc32(part.encode()) % len(self._bases)] if len(self._bases) > 1 else self._bases[0]

    def _steps(self, parts: Sequence[str], rows: Sequence[bytes]) -> Iterator[tuple[str, list[int]]]:
        """Give the base of a shard and the numbers of what is to be done there in one step."""
        shards: defaultdict[str, list[int]] = defaultdict(list)
        for number, part in enumerate(parts):
            shards[self._base(part)].append(number)
        for base, numbers in shards.items():
            some, weight = list[int](), 0
            for number in numbers:
                if some and (len(some) == STEP or weight + len(rows[number]) > STEP_BYTES):
                    yield base, some
                    some, weight = [], 0
                some.append(number)
                weight += len(rows[number])
            yield base, some

    def _each(self, name: str, parts: Sequence[str], rows: Sequence[bytes]) -> list[bytes]:
        """Run a script that answers each row with a word, or all with nothing; return the words."""
        words = [b""] * len(rows)
        for base, numbers in self._steps(parts, rows):
            touched = (parts[number] for number in numbers)
            answer = self._write(name, base, array([rows[number] for number in numbers]), touched)
            for number, word in zip(numbers, (answer or b"").split(), strict=False):
                words[number] = word
        return words

    def _write(self, name: str, base: str, asked: bytes, parts: Iterable[str], indexes: Iterable[str] = ()) -> Any:
        """Run a script that writes to these; return its answer, when as many replicas have it as the URL wants."""
        keys = [base]
        if self._link.cluster:
            # All of them: while a slot moves, the server has to see whether it has what the script will ask for.
            keys = [f"{base}p:{part}" for part in {escaped(part) for part in parts}]
            keys += [f"{base}i:{index}" for index in set(indexes)]
        (answer,) = self._link.main.write_each(_script(name), keys, [(base, asked)])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _read(self, name: str, key: str, base: str, asked: Any) -> Any:
        """Run a script that changes nothing that anybody sees; return its answer."""
        return self._link.main.run(_script(name), [key], base, encode(asked))


@cache
def _script(name: str) -> Script:
    return load_script("dray_backends", "part", *NEEDED.get(name, ()), name)
