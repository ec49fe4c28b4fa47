"""What `import dray` offers: every name from one list, documented, and loaded only when it is used."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import dray
import dray.testing

PUBLIC = [name for name in dray.__all__ if not name.startswith("__")]

#: What an import of the engine must never bring along: drivers, web frameworks, command lines, test tools, plugins.
FOREIGN = {
    "boto3", "click", "cronsim", "django", "fastapi", "flask", "kombu", "pika", "pluggy", "psycopg", "pydantic",
    "pytest", "redis", "rich", "sqlite3", "starlette", "yaml", "zstandard",
    "dray_backends", "dray_brokers", "dray_serializers",
}  # fmt: skip


def imported_for_type_checkers(module: ModuleType) -> dict[str, str]:
    """Return what a module's `if TYPE_CHECKING:` imports, name -> module it comes from."""
    tree = ast.parse(Path(module.__file__ or "").read_text())
    found = {}
    for block in tree.body:
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            for statement in block.body:
                assert isinstance(statement, ast.ImportFrom)
                for alias in statement.names:
                    # "as" makes it public for type checkers; without it they would call it private.
                    assert alias.asname == alias.name, f"{alias.name} is not re-exported"
                    found[alias.name] = statement.module or ""
    return found


def modules_after(code: str) -> set[str]:
    """Return the top-level names of the modules that a fresh interpreter has loaded after `code`."""
    show = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True, timeout=60, check=True
    )
    return set(ran.stdout.split())


def test_type_checkers_see_the_names_that_are_there() -> None:
    assert imported_for_type_checkers(dray) == dray._MODULE_OF
    assert sorted(dray.__all__) == sorted([*dray._MODULE_OF, "__version__"])
    assert imported_for_type_checkers(dray.testing) == dray.testing._MODULE_OF
    assert sorted(dray.testing.__all__) == sorted(dray.testing._MODULE_OF)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_the_one_its_module_has(name: str) -> None:
    home = importlib.import_module(f"dray.{dray._MODULE_OF[name]}")
    assert getattr(dray, name) is getattr(home, name)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name: str) -> None:
    found = getattr(dray, name)
    if inspect.isclass(found) or inspect.isfunction(found):
        assert (found.__doc__ or "").strip(), f"dray.{name} has no docstring"
        assert not (found.__doc__ or "").startswith(f"{name}("), "that is what a class says when nobody wrote anything"


@pytest.mark.parametrize("name", [name for name in PUBLIC if inspect.isclass(getattr(dray, name))])
def test_every_public_method_of_a_public_class_is_documented(name: str) -> None:
    kind = getattr(dray, name)
    bare = []
    for word, member in vars(kind).items():
        function = member.fget if isinstance(member, property) else getattr(member, "func", member)
        function = getattr(function, "__func__", function)
        if word.startswith("_") or not inspect.isfunction(function):
            continue
        # A method may leave the words to the base class that promised it.
        if not inspect.getdoc(function) and not inspect.getdoc(getattr(kind, word)) and not _inherited(kind, word):
            bare.append(word)
    assert bare == []


def _inherited(kind: type, word: str) -> bool:
    protocols = (dray.Clock,) if hasattr(dray.Clock, word) else ()
    return any(inspect.getdoc(getattr(base, word, None)) for base in (*kind.__mro__[1:], *protocols))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'dray' has no attribute 'Drey'"):
        dray.Drey  # noqa: B018
    with pytest.raises(AttributeError, match=r"module 'dray.testing' has no attribute 'x'"):
        dray.testing.x  # noqa: B018


def test_dir_lists_the_public_names() -> None:
    assert dir(dray) == sorted(dray.__all__)
    assert dir(dray.testing) == sorted(dray.testing.__all__)


def test_importing_dray_loads_next_to_nothing() -> None:
    assert modules_after("import dray") - modules_after("") <= {"dray", "importlib", "typing"} | set(
        sys.stdlib_module_names
    )
    assert modules_after("import dray") & (FOREIGN | {"asyncio", "msgspec"}) == set()


def test_declaring_tasks_loads_no_driver_no_web_no_command_line_and_no_plugin() -> None:
    code = "import dray\napp = dray.Dray('x')\n@app.task\ndef f(x: int) -> int: return x\ns = f.s(1)"
    assert modules_after(code) & (FOREIGN - {"pluggy"}) == set()


def test_a_worker_loads_nothing_of_what_its_app_does_not_use() -> None:
    worked = """
import sys
from dray import Dray

app = Dray("x", broker="memory://", store_url="disabled")

@app.task
def f(x: int) -> int:
    return x

with app.worker():
    assert f.delay(1).get(timeout=10) == 1
loaded = {name.removeprefix("dray.") for name in sys.modules}
unused = "batches fans flows schedule_book schedule_control schedule_entries scheduler ticking webhook_post"
assert not loaded & {*unused.split(), "webhook_signatures"}, sorted(loaded)
"""
    modules_after(worked)


def test_every_public_name_can_be_loaded_without_a_driver_web_framework_or_command_line() -> None:
    assert modules_after("from dray import *") & (FOREIGN - {"pluggy"}) == set()


def test_the_pytest_plugin_loads_neither_the_engine_nor_what_it_needs() -> None:
    code = "import dray.testing.pytest_plugin, dray.testing.grades, sys\nassert 'dray.app' not in sys.modules"
    assert modules_after(code) & ((FOREIGN - {"pytest", "pluggy"}) | {"msgspec"}) == set()


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert dray.__version__ == version("dray")
