"""An app in a module of its own, which the processes of a pool can import, and what tests of such pools ask of it."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dray import Dray
from dray.testing.faults import wait_until
from dray.worker import Worker


class Shop:
    """An app in a module of its own, which children can import, with its tasks as attributes."""

    def __init__(self, template: Path, pool: str, folder: Path, name: str, **settings: Any) -> None:
        shutil.copy(template, folder / f"{name}.py")
        self.pool = pool
        self.folder = folder
        self.module: ModuleType = importlib.import_module(name)
        self.app: Dray = self.module.app
        # After the import, as the command line does: children get to know of it.
        self.app.conf.update(broker_url=f"sqlite:///{folder}/queue.db", worker_concurrency=1, **settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def worker(self, **options: Any) -> Worker:
        return self.app.worker(pool=self.pool, **options)

    def ledger(self) -> list[str]:
        return self.module.LEDGER.read_text().split() if self.module.LEDGER.exists() else []

    def wait_for(self, line: object) -> None:
        wait_until(lambda: str(line) in self.ledger())

    def process_of(self, id: str) -> int:
        """Wait for a task that says where it runs (`sleep`, `held`), and return that process."""

        def processes() -> list[int]:
            return [int(line.partition("@")[2]) for line in self.ledger() if line.startswith(f"{id}@")]

        wait_until(processes)
        return processes()[0]

    def let_go(self) -> None:
        """Have the tasks come to their end that wait for it: those that run, and those that run later."""
        (self.folder / "go-on").touch()

    def got(self, task: str, *args: Any, **options: Any) -> Any:
        """Send a task and return what becomes of it: the value or the exception."""
        return value(getattr(self, task).apply_async(args, **options))


def value(result: Any, timeout: float = 20.0) -> Any:
    return result.get(timeout=timeout, propagate=False)


def is_there(pid: int) -> bool:
    """Return whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def shops(template: Path, pool: str, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Callable[..., Shop]]:
    """`make(**settings)`: a shop with the tasks of `template`; its module is forgotten at the end."""
    patch.syspath_prepend(folder)
    made: list[Shop] = []

    def make(**settings: Any) -> Shop:
        name = f"pool_{folder.name.replace('-', '_')}_{len(made)}"
        made.append(Shop(template, pool, folder, name, **settings))
        return made[-1]

    yield make
    for one in made:
        one.app.close()
        del sys.modules[one.module.__name__]
