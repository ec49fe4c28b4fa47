"""`dray worker` in this process, and what output looks like."""

from __future__ import annotations

import io
import json
import logging
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dray import Dray
from dray.cli import cli, logs
from dray.cli.durations import age, short
from dray.cli.option_values import size
from dray.cli.tables import printable, show_table
from dray.garbage import OURS

from .conftest import CommandLine

# Worker


def test_a_burst_runs_what_is_due_and_ends_with_0(run: CommandLine, shop: Dray) -> None:
    sent = [shop.tasks["shop.add"].delay(n, n) for n in range(3)]
    result = run("-A", "shop", "worker", "--burst", "-l", "info")
    assert result.exit_code == 0
    assert [one.get(timeout=0) for one in sent] == [0, 2, 4]
    assert result.stderr.count(" succeeded in ") == 3 and result.stderr.count(" began") == 3


def test_the_banner_says_who_works_on_what(run: CommandLine) -> None:
    banner = run("-A", "shop", "worker", "--burst", "-c", "3", "-n", "w1@%h").stderr
    lines = [line.strip() for line in banner.splitlines()]
    assert lines[1].startswith("dray 0.1.0  w1@")
    assert "app      shop (shop)" in lines
    assert "queues   default > mail" in lines
    assert "pool     threads: 3 at once; async: 100 at once" in lines
    assert "shop.fetch  async" in lines and "shop.login  -> mail" in lines


def test_the_banner_lists_some_tasks_and_counts_the_rest(run: CommandLine) -> None:
    tasks = "\n".join(f"@app.task\ndef t{n}(): ..." for n in range(20))
    run.write("many.py", f"from dray import Dray\napp = Dray('many')\n{tasks}")
    assert "and 8 more" in run("-A", "many", "worker", "--burst").stderr


def test_json_log_lines_parse_and_there_is_no_banner(run: CommandLine, shop: Dray) -> None:
    sent = shop.tasks["shop.boom"].delay()
    result = run("-A", "shop", "worker", "--burst", "--json")
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    actions = [line["action"] for line in lines]
    # A task may begin before the worker has said that it is ready.
    assert [action for action in actions if action != "ready"] == ["starting", "began", "failed", "stopped"]
    assert actions.index("starting") < actions.index("ready") < actions.index("stopped")
    failed = lines[actions.index("failed")]
    assert (failed["task_id"], failed["level"], failed["logger"]) == (sent.id, "error", "dray.task")
    assert "ValueError" in failed["exception"] and failed["time"].endswith("Z")


def test_queues_are_chosen_and_left_out(run: CommandLine) -> None:
    assert "queues   mail > default" in run("-A", "shop", "worker", "--burst", "-Q", "mail,default").stderr
    assert "queues   default\n" in run("-A", "shop", "worker", "--burst", "-X", "mail").stderr
    message = run("-A", "shop", "worker", "--burst", "-X", "mail,default").error(code=2)
    assert message == "-X leaves no queue to take from; without it: default, mail"


def test_more_modules_are_included(run: CommandLine) -> None:
    run.write("more.py", "from shop import app\n@app.task\ndef extra(): ...")
    assert "more.extra" in run("-A", "shop", "worker", "--burst", "-I", "more").stderr
    run.write("bad.py", "1 / 0")
    message = run("-A", "shop", "worker", "--burst", "-I", "bad").error(code=2)
    assert message.endswith("fails at bad.py:1: ZeroDivisionError: division by zero")


@pytest.mark.parametrize(("own", "threshold", "frozen"), [("", OURS[0], True), ("gc.set_threshold(5000)", 5000, False)])
def test_the_garbage_collector_leaves_alone_what_stays(
    run: CommandLine, own: str, threshold: int, frozen: bool
) -> None:
    run.write(
        "thrifty.py",
        "import gc, json\nfrom pathlib import Path\nfrom dray import Dray\nfrom dray.testing.faults import wait_until\n"
        f"app = Dray('thrifty')\n{own}\n"
        "@app.task\n"
        "def look():\n"
        "    beats = Path('beats')\n"
        "    wait_until(lambda: beats.exists() and json.loads(beats.read_text())['state'] == 'running')\n"
        "    Path('seen').write_text(f'{gc.get_threshold()[0]} {gc.get_freeze_count() > 10_000}')\n",
    )
    run("-A", "thrifty", "call", "thrifty.look").output()
    run("-A", "thrifty", "worker", "--burst", "--heartbeat-file", "beats").output()
    assert Path("seen").read_text() == f"{threshold} {frozen}"


