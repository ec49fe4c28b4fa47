"""`dray demo`: the main job on real files, with a worker killed on the way. It needs no server.

send (one task per file) -> watch (the ledger grows; kill; start another) -> collect (the results) -> report
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

import click

from ..errors import ResultTimeout, UnknownResult
from ..settings import Settings
from .command import command, option
from .demo_crew import Crew
from .demo_ledger import Ledger
from .demo_report import Account, Contents, Kill, account, as_json, contents, cut, show
from .demo_screen import Screen, open_screen
from .demo_tasks import Facts, analyse, app
from .exits import FAILURE, INTERRUPTED, OK, USAGE, Stop
from .session import Session
from .tables import printable, show_json

if TYPE_CHECKING:
    from ..result import AsyncResult

#: Seconds a task is lent to a worker of the demo. Short, so that one sees what a killed worker held come back.
LEASE = 2.0
#: The share of the tasks that is done when a worker is killed.
KILL_AT = 0.45
#: Seconds between two looks at the ledger, and without any news before the demo gives up.
LOOK, STALL = 0.02, 60.0
#: Seconds without news after which the queue is asked whether anything is left.
QUIET = 1.0
#: Seconds one result may take once the ledger says that its task has ended.
RESULT = 15.0
#: What is read unless DIR is given.
STDLIB = f"Python {sys.version_info.major}.{sys.version_info.minor}'s standard library"
#: Folders below DIR that hold no files of one's own; hidden ones are left out too.
LEFT_OUT = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})


@command(
    "demo",
    codes={
        OK: "every task was done, and none was lost",
        FAILURE: "a task failed or was lost, or a worker ended by itself",
        USAGE: "wrong options, or no files",
        INTERRUPTED: "ended by Ctrl-C; the workers were stopped and the queue deleted",
    },
    examples=[
        ("dray demo", "the Python standard library: one task for each file"),
        ("dray demo ~/code --workers 2", "your own files, on two processes"),
        ("dray demo --no-kill --limit 100", "a short one, in which nobody is killed"),
        ("dray demo --json", "the report for machines"),
    ],
)
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(exists=True, file_okay=False))
@option("--no-kill", is_flag=True, help="Do not kill a worker on the way.")
@option("--workers", metavar="N", type=click.IntRange(1, 64), default=1, default_text="1", help="Worker processes.")
@option(
    "-c",
    "--concurrency",
    metavar="N",
    type=click.IntRange(min=1),
    default=2,
    help="How many tasks a worker runs at once. Parsing Python holds its lock: more threads gain nothing here.",
    default_text="2",
)
@option("--limit", metavar="N", type=click.IntRange(min=1), help="Take the first N files only.", default_text="all")
@option("--keep", is_flag=True, help="Keep the folder with the queue, the results and the ledger, and say where it is.")
@option("--json", "json_wanted", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def demo(
    ctx: click.Context,
    directory: str | None,
    no_kill: bool,
    workers: int,
    concurrency: int,
    limit: int | None,
    keep: bool,
    json_wanted: bool,
) -> None:
    """Run a real job: one task for each file below DIR, with a worker killed in the middle.

    The queue is a file in a temporary folder; no server is needed. The tasks count lines, functions, classes and names.
    A ledger that they write themselves shows that nothing was lost. DIR: the standard library of this Python, unless
    given; caches, installed packages and hidden folders in it are left out.
    """
    _refuse_others(ctx.find_object(Session))
    root = Path(directory or sysconfig.get_path("stdlib")).absolute()
    title = STDLIB if directory is None else printable(click.format_filename(directory))
    files = find_files(root)[:limit]
    if not files:
        raise Stop(f"there are no files below {title}", USAGE)
    screen = open_screen(json_wanted)
    folder = Path(tempfile.mkdtemp(prefix="dray-demo-"))
    crew = Crew(folder, concurrency)
    run = Demo(files, folder, crew, screen, workers=workers, kill=not no_kill)
    try:
        with interruptible():
            inside, ledger = run.play(title, root)
    except KeyboardInterrupt as stop:
        raise Stop(
            f"stopped when {run.done:,} of {len(files):,} tasks were done",
            stop.code if isinstance(stop, Terminated) else INTERRUPTED,
        ) from None
    finally:
        with undisturbed():
            screen.end()
            crew.stop()
            app.close()
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)
    if json_wanted:
        show_json(as_json(title, inside, ledger))
    else:
        show(screen, inside, ledger)
    if keep:
        click.echo(f"\nKept: {folder} ({', '.join(sorted(os.listdir(folder)))})", err=json_wanted)
    ctx.exit(OK if ledger.done == ledger.sent else FAILURE)


class Demo:
    """One run: send, watch, collect."""

    def __init__(
        self, files: Sequence[Path], folder: Path, crew: Crew, screen: Screen, *, workers: int, kill: bool
    ) -> None:
        self._files = files
        self._folder = folder
        self._crew = crew
        self._screen = screen
        self._workers = workers
        self._kill_wanted = kill
        self._kill: Kill | None = None
        self._ledger = Ledger(folder / "ledger.txt")

    @property
    def done(self) -> int:
        """How many tasks have ended."""
        return len(self._ledger.ended)

    def play(self, title: str, root: Path) -> tuple[Contents, Account]:
        """Run it all; return what is in the files, and what became of the tasks."""
        screen, total = self._screen, len(self._files)
        configure(self._folder)
        screen.line(click.style(f"dray demo: {cut(title, 44)}, one task for each file", bold=True))
        screen.line()
        screen.say("queue", "an SQLite file in a temporary folder; no server")
        start = time.time()
        ledger = os.fsencode(self._ledger.path)
        results = analyse.delay_many((number, os.fsencode(path), ledger) for number, path in enumerate(self._files))
        sending = time.time() - start
        screen.say("sent", f"{total:,} tasks in {sending:.2f} s")
        began = time.time()
        pids = [self._crew.start() for _ in range(self._workers)]
        screen.say("worker", f"process {', '.join(map(str, pids))}")
        screen.say("lease", f"{LEASE:.0f} s: what a dead worker held comes back that soon (default: 30 s)")
        screen.begin(total)
        self._watch(began)
        screen.end()
        found, failed = self._collect(dict(enumerate(results)))
        self._crew.stop()
        self._ledger.read()
        sums = account(
            self._ledger,
            sent=total,
            done=len(found),
            failed=failed,
            sending=sending,
            began=began,
            kill=self._kill,
        )
        return contents(found, self._files, root), sums

    def _watch(self, began: float) -> None:
        """Follow the ledger until every task has ended and nothing is left in the queue, or nothing moves any more."""
        total, news = len(self._files), time.monotonic()
        while (quiet := time.monotonic() - news) < STALL:
            if self._ledger.read():
                news = time.monotonic()
            self._screen.moved(self.done, self.done / (time.time() - began))
            for pid in self._crew.fallen():
                self._replace(pid, "killed")
            if self.done == total and self._kill is None:
                return
            # What a killed worker had done but not acknowledged is run once more, and belongs to the account. A task
            # that failed never ends in the ledger.
            if (self.done == total or quiet > QUIET) and not self._left():
                return
            if self._kill_wanted and self._kill is None and self.done >= total * KILL_AT:
                self._kill_one()
            time.sleep(LOOK)

    def _kill_one(self) -> None:
        done = self.done
        pid = self._crew.kill_one()
        at = time.time()
        self._ledger.read()
        held = self._ledger.held_by(pid)
        replacement = self._replace(pid, "kill -9")
        self._kill = Kill(at=at, done=done, replacement=replacement, held=held)

    def _replace(self, pid: int, what: str) -> int:
        held = len(self._ledger.held_by(pid))
        half_done = f"{held} task{'s' * (held != 1)} half done" if held else "between two tasks"
        self._screen.say(what, f"process {pid}, {half_done}", "red")
        replacement = self._crew.start()
        self._screen.say("worker", f"process {replacement} takes over", "green")
        return replacement

    def _left(self) -> int:
        """Return how many tasks wait or are in a worker's hands."""
        queue = app.conf.task_default_queue
        sizes = app.broker.sizes([queue]).get(queue, {})
        return sum(number for state, number in sizes.items() if state != "dead")

    def _collect(self, results: Mapping[int, AsyncResult[Facts]]) -> tuple[dict[int, Facts], int]:
        """Return the results by number, and how many tasks have failed. What has neither result nor error is lost."""
        found: dict[int, Facts] = {}
        failed = 0
        for number, result in results.items():
            try:
                # The ledger is a moment ahead: the task itself writes it, the worker then stores the result.
                value = result.get(RESULT if number in self._ledger.ended else 0.0, propagate=False)
            except (ResultTimeout, UnknownResult):
                continue
            if isinstance(value, Facts):
                found[number] = value
            else:
                failed += 1
        return found, failed


