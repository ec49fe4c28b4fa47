"""Build a plugin as a wheel, install it and dray's wheel into a fresh environment, and run its conformance test there.

    python tests/acceptance/plugin_in_its_own_environment.py examples/plugins/dray-folder

Nothing of this checkout is importable in that environment: what passes there passes at a stranger's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command that must succeed; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DRAY_"))}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def main(plugin: Path) -> None:
    """Prove the plugin in `plugin`."""
    with tempfile.TemporaryDirectory(prefix="dray-plugin-") as folder:
        here = Path(folder)
        for project in (ROOT, plugin):
            run(sys.executable, "-m", "build", "--wheel", "--outdir", here / "wheels", project, cwd=ROOT)
        venv.create(here / "env", with_pip=True)
        python = here / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
        wheels = sorted((here / "wheels").glob("*.whl"))
        run(python, "-m", "pip", "install", "--quiet", *wheels, "pytest>=8.3", cwd=here)
        tests = here / "tests"
        tests.mkdir()
        for test in plugin.glob("test_*.py"):
            (tests / test.name).write_bytes(test.read_bytes())
        print(f"{plugin.name}: {', '.join(wheel.name for wheel in wheels)} in an environment of their own")
        listed = run(python, "-m", "dray", "plugins", cwd=here)
        name = plugin.name.removeprefix("dray-")
        if name not in listed:
            raise SystemExit(f"`dray plugins` does not list {name!r}:\n{listed}")
        print(run(python, "-m", "pytest", "-q", "-W", "error", tests, cwd=tests))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
