"""Start the worker of this process anew, with the code as it is now: the same command, in the same process.

The process id stays, and with it the pidfile, systemd's main process and PID 1 of a container.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, NoReturn

#: How a process knows after an `exec` that it was a worker before: its id, and its parent's if that looks after it.
_MARK = "_DRAY_WORKER_AGAIN"
#: Seconds that importing the app may take.
CHECK_TIMEOUT = 120.0
#: What would end the process while it is not a worker yet.
_HELD_OFF = ("SIGHUP", "SIGUSR1", "SIGTSTP", "SIGTTIN", "SIGTTOU")


class Before(NamedTuple):
    """What this process was before it was started anew."""

    parent: int | None
    #: What it had started then, and nobody waits for any more.
    children: list[int]


def before() -> Before | None:
    """Return what this process was before an `again`; None: it is a new one. To be asked once."""
    pid, parent, children = (os.environ.pop(_MARK, "").split(":") + ["", ""])[:3]
    if pid != str(os.getpid()):
        return None
    return Before(int(parent) if parent else None, [int(child) for child in children.split()])


def wrong_with_new_code(directory: str) -> str | None:
    """Return what keeps this process's command from starting with the code as it is now; None: nothing.

    Another process tries: it imports the app, reads the settings and connects to nothing. `directory` is where the
    command was given.
    """
    # What listens to this process is not to be told of that one.
    environment = {name: value for name, value in os.environ.items() if name not in ("NOTIFY_SOCKET", "WATCHDOG_USEC")}
    try:
        tried = subprocess.run(
            [*_command(), "--check"],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=CHECK_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"importing it took longer than {CHECK_TIMEOUT:.0f}s"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    if tried.returncode == 0:
        return None
    said = tried.stderr.decode(errors="replace").strip().removeprefix("Error: ")
    return said or f"it ended with {tried.returncode}"


def again(directory: str, parent: int | None) -> NoReturn:
    """Become the command that started this process, in the directory where it was given.

    Raises `OSError` if either is not there any more. To be called when nothing is held any more and no file is open
    that matters: threads end, here and now.
    """
    for name in _HELD_OFF:
        # Until it heeds signals again, a second one would end it by default; what is ignored stays so.
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    # Tasks may have gone elsewhere.
    os.chdir(directory)
    os.environ[_MARK] = f"{os.getpid()}:{'' if parent is None else parent}:{' '.join(_children())}"
    os.execv(sys.executable, _command())


def _children() -> list[str]:
    """Return the processes that this one has started and not waited for: helpers that end when it is gone."""
    found = []
    for thread in Path("/proc/self/task").glob("*/children"):
        try:
            found += thread.read_text().split()
        except OSError:
            pass  # the thread has just ended
    return found


def _command() -> list[str]:
    return [sys.executable, *sys.orig_argv[1:]]
