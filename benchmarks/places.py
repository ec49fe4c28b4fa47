"""The brokers that are measured: each a URL and the bare loop that is its limit. Another broker is another line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from contender import Contender
from limits import MemoryLoop, SqliteLoop


class Place(NamedTuple):
    """A broker and its limit."""

    #: `{folder}` stands for the folder of the trial.
    url: str
    limit: Callable[[Path], Contender]


PLACES = {
    "memory": Place("memory://", MemoryLoop),
    "sqlite": Place("sqlite:///{folder}/tasks.db", SqliteLoop),
}
