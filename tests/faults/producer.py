"""A sender that never stops and never gives up: the load under which servers die."""

from __future__ import annotations

import threading

from dray.testing.faults import wait_until

from .site import Site

#: How many tasks are sent before anything happens.
BACKLOG = 300
#: Seconds between two sends after that.
PAUSE = 0.005
#: How it sends: for as long as it takes.
PATIENTLY = {"max_retries": None, "interval_start": 0.05, "interval_step": 0.05, "interval_max": 0.2}


class Producer:
    """A thread that sends one task after the other, whatever happens to the server. Some of them are due later."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._failure: BaseException | None = None
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._send, name="producer", daemon=True)
        #: How many were confirmed.
        self.confirmed = 0

    def __enter__(self) -> Producer:
        self._thread.start()
        self.wait_for(BACKLOG)
        return self

    def __exit__(self, *exc: object) -> None:
        self._enough.set()
        self._thread.join(40)
        assert not self._thread.is_alive(), "the producer is stuck in a send"
        if self._failure is not None:
            raise self._failure

    def wait_for(self, more: int) -> None:
        """Wait until so many more were confirmed."""
        wanted = self.confirmed + more
        wait_until(lambda: self.confirmed >= wanted or self._failure, timeout=60)

    def _send(self) -> None:
        try:
            while not self._enough.wait(PAUSE if self.confirmed > BACKLOG else 0):
                later = 2.0 if self.confirmed % 10 == 9 else None
                self._site.send("work", self.confirmed, 0.01, countdown=later, retry_policy=PATIENTLY)
                self.confirmed += 1
        except BaseException as error:
            self._failure = error
