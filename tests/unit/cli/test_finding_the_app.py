"""`dray` before any command runs: its help pages, and the app that -A leads to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dray.cli import COMMANDS, cli

from .conftest import CommandLine

# Help and start


def every_command(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        yield (*path, name)
        if isinstance(found, click.Group):
            yield from every_command(found, (*path, name))


@pytest.mark.parametrize("path", list(every_command()), ids=" ".join)
def test_every_command_has_a_help_page_with_examples(run: CommandLine, path: tuple[str, ...]) -> None:
    page = run(*path, "--help").output()
    assert page.startswith(f"Usage: dray {' '.join(path)} ")
    assert "\nExamples\n  # " in page


@pytest.mark.parametrize("path", [(), ("worker",), ("dead", "replay")], ids=["dray", "worker", "dead replay"])
def test_help_says_what_the_exit_codes_mean(run: CommandLine, path: tuple[str, ...]) -> None:
    page = run(*path, "--help").output()
    codes = page.partition("Exit codes")[2]
    expected = ["0", "1", "2", "3", *(["4"] if path == ("worker",) else []), "130"]
    assert [line.split()[0] for line in codes.splitlines() if line[2:3].isdigit()] == expected


def test_help_says_defaults_in_words(run: CommandLine) -> None:
    page = " ".join(run("worker", "--help").output().split())
    assert "[default: all that its tasks use]" in page
    assert "[default: threads]" in page


def test_help_lists_the_commands_without_importing_them_or_the_engine() -> None:
    code = (
        "import sys\nfrom dray.cli import cli\n"
        "cli(['--help'], standalone_mode=False)\n"
        "print([name for name in ('msgspec', 'pluggy', 'rich', 'dray.app', 'dray.cli.worker') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_python_m_dray_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "dray", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("dray 0.")


def test_an_unknown_command_is_told_from_what_there_is(run: CommandLine) -> None:
    message = run("wroker").usage_error()
    assert message.startswith("there is no command 'wroker'; did you mean 'worker'? Commands: worker, scheduler, demo")


# Finding the app


@pytest.mark.parametrize(
    ("files", "place"),
    [
        ({"one.py": "from dray import Dray\napp = Dray('found')"}, "one"),
        ({"one.py": "from dray import Dray\nqueue = Dray('found')"}, "one"),
        ({"one.py": "from dray import Dray\nqueue = Dray('found')\nother = Dray('other')"}, "one:queue"),
        ({"one.py": "from dray import Dray\nqueue = Dray('found')\nother = Dray('other')"}, "one.queue"),
        ({"one.py": "from dray import Dray\nclass site: queue = Dray('found')"}, "one:site.queue"),
        ({"one.py": "from dray import Dray\napp = 'a web app'\nqueue = Dray('found')"}, "one"),
        ({"one/__init__.py": "", "one/app.py": "from dray import Dray\napp = Dray('found')"}, "one"),
        ({"one/__init__.py": "", "one/tasks.py": "from dray import Dray\napp = Dray('found')"}, "one.tasks"),
    ],
    ids=["app", "the only one", "named", "dotted", "nested", "app is another", "package.app", "in a package"],
)
def test_an_app_is_found(run: CommandLine, files: dict[str, str], place: str) -> None:
    for name, text in files.items():
        run.write(name, text)
    assert "found (" in run("-A", place, "worker", "--burst").stderr


EMPTY = {"one/__init__.py": "", "one/tasks.py": ""}
TWO = {"one.py": "from dray import Dray\na = Dray()\nb = Dray()"}


@pytest.mark.parametrize(
    ("files", "place", "said"),
    [
        ({}, "shpo", "no module 'shpo'; did you mean 'shop'? Looked in "),
        ({}, "shop.tasks", "'shop' is a module and not a package; did you mean 'shop:app'?"),
        ({}, "shop:apq", "'shop' has no 'apq'. Its apps: shop:app; did you mean 'app'?"),
        ({}, "shop:Reject", "shop:Reject is not an app, it is a type. Its apps: shop:app"),
        ({}, "./shop.py", "such as shop.tasks or shop.tasks:app; got './shop.py'; did you mean 'shop'?"),
        (EMPTY, "one.task", "no module 'one.task'. In the package 'one' are: tasks; did you mean 'tasks'?"),
        (EMPTY, "one", "No app is in it; what is: modules one.tasks."),
        (TWO, "one", "which app of 'one'? Its apps: one:a, one:b; say which one"),
        ({"one.py": "x = 1\ndef y(): ..."}, "one", "what is: x, y. An app is made with `app = Dray('one')`."),
    ],
)  # fmt: skip
def test_an_app_that_is_not_found_is_explained_in_one_line(
    run: CommandLine, files: dict[str, str], place: str, said: str
) -> None:
    for name, text in files.items():
        run.write(name, text)
    assert said in run("-A", place, "worker").error(code=2)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\nx / 0", "one.py:2: ZeroDivisionError: division by zero"),
        ("\nimport nowhere_at_all", "one.py:2: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("x = (\n", "one.py:1: SyntaxError: '(' was never closed"),
        ("raise SystemExit(7)", "one.py:1: SystemExit: 7"),
        ("from dray import Dray\nDray().task(retrys=1)(print)", "one.py:2: @app.task of builtins.print has no option"),
    ],
)  # fmt: skip
def test_an_error_in_the_module_is_told_with_its_place(run: CommandLine, code: str, said: str) -> None:
    run.write("one.py", code)
    assert f"importing 'one' fails at {said}" in run("-A", "one", "worker").error(code=2)


def test_the_app_may_be_named_before_or_after_the_command_or_in_the_environment(
    run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for args in (("-A", "shop", "doctor", "--json"), ("doctor", "--json", "-A", "shop")):
        assert "tasks" in [check["name"] for check in run(*args).data()["checks"]]
    monkeypatch.setenv("DRAY_APP", "shop")
    assert "tasks" in [check["name"] for check in run("doctor", "--json").data()["checks"]]
    assert "tasks" not in [check["name"] for check in run("-A", "", "doctor", "--json").data()["checks"]]


def test_a_worker_without_an_app_says_how_to_name_one(run: CommandLine) -> None:
    assert "`dray -A shop.tasks worker`, or set DRAY_APP" in run("worker").error(code=2)


def test_workdir_is_where_the_app_is_looked_for_and_is_left_again(
    run: CommandLine, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = workdir / "else" / "where"
    elsewhere.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    assert run("--workdir", str(workdir), "-A", "shop", "doctor", "--json").data()["ok"]
    assert Path.cwd() == elsewhere


def test_a_wrong_setting_is_one_line_and_exit_code_2(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAY_TASK_ACKS_LATE", "perhaps")
    assert "DRAY_TASK_ACKS_LATE" in run("queues").error(code=2)


def test_a_wrong_url_is_one_line_and_shows_no_password(run: CommandLine) -> None:
    line = run("--url", "reddis://me:s3cret@host/0?token=abc", "queues").error(code=2)
    assert "no broker called 'reddis' is installed" in line
    line = run("--url", "sqlite://me:s3cret@host:99999999/x", "queues").error(code=2)
    assert "s3cret" not in line
