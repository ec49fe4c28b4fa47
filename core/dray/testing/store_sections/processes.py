"""Processes: several that race for the same records, and one that is killed in the middle of its changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import inf
from typing import Any

from ...store import Store
from .. import store_race
from ..background import Background
from ..faults import wait_until
from .kit import StoreKit, needs

#: Processes that race, and changes after which one is killed.
RACERS, ENOUGH = 3, 40


class Processes(StoreKit):
    """processes"""

    def race(self, store: Store, race: str) -> list[Any]:
        """Let processes race; return what each was told."""
        needs(store, "shared")
        with ExitStack() as stack:
            racers = [stack.enter_context(self.process(store, race, f"racer {n}")) for n in range(RACERS)]
            for racer in racers:
                racer.begin()
            return [racer.told() for racer in racers]

    @contextmanager
    def process(self, store: Store, race: str, who: str) -> Iterator[Racer]:
        """Give a process that has opened the store, and that is gone afterwards."""
        racer = Racer([*self.elsewhere(store), race, who])
        try:
            assert racer.told() == "ready"
            yield racer
        finally:
            racer.close()

    def test_of_processes_that_claim_the_same_one_succeeds(self, store: Store) -> None:
        assert sum(self.race(store, "claims")) == store_race.ROUNDS
        assert [store.get(f"p{n}", "n") for n in range(store_race.ROUNDS)] == [{"n": b"1"}] * store_race.ROUNDS

    def test_no_process_counts_over_what_another_has_counted(self, store: Store) -> None:
        told = self.race(store, "counts")
        assert sorted(n for numbers in told for n in numbers) == [*range(1, RACERS * store_race.ROUNDS + 1)]

    def test_of_the_processes_that_add_the_members_one_is_told_that_the_group_is_complete(self, store: Store) -> None:
        told = self.race(store, "members")
        assert [max(counts) for counts in zip(*told, strict=True)] == [RACERS] * store_race.ROUNDS

    def test_processes_get_no_more_than_the_limit_together(self, store: Store) -> None:
        assert sum(self.race(store, "limits")) == store_race.BURST

    def test_of_processes_that_want_a_lock_one_gets_it(self, store: Store) -> None:
        told = self.race(store, "places")
        assert [sum(token > 0 for token in tokens) for tokens in zip(*told, strict=True)] == [1] * store_race.ROUNDS

    def test_a_process_that_is_killed_leaves_whole_changes_and_all_it_was_told_of(self, store: Store) -> None:
        needs(store, "shared")
        with self.process(store, "fill", "") as racer:
            racer.begin()
            told = [racer.told() for _ in range(ENOUGH)]
            racer.kill()
            told += racer.left()

        def whole() -> bool:
            # The last change may still be on its way to a server.
            found, entries = store.scan("p", "m/", limit=9999), store.due("i", inf, 9999)
            return len(found) == len(entries) == int(store.get("p", "n")["n"]) >= len(told)

        assert told == [*range(len(told))]
        wait_until(whole)


class Racer:
    """One process, at `dray.testing.store_race`."""

    def __init__(self, job: list[str]) -> None:
        # What the tests can import, it can.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", store_race.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._say(json.dumps(job))

    def begin(self) -> None:
        self._say("go")

    def told(self) -> Any:
        """Return what it says next; fail the test if it says nothing."""
        line = Background(self._out.readline).result()
        assert line, "the process has ended; its last words are on stderr"
        return json.loads(line)

    def left(self) -> list[Any]:
        """Return what it had said before it was killed, and nobody has heard."""
        return [json.loads(line) for line in self._out if line.endswith("\n")]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        self._in.close()
        self._out.close()

    def _say(self, line: str) -> None:
        self._in.write(line + "\n")
        self._in.flush()
