"""An environment for each peer or Python, made once and kept: `pip install` of what it needs, below one folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

#: Seconds that the installation of one peer may take.
PATIENCE = 600.0


class NotInstalled(Exception):
    """A peer cannot take part, and why."""


def python_of(
    name: str,
    requirements: Sequence[str],
    folder: Path,
    say: Callable[[str], None],
    base: Path | str = sys.executable,
    version: str = sys.version,
) -> Path:
    """Return the interpreter of the environment called `name` that has exactly these requirements.

    It is made from the interpreter `base` of that version, and anew when it was made for others. Raises NotInstalled
    with the reason.
    """
    home = folder / name
    python = home / "bin" / "python"
    wanted = json.dumps([version, *requirements])
    done = home / "installed.json"
    if done.exists() and done.read_text(encoding="utf-8") == wanted:
        return python
    say(f"installing {' '.join(requirements)}")
    try:
        _create(base, home)
        _install(python, requirements)
    except (OSError, subprocess.SubprocessError) as error:
        raise NotInstalled(_reason(error)) from error
    # Last: killed before, it is made anew the next time.
    done.write_text(wanted, encoding="utf-8")
    return python


def _create(base: Path | str, home: Path) -> None:
    command = [str(base), "-m", "venv", "--clear", str(home)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)


def _install(python: Path, requirements: Sequence[str]) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)


def _reason(error: Exception) -> str:
    """Return in one line why nothing was installed."""
    said = getattr(error, "stderr", None) or str(error)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return " ".join((errors or lines or [type(error).__name__])[-1].split())[:200]


def pythons(
    needed: Mapping[str, Sequence[str]], folder: Path, say: Callable[[str], None]
) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the interpreters by the names of the peers, and why some have none."""
    found, left_out = {}, {}
    for name, requirements in needed.items():
        try:
            found[name] = python_of(name, requirements, folder, say)
        except NotInstalled as error:
            left_out[name] = f"not installed: {error}"
    return found, left_out
