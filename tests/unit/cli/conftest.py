"""The command line in this process: a directory of its own with an app in it, and what comes of a command."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dray import Dray
from dray.cli import cli
from dray.plugin_loading import installed

SHOP = """
from dray import Dray, Reject

app = Dray("shop", set_as_current=False)

@app.task
def add(x: int, y: int = 0) -> int:
    return x + y

@app.task
async def fetch(url: str) -> str:
    return f"<{url}>"

@app.task(dead_letter=True)
def boom() -> None:
    raise ValueError("no such size", 3)

@app.task(queue="mail")
def login(user: str, password: str, **more: str) -> None:
    raise Reject("mail is closed")
"""


class Ran:
    """What came of a command."""

    def __init__(self, *args: str, input: str | None) -> None:
        done = CliRunner().invoke(cli, args, input=input, prog_name="dray", catch_exceptions=False)
        self.exit_code, self.stdout, self.stderr = done.exit_code, done.stdout, done.stderr

    def output(self, code: int = 0) -> str:
        """Return what it printed, when it ended with `code`."""
        assert self.exit_code == code, self.stdout + self.stderr
        return self.stdout

    def data(self, code: int = 0) -> Any:
        """Return the JSON it printed."""
        return json.loads(self.output(code))

    def error(self, code: int) -> str:
        """Return the one line on stderr with which it ended."""
        assert self.output(code) == ""
        (line,) = self.stderr.splitlines()
        assert line.startswith("Error: ")
        return line.removeprefix("Error: ")

    def usage_error(self) -> str:
        """Return what was wrong with its options."""
        self.output(code=2)
        return self.stderr.splitlines()[-1].removeprefix("Error: ")


class CommandLine:
    """`run("queues", "--json")` is `dray queues --json` in a directory with an app in shop.py."""

    def __init__(self, workdir: Path) -> None:
        self._workdir = workdir

    def __call__(self, *args: str, input: str | None = None) -> Ran:
        return Ran(*args, input=input)

    def write(self, name: str, text: str) -> None:
        """Write a file below the directory."""
        path = self._workdir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        invalidate_caches()

    def plugin(self, name: str, code: str) -> None:
        """Install a plugin, as far as Python can tell."""
        info = f"acme_{name}-1.2.dist-info"
        self.write(f"{name}.py", code)
        self.write(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: acme-{name}\nVersion: 1.2\n")
        self.write(f"{info}/entry_points.txt", f"[dray]\n{name} = {name}\n")
        sys.path.insert(0, str(self._workdir))
        installed.cache_clear()


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory the commands run in, with a queue in a file. Nothing else is configured."""
    for name in [name for name in os.environ if name.startswith("DRAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DRAY_CONFIG", "")
    monkeypatch.setenv("DRAY_BROKER_URL", f"sqlite:///{tmp_path}/tasks.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before, threshold = set(sys.modules), gc.get_threshold()
    yield tmp_path
    # A worker's command has the process to itself, elsewhere.
    gc.unfreeze()
    gc.set_threshold(*threshold)
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    installed.cache_clear()


@pytest.fixture
def run(workdir: Path) -> CommandLine:
    made = CommandLine(workdir)
    made.write("shop.py", SHOP)
    return made


@pytest.fixture
def shop(run: CommandLine, workdir: Path) -> Iterator[Dray]:
    """The app in shop.py, as the module's importer has it."""
    sys.path.insert(0, str(workdir))
    app: Dray = import_module("shop").app
    yield app
    app.close()


@pytest.fixture
def letters(shop: Dray) -> dict[str, str]:
    """Two dead letters: of boom in default, of login in mail; their ids by task."""
    sent = {
        "boom": shop.tasks["shop.boom"].delay().id,
        "login": shop.tasks["shop.login"].delay("me", password="hunter2", pin="1234").id,
    }
    shop.worker().run_until_idle()
    return sent
