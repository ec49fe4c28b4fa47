"""`dray worker` in this process, and what output looks like."""

from __future__ import annotations

import io
import json
import logging
import sys
from contextlib import redirect_stdout

import click
import pytest
from click.testing import CliRunner

from dray import Dray
from dray.cli import cli, logs
from dray.cli.durations import age, short
from dray.cli.tables import printable, show_table

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
    assert [line["action"] for line in lines] == ["starting", "ready", "began", "failed", "stopped"]
    failed = lines[3]
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


def test_an_unknown_pool_is_told_from_those_there_are(run: CommandLine) -> None:
    assert "Installed: loop, threads" in run("-A", "shop", "worker", "-P", "gevent").error(code=2)


@pytest.mark.parametrize("args", [["-E"], ["-O", "fair"], ["--autoscale=10,3"], ["--detach"], ["--without-gossip"]])
def test_options_of_celery_are_answered(run: CommandLine, args: list[str]) -> None:
    option = args[0].partition("=")[0]
    assert run("-A", "shop", "worker", *args).usage_error().startswith(f"dray has no {option}: ")


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