def find_files(root: Path) -> list[Path]:
    """Return the regular files below `root`, in order. Links are not followed; what cannot be listed is passed over."""
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT and not name.startswith("."))
        found += [path for name in sorted(names) if _is_regular(path := Path(folder, name))]
    return found


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:  # gone meanwhile
        return False


def configure(folder: Path) -> None:
    """Write the dray.toml of the demo into `folder`, where its workers find it, and take it for this process too.

    Nothing else is asked: the user's own settings are about the user's own queues.
    """
    settings = {
        "broker_url": f"sqlite:///{quote(folder.as_posix())}/queue.db",
        "worker_lease": LEASE,
        "plugins": [],
    }
    # What JSON writes for texts, numbers and lists is TOML too.
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    (folder / "dray.toml").write_text(text, encoding="utf-8")
    app.conf = Settings.load(environ={}, cwd=folder)


def _refuse_others(session: Session | None) -> None:
    if session is not None and (session.url is not None or session.place is not None):
        raise Stop("the demo brings its own app and its own queue; leave out -A and --url", USAGE)


class Terminated(KeyboardInterrupt):
    """A signal other than Ctrl-C asked to end; `code` is what to exit with."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated(number)


@contextmanager
def interruptible() -> Iterator[None]:
    """Have SIGTERM and a closed terminal end the block like Ctrl-C does, so that workers and files are cleared away."""
    with _handled(_terminate, "SIGTERM", "SIGHUP"):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let no further signal keep the block from clearing away. It takes a few seconds at most."""
    with _handled(signal.SIG_IGN, "SIGINT", "SIGTERM", "SIGHUP"):
        yield


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], Any] | signal.Handlers, *names: str) -> Iterator[None]:
    # Not every system has all of them.
    before = {number: signal.signal(number, handler) for name in names if (number := getattr(signal, name, None))}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
