"""`dray demo`: the main job through the real command, with real worker processes, one of which is killed."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dray.cli.demo_ledger import Ledger
from dray.cli.demo_report import next_steps
from dray.cli.demo_tasks import facts_of

DRAY = [sys.executable, "-m", "dray"]
WITHOUT_RICH = [sys.executable, "-c", "import sys; sys.modules['rich'] = None; from dray.cli import main; main()"]
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
#: Longest time (seconds) for one demo.
LONG = 100


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where demos make their folders, and find nothing of the user's."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("DRAY_")]:
        monkeypatch.delenv(name)
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """120 Python files, each of which takes a moment to parse."""
    root = tmp_path / "tree"
    for number in range(120):
        path = root / f"part{number % 7}" / f"module{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        functions = 150 + number
        body = "\n".join(f"def f{n}(x):\n    return [x.y + {n} for z in range(x)]" for n in range(functions))
        path.write_text(f"class A{number}:\n    pass\n{body}\n", encoding="utf-8")
    return root


def run(*args: str | Path, command: Sequence[str] = DRAY) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, "demo", *args], capture_output=True, text=True, timeout=LONG, check=False)


def report(*args: str | Path) -> dict[str, Any]:
    done = run("--json", *args)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def running(*args: str | Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start a demo; yield it, and the process id of its first worker."""
    with subprocess.Popen(
        [*DRAY, "demo", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            yield (
                process,
                next(int(found[1]) for line in process.stdout if (found := re.search(r"process (\d+)", line))),
            )
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def on_terminal(command: Sequence[str], *args: str | Path) -> str:
    """Return what a demo shows on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen([*command, "demo", *args], stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += (read := os.read(ours, 65536))
            except OSError:  # how the end of a terminal looks
                break
            if not read:
                break
    os.close(ours)
    text = shown.decode()
    assert process.returncode == 0, text
    return text


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_is_killed_on_the_way_and_nothing_is_lost(tree: Path, temporary: Path) -> None:
    found = report(tree)
    texts = [path.read_text(encoding="utf-8") for path in tree.rglob("*.py")]
    ledger = found["ledger"]
    assert ledger["sent"] == ledger["done"] == found["files"] == found["python"] == 120
    assert ledger["lost"] == ledger["failed"] == 0
    assert 0 < ledger["killed_at"] < 120
    assert ledger["recovery"] > 0
    assert ledger["cut_short"] <= ledger["run_twice"] <= ledger["executions"] - 120
    assert found["lines"] == sum(text.count("\n") for text in texts)
    assert found["functions"] == sum(len(re.findall(r"^def ", text, re.M)) for text in texts)
    assert found["classes"] == 120
    assert found["bytes"] == sum(map(len, texts))
    assert list(temporary.iterdir()) == []


def test_several_workers_share_the_work_and_one_is_killed(tree: Path, temporary: Path) -> None:
    ledger = report(tree, "--workers", "2", "-c", "1", "--limit", "60")["ledger"]
    assert (ledger["sent"], ledger["done"], ledger["lost"]) == (60, 60, 0)


def test_every_kind_of_file_is_told_apart_and_nobody_is_killed_on_request(tmp_path: Path, temporary: Path) -> None:
    root = tmp_path / "odd"
    (root / ".git").mkdir(parents=True)
    (root / "__pycache__").mkdir()
    (root / ".git" / "config").write_text("left out")
    (root / "__pycache__" / "a.pyc").write_text("left out")
    files = {
        "good.py": b"import os\nasync def f(): return os.path\nclass A:\n    def g(self): return self.f",
        "empty.py": b"",
        "broken.py": b"def f(:\n",
        "latin.py": b"# -*- coding: latin-1 -*-\nname = '\xe9'\n",
        "nul.py": b"x = 1\0\n",
        "deep.py": b"(" * 5000 + b")" * 5000,
        "words.txt": b"one two\nthree\n",
        "picture.gif": b"GIF89a\0" + bytes(5000),
        os.fsdecode(b"no \xff text"): b"named oddly\n",
    }
    for name, body in files.items():
        (root / name).write_bytes(body)
    (root / "link.py").symlink_to(root / "good.py")
    found = report(root, "--no-kill")
    assert found["files"] == len(files)
    assert {kind: found[kind] for kind in ("python", "text", "binary", "unreadable", "unparsed")} == {
        "python": 5,
        "text": 2,
        "binary": 2,
        "unreadable": 0,
        "unparsed": 2,
    }
    assert (found["functions"], found["classes"]) == (2, 1)
    assert found["names"] == {"f": 1, "name": 1, "os": 1, "path": 1, "self": 1}
    assert found["lines"] == 4 + 1 + 2 + 1 + 2 + 1
    assert found["bytes"] == sum(map(len, files.values()))
    assert found["biggest"] == {"path": "deep.py", "bytes": 10000}
    ledger = found["ledger"]
    assert (ledger["sent"], ledger["done"], ledger["executions"]) == (9, 9, 9)
    assert (ledger["run_twice"], ledger["lost"], ledger["killed_at"], ledger["recovery"]) == (0, 0, None, None)


def test_the_standard_library_is_read_unless_a_folder_is_named(temporary: Path) -> None:
    found = report("--limit", "3", "--no-kill")
    assert found["directory"] == f"Python 3.{sys.version_info.minor}'s standard library"
    assert found["files"] == 3


def test_the_settings_of_the_user_do_not_matter(tree: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("dray.toml").write_text('broker_url = "nowhere://"\nimports = ["no_such_module"]\n')
    monkeypatch.setenv("DRAY_RESULT_BACKEND", "disabled")
    monkeypatch.setenv("DRAY_TASK_ALWAYS_EAGER", "1")
    ledger = report(tree, "--limit", "5", "--no-kill")["ledger"]
    assert (ledger["sent"], ledger["done"], ledger["executions"]) == (5, 5, 5)


def test_what_is_printed_fits_in_80_columns_and_ends_with_commands_to_try(tree: Path, temporary: Path) -> None:
    done = run(tree, "--limit", "20")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert not COLOURS.search(done.stdout)
    assert any(re.fullmatch(r"  lost +0", line) for line in lines)
    assert any(re.fullmatch(r" +100 %  20 of 20 .*", line) for line in lines)
    shown = [line.split("  #")[0].strip() for line in lines[-3:]]
    assert shown == [command for command, _ in next_steps(shown[0].removesuffix(" doctor"))]


def test_the_commands_to_try_next_work(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    script = "\n".join(command for command, _ in next_steps("dray"))
    done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, timeout=LONG, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "42" in done.stdout.splitlines()


def test_a_terminal_shows_a_bar(tree: Path, temporary: Path) -> None:
    shown = on_terminal(DRAY, tree, "--limit", "40")
    assert "━━━" in shown and "40/40" in shown


def test_without_rich_a_terminal_shows_lines(tree: Path, temporary: Path) -> None:
    shown = COLOURS.sub("", on_terminal(WITHOUT_RICH, tree, "--limit", "40"))
    assert "━" not in shown
    assert "100 %  40 of 40" in shown
    assert re.search(r"lost +0\b", shown)


def test_json_is_all_that_stdout_has(tree: Path, temporary: Path) -> None:
    done = run(tree, "--limit", "2", "--json", "--no-kill", command=WITHOUT_RICH)
    assert json.loads(done.stdout)["ledger"]["done"] == 2
    assert done.stderr == ""


def test_the_folder_is_kept_on_request_and_its_queue_can_be_looked_at(tree: Path, temporary: Path) -> None:
    done = run(tree, "--limit", "3", "--no-kill", "--keep")
    (folder,) = temporary.iterdir()
    assert f"Kept: {folder} (" in done.stdout
    ledger = (folder / "ledger.txt").read_text().split("\n")
    assert sorted(line.split()[:2] for line in ledger if line) == sorted(
        [event, str(number)] for number in range(3) for event in ("began", "ended")
    )


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("no/such/folder", "Directory 'no/such/folder' does not exist"),
        ("file.py", "Directory 'file.py' is a file"),
        ("empty", "there are no files below empty"),
    ],
)
def test_a_folder_that_cannot_be_read_is_an_error_in_words(place: str, said: str, temporary: Path) -> None:
    Path("file.py").touch()
    Path("empty").mkdir()
    done = run(place)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr and "Traceback" not in done.stderr
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("option", [("--url", "memory://"), ("-A", "shop")])
def test_another_queue_or_app_is_refused(option: tuple[str, str], tree: Path, temporary: Path) -> None:
    done = run(*option, tree)
    assert done.returncode == 2
    assert "brings its own app and its own queue" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_when_it_is_stopped_it_says_where_it_was_and_leaves_nothing(
    number: signal.Signals, code: int, tree: Path, temporary: Path
) -> None:
    with running(tree, "--no-kill") as (process, worker):
        assert is_alive(worker)
        process.send_signal(number)
        _, said = process.communicate(timeout=LONG)
    assert process.returncode == code
    assert re.search(r"stopped when \d+ of 120 tasks were done", said)
    assert not is_alive(worker)
    assert list(temporary.iterdir()) == []


def test_a_worker_that_somebody_else_kills_is_replaced(tree: Path, temporary: Path) -> None:
    with running(tree, "--no-kill", "--limit", "30") as (process, worker):
        os.kill(worker, signal.SIGKILL)
        said, _ = process.communicate(timeout=LONG)
    assert process.returncode == 0
    assert re.search(rf"killed +process {worker}, .*\n +worker +process \d+ takes over", said)
    assert re.search(r"done +30 ", said) and re.search(r"lost +0\n", said)


def test_a_worker_that_cannot_start_ends_the_demo_with_what_it_said(
    tree: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Seen by the worker alone: it starts in the demo's own folder, below this one.
    monkeypatch.setenv("PYTHONPATH", str(temporary / "broken"), prepend=os.pathsep)
    (temporary / "broken").mkdir()
    (temporary / "broken" / "usercustomize.py").touch()
    (temporary / "broken" / "sitecustomize.py").write_text(
        f"import os, sys\nif os.getcwd().startswith({str(temporary)!r}): sys.exit('no memory left')\n"
    )
    done = run(tree)
    assert done.returncode == 1
    assert re.search(r"worker \d+ ended by itself \(1\)", done.stderr)
    assert "no memory left" in done.stderr
    assert [path.name for path in temporary.iterdir()] == ["broken"]


def test_the_ledger_reads_whole_lines_only(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.txt")
    assert not ledger.read()
    ledger.path.write_text("began 0 7 1.5\nbegan 1 7 2.0\nended 0 7 3.0\nbegan 1 8 4")
    assert ledger.read()
    assert (set(ledger.ended), ledger.held_by(7), ledger.run_twice) == ({0}, {1}, set())
    with ledger.path.open("a") as file:
        file.write(".5\nended 1 8 5.0\n")
    assert ledger.read()
    assert (set(ledger.ended), ledger.held_by(7), ledger.run_twice, ledger.cut_short) == ({0, 1}, {1}, {1}, {1})
    assert (ledger.executions, ledger.first_of(8), ledger.last) == (3, 4.5, 5.0)


def test_a_file_that_is_gone_is_unreadable(tmp_path: Path) -> None:
    assert facts_of(str(tmp_path / "gone.py")).kind == "unreadable"


def test_names_are_counted_by_use(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("a.b.c = a + [b for b in (lambda c: c)(a)]\n'a b'  # a\n")
    assert Counter(facts_of(str(path)).names) == Counter(a=3, b=3, c=2)
