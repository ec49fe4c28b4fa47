"""One side, in one configuration, on an empty spot: its processes, told by the environment what to do."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from watched import TrialFailed, Watched, last_words, watching

APPS = Path(__file__).with_name("apps")
#: Seconds that a process may take to send or to answer.
VERB_PATIENCE = 120.0


class Setting(NamedTuple):
    """What a trial is about: which task, declared how. What `protocol.Trial` has besides belongs to the spot."""

    config: str
    task: str
    kind: str
    stored: bool = False
    at_once: int = 1


class Attempt:
    """The processes of one trial. Tasks count themselves in the file `ledger` of its folder."""

    def __init__(self, python: Path, app: str, folder: Path, trial: Mapping[str, Any]) -> None:
        self._command = [str(python), str(APPS / "start.py"), app]
        self._folder = folder
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DRAY_", "PYTHON"))}
        self._environment = inherited | {"PYTHONPATH": str(APPS), "BENCH_TRIAL": json.dumps(trial)}
        self._environment["PATH"] = f"{python.parent}{os.pathsep}{inherited.get('PATH', '')}"
        (folder / "ledger").touch()

    def do(self, verb: str, *numbers: float) -> Any:
        """Have one process do something, and return what it found."""
        try:
            done = subprocess.run(
                [*self._command, verb, *map(str, numbers)],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=VERB_PATIENCE,
            )
        except subprocess.TimeoutExpired as error:
            raise TrialFailed(f"{verb} takes longer than {VERB_PATIENCE:g} s") from error
        if done.returncode:
            raise TrialFailed(f"{verb} ended with {done.returncode}: {last_words(done.stderr)}")
        return json.loads(done.stdout.splitlines()[-1])

    def worker(self) -> AbstractContextManager[Watched]:
        """Have a worker within the context."""
        return watching([*self._command, "work"], self._folder, self._environment)


@contextlib.contextmanager
def spot(wipe: Callable[[], None]) -> Iterator[Path]:
    """Give an empty folder, and have everything deleted afterwards."""
    with TemporaryDirectory() as folder:
        try:
            yield Path(folder)
        finally:
            wipe()
