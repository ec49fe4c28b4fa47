"""Hears that anybody writes to a file, where the system can tell (Linux): then nobody has to look all the time."""

from __future__ import annotations

import ctypes
import functools
import os
import select
import sys
import threading
from collections.abc import Callable

#: From <sys/inotify.h>: tell of a write, and of one only.
IN_MODIFY, IN_ONESHOT = 0x2, 0x8000_0000
#: More than the events of one oneshot watch take.
EVENTS = 4096


class Ear:
    """Calls `stirred`, on a thread of its own, at the next write after `listen`. Every method from any thread.

    What it tells of may not be committed yet, and where it cannot hear `listen` says so: it saves looking often, and
    replaces no look.
    """

    def __init__(self, path: str, stirred: Callable[[], None]) -> None:
        self._path, self._stirred = os.fsencode(path), stirred
        self._lock = threading.Lock()
        #: Descriptor of the inotify instance; None before the first `listen`, and when its thread has ended.
        self._inotify: int | None = None
        self._deaf = sys.platform != "linux"

    def listen(self) -> bool:
        """Tell of the next write, once; return whether that is possible."""
        if self._inotify is None and not self._deaf:
            self._start()
        with self._lock:
            if self._deaf or self._inotify is None:
                return False
            return add_watch(self._inotify, self._path, IN_MODIFY | IN_ONESHOT) >= 0

    def close(self) -> None:
        """Hear no more. Safe twice."""
        with self._lock:
            self._deaf = True
            if self._inotify is not None:
                # A watch that is taken away is an event, and wakes the thread. A task may have closed all descriptors
                # of its process: whatever has this number now, these two calls do nothing to what is no inotify.
                remove_watch(self._inotify, add_watch(self._inotify, b"/", IN_MODIFY))

    def _start(self) -> None:
        with self._lock:
            if self._deaf or self._inotify is not None:
                return
            # It may not be had: there are only so many for each user, and the process may have too many files open.
            inotify = open_inotify()
            self._deaf = inotify < 0
            if self._deaf:
                return
            self._inotify = inotify
            threading.Thread(target=self._run, args=(inotify,), name="dray-sqlite-ear", daemon=True).start()

    def _run(self, inotify: int) -> None:
        # Waited for in a way that lets greenlets run where threads are greenlets; a read would not.
        events = select.poll()
        events.register(inotify, select.POLLIN)
        while not self._deaf:
            events.poll()
            # From somebody else's socket a read would take what is not ours.
            if self._deaf or not _is_inotify(inotify):
                break
            os.read(inotify, EVENTS)
            self._stirred()
        with self._lock:
            self._inotify, self._deaf = None, True
        if _is_inotify(inotify):
            os.close(inotify)


def _is_inotify(descriptor: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}") == "anon_inode:inotify"
    except OSError:
        return False


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
    return libc


def open_inotify() -> int:
    """Return the descriptor of a new inotify instance, or a negative number."""
    return int(_libc().inotify_init1(os.O_CLOEXEC))


def add_watch(inotify: int, path: bytes, mask: int) -> int:
    """Watch a file, and return the number of the watch, or a negative one if that is not possible."""
    return int(_libc().inotify_add_watch(inotify, path, mask))


def remove_watch(inotify: int, watch: int) -> None:
    """Take a watch away, if it is there."""
    _libc().inotify_rm_watch(inotify, watch)
