"""The ledger of `dray demo`: what its tasks wrote down themselves, read while it grows."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """A line of the ledger: which process wrote it, and when (seconds since 1970)."""

    pid: int
    at: float


class Ledger:
    """Who began and who ended which task, by the task's number. It knows nothing of dray."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self.path = path
        self.began: defaultdict[int, list[Entry]] = defaultdict(list)
        self.ended: defaultdict[int, list[Entry]] = defaultdict(list)
        self._read = 0

    def read(self) -> bool:
        """Take in what has been added; return whether that was anything."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            added = file.read()
        # The last line may be half written.
        whole = added[: added.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode().splitlines():
            event, number, pid, at = line.split()
            entries = self.began if event == "began" else self.ended
            entries[int(number)].append(Entry(int(pid), float(at)))
        return bool(whole)

    @property
    def executions(self) -> int:
        """How often a task was begun."""
        return sum(map(len, self.began.values()))

    @property
    def run_twice(self) -> set[int]:
        """The tasks that were begun more than once."""
        return {number for number, entries in self.began.items() if len(entries) > 1}

    @property
    def last(self) -> float | None:
        """When the last task ended that had not ended before."""
        return max((entries[0].at for entries in self.ended.values()), default=None)

    @property
    def cut_short(self) -> set[int]:
        """The tasks that were begun more often than they were ended."""
        return {number for number, entries in self.began.items() if len(entries) > len(self.ended.get(number, ()))}

    def held_by(self, pid: int) -> set[int]:
        """Return the tasks that process `pid` began and did not end."""
        begun = {number for number, entries in self.began.items() if any(entry.pid == pid for entry in entries)}
        return {number for number in begun if all(entry.pid != pid for entry in self.ended.get(number, ()))}

    def first_of(self, pid: int) -> float | None:
        """Return when process `pid` began its first task."""
        begun = (entry.at for entries in self.began.values() for entry in entries if entry.pid == pid)
        return min(begun, default=None)
