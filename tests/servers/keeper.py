"""End the servers of a test run whose process has died, however it died. Run as a script: a companion of pytest.

It reads lines from its standard input, which pytest holds open: `+ <pid>` and `- <pid>` for a server started and ended,
`+ <folder>` for a folder to be deleted. When the input ends, pytest is gone, and so is everything that was named.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path


def kill_tree(root: int) -> None:
    """Kill the process `root`, its group and all its descendants with -9; return when they hold no port any more.

    Descendants, because servers put children into groups of their own.
    """
    # Stopped, it cannot have another child while its children are counted.
    _send(signal.SIGSTOP, root)
    victims = [root, *_descendants(root)]
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(root, signal.SIGKILL)
    for victim in victims:
        _send(signal.SIGKILL, victim)
    end = time.monotonic() + 10
    while any(map(_lives, victims)) and time.monotonic() < end:
        time.sleep(0.005)


def _send(number: signal.Signals, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _lives(pid: int) -> bool:
    """Return whether a thread of it is left. Its files and ports are closed by the last, after the first has died."""
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX":
                return True
    return False


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # "pid (name) state parent ...": the name may hold anything, parentheses too.
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found: list[int] = []
    ahead = [root]
    while ahead:
        below = children.get(ahead.pop(), [])
        found += below
        ahead += below
    return found


def main() -> None:
    # Ctrl-C is meant for pytest, which will stop its servers in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pids: set[int] = set()
    folders: set[str] = set()
    for line in sys.stdin:
        sign, _, what = line.strip().partition(" ")
        if what.isdigit():
            (pids.add if sign == "+" else pids.discard)(int(what))
        else:
            (folders.add if sign == "+" else folders.discard)(what)
    for pid in pids:
        kill_tree(pid)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
