"""Run the Python of one page of the documentation, as a reader would: `python run_page.py docs/tasks.md`.

The ```python blocks of a page run from top to bottom in one module called `shop`, in the working directory:

- a block whose first line is a file name, `# tasks.py`, becomes that file instead; the blocks after it can import it;
- a block with `>>>` runs through doctest, so the output that is shown is the output there is;
- `<!-- fragment -->` above a block: it is compiled and not run;
- `<!-- needs: fastapi -->` above a block: it is run where that is installed, and compiled elsewhere;
- files named `test_*.py` are run by pytest at the end.
"""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

BLOCK = re.compile(r"(?:^<!-- (?P<mark>fragment|needs: \w+) -->\n)?^```python\n(?P<code>.*?)^```$", re.M | re.S)
FILE = re.compile(r"# ([\w/]+\.py)\n")
CONFIGURATION = Path(__file__).parents[2] / "pyproject.toml"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """One ```python block: where it begins, what stands above it, and the code."""

    line: int
    mark: str
    code: str


def blocks(text: str) -> Iterator[Block]:
    """Yield the Python blocks of a page."""
    for found in BLOCK.finditer(text):
        yield Block(text[: found.start("code")].count("\n"), found["mark"] or "", found["code"])


def run_block(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    """Run one block in the page's namespace; raise what it raises."""
    if named := FILE.match(block.code):
        compile(block.code, named[1], "exec")
        path = Path(named[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.code, encoding="utf-8")
    elif ">>> " in block.code:
        test = doctest.DocTestParser().get_doctest(block.code, namespace, page.name, str(page), block.line)
        if block.mark != "fragment":
            results = doctest.DocTestRunner(optionflags=FLAGS).run(test, clear_globs=False)
            namespace.update(test.globs)
            if results.failed:
                raise SystemExit(1)
    else:
        # Tracebacks name the line of the page.
        code = compile("\n" * block.line + block.code, str(page), "exec")
        needs = block.mark.removeprefix("needs: ") if block.mark.startswith("needs") else ""
        if block.mark != "fragment" and (not needs or find_spec(needs) is not None):
            exec(code, namespace)


def main(page: Path) -> int:
    """Run all blocks of `page`, then the tests it has written; return the exit code."""
    sys.path.insert(0, str(Path.cwd()))
    module = sys.modules["shop"] = ModuleType("shop")
    for block in blocks(page.read_text(encoding="utf-8")):
        try:
            run_block(block, page, vars(module))
        except BaseException as error:
            print(f"{page}:{block.line + 1}: this block fails: {error!r}", file=sys.stderr)
            raise
    tests = sorted(str(path) for path in Path.cwd().rglob("test_*.py"))
    if not tests:
        return 0
    options = ["-q", "-p", "no:cacheprovider", "-c", str(CONFIGURATION), "--rootdir", str(Path.cwd())]
    return subprocess.run([sys.executable, "-m", "pytest", *options, *tests], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
