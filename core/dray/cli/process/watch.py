"""Look for changes in the Python files of an app, twice a second: on every system and on network disks, too."""

from __future__ import annotations

import os
import tokenize
from collections.abc import Iterator, Sequence

from ..exits import USAGE, Stop

#: Directories that no app keeps its code in.
LEFT_OUT = frozenset({"__pycache__", "node_modules", "site-packages"})
#: How many names are said.
SHOWN = 3


class Watch:
    """The .py files below some directories, and those named themselves. Raises `Stop` for a path that is not there."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = [os.path.abspath(path) for path in paths]
        for path in self._paths:
            if not os.path.exists(path):
                raise Stop(f"--watch {os.path.relpath(path)}: there is no such file or directory", USAGE)
        self._seen = self._look()
        #: Those that have changed since the last one that could be read.
        self._suspects: set[str] = set()

    def changed(self) -> list[str]:
        """Return the files that are new, gone or different since the last call."""
        seen, self._seen = self._seen, self._look()
        changed = [path for path in seen.keys() | self._seen.keys() if seen.get(path) != self._seen.get(path)]
        self._suspects.update(changed)
        return sorted(changed)

    def wrong(self) -> str:
        """Return the first mistake in what has changed that keeps Python from reading it: place and words, or ""."""
        for path in sorted(path for path in self._suspects if path.endswith(".py")):
            try:
                with tokenize.open(path) as file:
                    compile(file.read(), path, "exec", dont_inherit=True)
            except (SyntaxError, ValueError) as error:
                line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
                return f"{os.path.relpath(path)}{line}: {getattr(error, 'msg', error)}"
            except OSError:
                pass  # it is gone, and who needs it will say so
            self._suspects.discard(path)
        return ""

    def named(self, paths: Sequence[str]) -> str:
        """Return in words which files have changed."""
        names = [os.path.relpath(path) for path in paths[:SHOWN]]
        more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
        return f"{', '.join(names)}{more} changed"

    def _look(self) -> dict[str, tuple[int, int]]:
        found = {}
        for path in self._files():
            try:
                status = os.stat(path)
            except OSError:
                continue  # gone since we looked, or a link to nowhere
            found[path] = (status.st_mtime_ns, status.st_size)
        return found

    def _files(self) -> Iterator[str]:
        for path in self._paths:
            if os.path.isfile(path):
                yield path
            for folder, inside, names in os.walk(path):
                inside[:] = [name for name in inside if not name.startswith(".") and name not in LEFT_OUT]
                inside[:] = [name for name in inside if not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))]
                yield from (os.path.join(folder, name) for name in names if name.endswith(".py"))
