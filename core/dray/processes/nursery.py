"""Where the children of a pool come from: how one is made, and how soon after the last one died."""

from __future__ import annotations

import logging
import multiprocessing
import random
import signal
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ConfigurationError
from . import child
from .birth import MEANT_FOR_THE_WORKER, Birth
from .handle import Handle, Outlet, own_ends

if TYPE_CHECKING:
    from ..app import Dray

logger = logging.getLogger("dray.worker")

H = TypeVar("H", bound=Handle)

#: Seconds before the next birth when children die without having run anything: the first time, and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
#: How many in a row may fail to get ready before the pool gives up.
MOST_FAILURES = 5


class Nursery:
    """Makes children, all of them on one thread: the kernel kills them when their maker ends."""

    def __init__(self, app: Dray, told: Birth, method: str) -> None:
        self._app = app
        self._told = told
        self._method = method
        self._births = 0
        #: How many in a row did not get ready, and how many died without having run anything.
        self._failed = self._barren = 0
        #: Whether the last one that was to get ready did.
        self._proven = False
        #: Not before this (monotonic) is the next one made.
        self.opens = 0.0

    def open(self) -> None:
        """Get ready. To be called on the thread that will make the children."""
        # First, for it lets some of the signals through that are held back from now on, here and in all that is made
        # here: until a child knows what to do about them, they must not end it.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, MEANT_FOR_THE_WORKER)
        if self._method == "forkserver":
            # The engine, and nothing of the user's: what that opens or starts when it is imported is not to be shared.
            multiprocessing.set_forkserver_preload([child.__name__])

    def allows(self, wanted: int, growing: int) -> int:
        """Return how many of the wanted may be made now, while so many are not ready yet."""
        # If the code is broken, one is enough to find out.
        return wanted if self._proven else min(wanted, 1 - growing)

    def bear(self, kind: type[H], now: float) -> H | None:
        """Make a child; None when the system does not let us, or not now."""
        pipes = [multiprocessing.Pipe(duplex=False) for _ in range(3)]
        (jobs, jobs_in), (orders, orders_in), (reports_out, reports) = pipes
        outlets = Outlet(jobs_in), Outlet(orders_in)
        own_ends.add(reports_out.fileno())
        self._births += 1
        try:
            process = self._start((jobs, orders, reports))
        except (OSError, EOFError) as error:
            # No memory, too many processes; or the server that was to fork it has just been killed.
            logger.error("a process of the pool cannot be made: %s; trying again", error or type(error).__name__)
            own_ends.discard(reports_out.fileno())
            for outlet in outlets:
                outlet.close()
            reports_out.close()
            self._pause(now)
            return None
        finally:
            for end in (jobs, orders, reports):
                end.close()
        return kind(process, *outlets, reports_out, now)

    def _start(self, ends: tuple[Connection, Connection, Connection]) -> Any:
        """Start a process that has these ends of pipes: jobs, orders, reports. Raises what the system says."""
        forked = self._method == "fork"
        context: Any = multiprocessing.get_context(self._method)
        process = context.Process(
            target=child.main,
            args=(self._told, self._app if forked else None, ends, tuple(own_ends) if forked else ()),
            name=f"dray-{self._births}",
        )
        process.start()
        return process

    def grown(self) -> None:
        """Take note that a child got ready."""
        self._failed, self._proven = 0, True

    def fruitful(self) -> None:
        """Take note that a child has run a job."""
        self._barren = 0

    def died(self, each: Handle, how: str, now: float) -> ConfigurationError | None:
        """Take note that a child has died by itself; return what is wrong if it could not even get ready."""
        if each.begun:
            return None
        self._pause(now, at_once=each.ready)
        if each.ready:
            logger.warning("process %d died with nothing to do: %s", each.pid, how)
            return None
        self._failed, self._proven = self._failed + 1, False
        reason = each.broken or f"{how} before it was ready; what it said stands above"
        logger.error("a process of the pool cannot begin: %s", reason)
        return ConfigurationError(f"the processes of the pool cannot begin: {reason}")

    @property
    def hopeless(self) -> bool:
        """Whether so many failed to get ready that there is no use in more."""
        return self._failed >= MOST_FAILURES

    def _pause(self, now: float, at_once: bool = False) -> None:
        """Put the next birth off, the longer the more have died without use; `at_once`: not for the first of them."""
        self._barren += 1
        if self._barren > 1 or not at_once:
            pause = min(FIRST_PAUSE * 2.0 ** min(self._barren - 1, 10), LONGEST_PAUSE)
            # Many workers may have the same trouble at the same moment.
            self.opens = now + pause * random.uniform(0.5, 1.0)