def test_an_unknown_pool_is_told_from_those_there_are(run: CommandLine) -> None:
    said = run("-A", "shop", "worker", "-P", "forests").error(code=2)
    assert said.startswith("no pool called 'forests' is installed") and "threads" in said


@pytest.mark.parametrize(("celery", "here"), [("prefork", "processes"), ("eventlet", "gevent, or threads")])
def test_pools_of_celery_are_answered(run: CommandLine, celery: str, here: str) -> None:
    assert run("-A", "shop", "worker", "-P", celery).usage_error().endswith(f"there is no pool '{celery}': say {here}")


@pytest.mark.parametrize(
    "args",
    [["-O", "fair"], ["-s", "x"], ["--purge"], ["--statedb=x"], ["--without-gossip"], ["--heartbeat-interval", "3"]],
)
def test_options_of_celery_are_answered(run: CommandLine, args: list[str]) -> None:
    option = args[0].partition("=")[0]
    assert run("-A", "shop", "worker", *args).usage_error().startswith(f"dray has no {option}: ")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--autoscale", "3,10"], "worker_autoscale is MAX,MIN, the larger number first; got 3,10"),
        (["--autoscale", "many"], "--autoscale: worker_autoscale = 'many'"),
        (["--time-limit", "0"], "--time-limit: task_time_limit = 0.0"),
        (["--start-method", "magic"], "--start-method: worker_start_method = 'magic'"),
        (["--max-tasks-per-child", "0"], "--max-tasks-per-child: worker_max_tasks_per_child = '0'"),
        (["--prefetch-multiplier=-1"], "--prefetch-multiplier: worker_prefetch_multiplier = '-1'"),
        (["--max-memory-per-child", "1K"], "--max-memory-per-child: worker_max_memory_per_child = 1024"),
        (["--watch", ".", "--burst"], "--watch and --burst do not go together"),
        (["--watch", "nowhere"], "--watch nowhere: there is no such file or directory"),
        (["--uid", "no-such-user"], "--uid no-such-user: there is no such user"),
        (["--gid", "no-such-group"], "--gid no-such-group: there is no such group"),
        (["--uid", "4194000"], "--uid 4194000: this user has no name and no group: give one with --gid"),
        (["--logfile", "nowhere/w.log"], "the logfile"),
        (["--pidfile", "%n.pid"], "'%n.pid': %n stands for the worker's name"),
        (["-n", "%q"], "'%q': %q stands for nothing here"),
    ],
)
def test_what_can_never_work_is_one_sentence(run: CommandLine, args: list[str], said: str) -> None:
    burst = [] if "--watch" in args else ["--burst"]
    found = run("-A", "shop", "worker", *burst, *args)
    assert found.exit_code == 2
    assert found.stderr.startswith(f"Error: {said}") and len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--time-limit=-1"], "'-1' is below zero"),
        (["--soft-time-limit", "soon"], "'soon' is not a duration; write seconds, or 30s, 5m, 1h30m"),
        (["--max-memory-per-child", "much"], "'much' is not a size; write bytes, or 200M, 1.5G"),
        (["--umask", "9"], "'9' is not a mode; write it in octal, like 027"),
        (["--max-tasks", "0"], "0 is not in the range x>=1."),
    ],
)
def test_what_an_option_cannot_read_is_said(run: CommandLine, args: list[str], said: str) -> None:
    assert run("-A", "shop", "worker", *args).usage_error().endswith(said)


@pytest.mark.parametrize(
    ("text", "bytes"), [("1048576", 2**20), ("200M", 200 * 2**20), ("1.5GB", 3 * 2**29), ("64 KiB", 2**16)]
)
def test_sizes_are_read(text: str, bytes: int) -> None:
    assert size(click.Context(cli), cli.params[0], text) == bytes


