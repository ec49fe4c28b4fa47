"""The task of `dray demo`: read one file and say what is in it."""

from __future__ import annotations

import ast
import os
import time
from collections import Counter
from dataclasses import dataclass, field

from ..app import Dray

#: Where its queue is, `dray demo` writes into the dray.toml of the folder that its workers run in.
app = Dray("demo", set_as_current=False)

#: Larger sources are counted but not parsed: parsing holds the interpreter lock for seconds, and a worker that does
#: not come to renew its leases loses them.
LARGEST_SOURCE = 2_000_000
#: Larger files are only weighed.
LARGEST_TEXT = 50_000_000
#: A file with a NUL among its first bytes is no text.
LOOKED_AT = 8192


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What one file holds."""

    #: "python", "text", "binary" or "unreadable".
    kind: str
    size: int = 0
    lines: int = 0
    words: int = 0
    #: False for Python that is none: broken, of another version, or too large.
    parsed: bool = False
    functions: int = 0
    classes: int = 0
    #: How often each variable and attribute is named.
    names: dict[str, int] = field(default_factory=dict)


@app.task
def analyse(number: int, path: bytes, ledger: bytes) -> Facts:
    """Read the file at `path`; note in `ledger` that file `number` is begun, and that it is done.

    The ledger is how the demo knows what was run, and how often, without asking dray. Paths are bytes because a file's
    name need not be text.
    """
    note(ledger, "began", number)
    facts = facts_of(os.fsdecode(path))
    note(ledger, "ended", number)
    return facts


def note(ledger: bytes, event: str, number: int) -> None:
    """Add a line to the ledger, in one write: other threads and processes add to it too, and may die at any instant."""
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{event} {number} {os.getpid()} {time.time():.6f}\n".encode())
    finally:
        os.close(file)


def facts_of(path: str) -> Facts:
    """Return what the file at `path` holds. A file that cannot be read or parsed is a fact too, not an error."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST_TEXT or b"\0" in file.read(LOOKED_AT):
                return Facts(kind="binary", size=size)
            file.seek(0)
            text = file.read()
    except OSError:
        return Facts(kind="unreadable")
    lines = text.count(b"\n") + (not text.endswith(b"\n") and bool(text))
    words = len(text.split())
    if not path.endswith(".py"):
        return Facts(kind="text", size=size, lines=lines, words=words)
    tree = parsed(text)
    if tree is None:
        return Facts(kind="python", size=size, lines=lines, words=words)
    functions, classes, names = count(tree)
    return Facts(
        kind="python",
        size=size,
        lines=lines,
        words=words,
        parsed=True,
        functions=functions,
        classes=classes,
        names=names,
    )


def parsed(source: bytes) -> ast.Module | None:
    """Return the syntax tree, or None for what this Python does not take for Python."""
    if len(source) > LARGEST_SOURCE:
        return None
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested too deeply
        return None


def count(tree: ast.Module) -> tuple[int, int, dict[str, int]]:
    """Return how many functions and classes a tree defines, and how often each name is used."""
    names: list[str] = []
    kinds: list[type[ast.AST]] = []
    # What `ast.walk` does, in half its time: next to parsing, this loop is what the demo spends its time on.
    nodes: list[ast.AST] = [tree]
    for node in nodes:
        if isinstance(node, ast.Name):
            names.append(node.id)
            continue
        if isinstance(node, ast.Attribute):
            names.append(node.attr)
        kinds.append(type(node))
        for value in vars(node).values():
            if isinstance(value, ast.AST):
                nodes.append(value)
            elif isinstance(value, list):
                nodes += [item for item in value if isinstance(item, ast.AST)]
    functions = kinds.count(ast.FunctionDef) + kinds.count(ast.AsyncFunctionDef)
    return functions, kinds.count(ast.ClassDef), dict(Counter(names))
