"""The patterns in `--name`, `--pidfile`, `--logfile` and `--heartbeat-file`: `%h` and the like, as in Celery."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping

from ...errors import ConfigurationError

_PATTERN = re.compile("%(.?)")


def worker_name(pattern: str) -> str:
    """Return a worker's name: %h is the host, %n the host without its domain, %d the domain, %i the process id.

    Raises `ConfigurationError` for any other letter.
    """
    host = socket.gethostname()
    short, _, domain = host.partition(".")
    return _filled(pattern, {"h": host, "n": short, "d": domain, "i": str(os.getpid())})


def worker_path(pattern: str, name: str | None) -> str:
    """Return a path: %n is the worker's name up to the @, %p all of it, %h, %d and %i as in a name.

    Raises `ConfigurationError` for any other letter, and for %n and %p when the worker has no `name`.
    """
    host = socket.gethostname()
    values = {"h": host, "d": host.partition(".")[2], "i": str(os.getpid())}
    if name is not None:
        values |= {"n": name.partition("@")[0].replace("/", "_"), "p": name.replace("/", "_")}
    elif found := re.search("%[np]", pattern.replace("%%", "")):
        raise ConfigurationError(f"{pattern!r}: {found[0]} stands for the worker's name: give it one, with -n")
    return _filled(pattern, values)


def _filled(pattern: str, values: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        letter = found[1]
        if letter == "%":
            return "%"
        if letter not in values:
            known = ", ".join(f"%{known}" for known in sorted(values))
            raise ConfigurationError(
                f"{pattern!r}: {found[0]} stands for nothing here; there are {known}, and %% for a %"
            )
        return values[letter]

    return _PATTERN.sub(value, pattern)