def test_options_set_settings_and_are_their_origin(run: CommandLine, shop: Dray) -> None:
    run(
        "-A", "shop", "worker", "--burst", "--time-limit", "5m", "--soft-time-limit", "90", "--prefetch-multiplier", "2"
    )
    assert (shop.conf.task_time_limit, shop.conf.task_soft_time_limit) == (300, 90)
    assert shop.conf.origin("worker_prefetch_multiplier") == "--prefetch-multiplier"


def test_a_check_imports_everything_and_connects_to_nothing(run: CommandLine, workdir: Path) -> None:
    said = run("-A", "shop", "worker", "--check", "-c", "2").output()
    assert said == "ok: app 'shop' with 4 tasks, queues default, mail, pool threads\n"
    assert not (workdir / "tasks.db").exists()
    run.write("bad.py", "1 / 0")
    assert "ZeroDivisionError" in run("-A", "shop", "worker", "--check", "-I", "bad").error(code=2)


def test_an_app_that_has_set_up_logging_keeps_it(run: CommandLine) -> None:
    banner = run("-A", "shop", "worker", "--burst").stderr
    # pytest has set up logging already, as an app would have.
    assert "as the app has set it up; -l or --json take over" in banner


# Small things


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 ms"), (0.0123, "12.3 ms"), (1, "1s"), (2.5, "2.5s"), (75, "1m 15s"), (3600, "1h"), (90000, "1d 1h")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert short(seconds) == text


def test_an_age_is_never_negative_and_empty_for_nothing() -> None:
    assert (age(None), age(4e9)) == ("", "now")


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[2Jb\r\n é") == r"a\x1b[2Jb\r\n é"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """What stands for a terminal with colours."""
    made = Terminal()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return made


def test_a_terminal_gets_tables_by_rich_where_nothing_is_taken_for_markup(terminal: Terminal) -> None:
    with redirect_stdout(terminal):
        show_table(["id", "reason"], [["[bold]x[/]", "gone"]])
    assert "[bold]x[/]" in terminal.getvalue()
    assert "─" in terminal.getvalue()


def test_a_terminal_without_rich_gets_plain_tables(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.box", None)
    with redirect_stdout(terminal):
        show_table(["id", "count"], [["x", "3"], ["longer", "12"]], right=["count"])
    plain = click.unstyle(terminal.getvalue())
    assert plain == "ID      COUNT\nx           3\nlonger     12\n"


def test_the_log_of_a_terminal_has_signs_and_colours(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    with logs.as_log("info", as_json=False):
        logging.getLogger("dray.task").info("shop.add[1] succeeded in 0.1s", extra={"action": "succeeded"})
        logging.getLogger("dray.worker").warning("lost amqp://me:s3cret@host")
        logging.getLogger("shop").info("hello")
    done, lost, hello = terminal.getvalue().splitlines()
    assert "✓" in done and click.style("succeeded", fg="green") in done
    assert "warning" in lost and "me:***@host" in lost
    assert click.unstyle(hello).endswith("shop: hello")


def test_no_color_is_honoured(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    assert logs.colourful(terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not logs.colourful(terminal)
    page = CliRunner().invoke(cli, ["--help"], color=True, prog_name="dray").output
    assert "\x1b[" not in page


def test_the_time_of_a_line_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, data = logs._Lines(None), logs._Json()
    monkeypatch.setattr(plain, "converter", time.gmtime)
    for created, shown in (
        (0.999, "00:00:00.999"),
        (1.002, "00:00:01.002"),
        (1.5, "00:00:01.500"),
        (0.25, "00:00:00.250"),
    ):
        record = logging.makeLogRecord({"created": created, "msecs": round(created % 1 * 1000), "msg": "x"})
        assert plain.format(record).startswith(f"1970-01-01 {shown} ")
        assert json.loads(data.format(record))["time"] == f"1970-01-01T{shown}Z"


def test_what_is_printed_comes_behind_what_was_logged(tmp_path: Path) -> None:
    with logs.as_log("info", as_json=False, file=str(tmp_path / "w.log"), gather=True):
        for number in range(3):
            logging.getLogger("shop").info("line %d", number)
        logs.written_so_far()
        assert len((tmp_path / "w.log").read_text().splitlines()) == 3


def test_a_worker_can_be_asked_to_keep_its_events(run: CommandLine) -> None:
    for option in ("-E", "--events", "--task-events"):
        assert run("-A", "shop", "worker", "--check", option).output().startswith("ok: app 'shop'")
