"""Which files are watched, what counts as a change, and mistakes that are found before a restart."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dray.cli.exits import Stop
from dray.cli.process.watch import Watch


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "tasks.py").write_text("x = 1\n")
    return tmp_path


def touch(path: Path, text: str) -> None:
    path.write_text(text)
    os.utime(path, (1, 1))


def test_a_file_that_is_new_gone_or_different_is_a_change(workdir: Path) -> None:
    watch = Watch(["."])
    assert watch.changed() == []
    touch(workdir / "shop" / "tasks.py", "x = 2\n")
    (workdir / "shop" / "more.py").write_text("")
    changed = watch.changed()
    assert watch.named(changed) == "shop/more.py, shop/tasks.py changed"
    assert watch.changed() == []
    (workdir / "shop" / "more.py").unlink()
    assert watch.named(watch.changed()) == "shop/more.py changed"


def test_what_is_no_code_of_the_app_is_left_out(workdir: Path) -> None:
    watch = Watch(["."])
    for name in (".git", "__pycache__", "node_modules", "venv"):
        (workdir / name).mkdir()
        (workdir / name / "x.py").write_text("")
    (workdir / "venv" / "pyvenv.cfg").write_text("")
    (workdir / "notes.txt").write_text("")
    assert watch.changed() == []


def test_named_paths_are_watched_and_no_others(workdir: Path) -> None:
    (workdir / "settings.toml").write_text("")
    watch = Watch(["shop", "settings.toml"])
    (workdir / "other.py").write_text("")
    assert watch.changed() == []
    touch(workdir / "settings.toml", "strict = true\n")
    assert watch.named(watch.changed()) == "settings.toml changed"


def test_many_changes_are_counted(workdir: Path) -> None:
    watch = Watch(["."])
    for n in range(5):
        (workdir / f"m{n}.py").write_text("")
    assert watch.named(watch.changed()) == "m0.py, m1.py, m2.py and 2 more changed"


def test_a_path_that_is_not_there_is_refused() -> None:
    with pytest.raises(Stop, match="--watch nowhere: there is no such file or directory"):
        Watch(["nowhere"])


def test_a_mistake_is_remembered_until_it_is_mended(workdir: Path) -> None:
    watch = Watch(["."])
    touch(workdir / "shop" / "tasks.py", "def x(:\n")
    watch.changed()
    assert watch.wrong() == "shop/tasks.py:1: invalid syntax"
    (workdir / "other.py").write_text("")
    watch.changed()
    assert watch.wrong() == "shop/tasks.py:1: invalid syntax"
    touch(workdir / "shop" / "tasks.py", "x = 3\n")
    watch.changed()
    assert watch.wrong() == ""


@pytest.mark.parametrize("content", [b"x = '\xff'\n", b"\x00"])
def test_what_is_no_text_is_a_mistake_too(workdir: Path, content: bytes) -> None:
    watch = Watch(["."])
    (workdir / "shop" / "tasks.py").write_bytes(content)
    watch.changed()
    assert watch.wrong().startswith("shop/tasks.py")


def test_a_file_that_is_gone_is_no_mistake(workdir: Path) -> None:
    watch = Watch(["."])
    (workdir / "shop" / "tasks.py").unlink()
    assert watch.changed() and watch.wrong() == ""


def test_other_files_that_are_watched_are_not_read_as_python(workdir: Path) -> None:
    (workdir / "settings.toml").write_text("")
    watch = Watch(["settings.toml"])
    touch(workdir / "settings.toml", "[not python\n")
    assert watch.changed() and watch.wrong() == ""
