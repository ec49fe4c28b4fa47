"""The null:// result backend: keeps nothing. For programs that name a backend by URL and want none.

The setting `result_backend = "disabled"` is better where it can be used: then asking for a result says at once that
there are none. Here asking is legal, and nobody knows any id: what has ended is an unknown id.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import msgspec

from dray import Record, ResultBackend, Url, UrlError


class _NoOptions(msgspec.Struct):
    """`null://` takes no options."""


class NullBackend(ResultBackend):
    """`null://`: takes every record and has none."""

    durable = False
    # What is not there looks the same from everywhere.
    shared = True

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        url.options_as(_NoOptions)
        if url.hosts or url.path.strip("/"):
            raise UrlError(f"{url}: null:// keeps nothing, so it needs no place; write null://")
        self._never = threading.Event()

    def open(self) -> None:
        """There is nothing to connect to."""

    def close(self) -> None:
        """There is nothing to let go of."""

    def store(self, records: Sequence[Record], ttl: float | None) -> None:
        """Take note of nothing."""

    def fetch(self, ids: Sequence[str]) -> Mapping[str, Record]:
        return {}

    def forget(self, ids: Sequence[str]) -> None:
        """There is nothing to forget."""

    def wait(self, ids: Sequence[str], timeout: float) -> Mapping[str, Record]:
        # Not at once: who waits asks again and again.
        self.clock.wait(self._never, timeout)
        return {}
