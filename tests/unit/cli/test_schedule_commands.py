"""`dray schedule` and `dray scheduler`: schedules listed, changed and run by hand; and what keeps a scheduler away."""

from __future__ import annotations

import pytest

from dray import Dray

from .conftest import CommandLine

PLANNED = """
from dray import Dray, crontab

app = Dray("planned", set_as_current=False)

@app.task(schedule="0 3 * * *")
def clean(what: str = "all") -> None: ...

@app.task
def login(user: str, password: str = "") -> None: ...

app.conf.beat_schedule = {"hourly": {"task": "planned.clean", "schedule": crontab(minute=0)}}
"""


@pytest.fixture
def planned(run: CommandLine) -> CommandLine:
    run.write("planned.py", PLANNED)
    return run


def test_schedules_are_listed_with_what_is_next(planned: CommandLine) -> None:
    shown = planned("-A", "planned", "schedule", "list").output()
    assert [line.split()[:2] for line in shown.splitlines()] == [
        ["NAME", "TASK"],
        ["hourly", "planned.clean"],
        ["planned.clean", "planned.clean"],
    ]
    first, second = planned("schedule", "list", "-A", "planned", "--json").data()["schedules"]
    assert (first["schedule"], first["origin"], first["last"]) == ("0 * * * * (UTC)", "code", None)
    assert second["next"].endswith("T03:00:00+00:00")


def test_a_schedule_is_added_changed_disabled_and_removed(planned: CommandLine) -> None:
    app = ("-A", "planned", "schedule")
    words = ("-a", '["tmp"]', "--missed", "all", "--jitter", "5")
    assert planned(*app, "add", "n", "planned.clean", "15m", *words).output().startswith("n: added; every 15m; next 2")
    planned(*app, "change", "n", "--schedule", "0 8 * * mon-fri", "--timezone", "Europe/Berlin").output()
    shown = planned(*app, "show", "n").output()
    assert "0 8 * * 1-5 (Europe/Berlin)" in shown and "planned.clean('tmp')" in shown and "store" in shown
    assert planned(*app, "show", "n", "--json").data()["missed"] == "all"
    assert planned(*app, "disable", "n").output() == "n: disabled\n"
    assert "disabled" in planned(*app, "list").output()
    assert planned(*app, "enable", "n").output().startswith("n: enabled")
    assert planned(*app, "remove", "n").output() == "n: removed\n"
    assert "did you mean" not in planned(*app, "show", "n").error(2)


def test_one_is_run_by_hand_and_its_history_says_so(planned: CommandLine) -> None:
    assert planned("-A", "planned", "schedule", "history", "hourly").output() == "No ticks yet.\n"
    id = planned("-A", "planned", "schedule", "run", "hourly").output().strip()
    assert id in planned("-A", "planned", "queues", "--peek", "default").output()
    assert id in planned("-A", "planned", "schedule", "history", "hourly").output()
    (tick,) = planned("-A", "planned", "schedule", "history", "hourly", "--json").data()["ticks"]
    assert (tick["what"], tick["id"]) == ("by hand", id)


def test_an_app_without_schedules_says_so(run: CommandLine, shop: Dray) -> None:
    assert run("-A", "shop", "schedule", "list").output() == "No schedules.\n"


def test_mistakes_are_told_in_one_line(planned: CommandLine) -> None:
    app = ("-A", "planned", "schedule")
    assert "names the task 'planned.cleen'" in planned(*app, "add", "n", "planned.cleen", "5m").error(2)
    assert "minute takes 0 to 59" in planned(*app, "add", "n", "planned.clean", "61 * * * *").error(2)
    assert "there is a schedule 'hourly' already" in planned(*app, "add", "hourly", "planned.clean", "5m").error(2)
    assert "disable() it" in planned(*app, "remove", "hourly").error(2)
    assert "say what to change" in planned(*app, "change", "hourly").usage_error()
    assert "DRAY_APP" in planned("schedule", "list").error(2)


def test_check_says_whether_a_scheduler_would_start(planned: CommandLine) -> None:
    told = planned("-A", "planned", "scheduler", "--check").output()
    assert told.splitlines() == [
        "ok: app 'planned' with 2 schedules of its own",
        "  hourly: planned.clean, 0 * * * * (UTC)",
        "  planned.clean: planned.clean, 0 3 * * * (UTC)",
    ]
    planned.write("wrong.py", PLANNED.replace('"task": "planned.clean"', '"task": "planned.cleen"'))
    told = planned("-A", "wrong", "beat", "--check").error(2)
    assert "the schedule 'hourly' names the task 'planned.cleen'" in told


def test_without_a_store_a_scheduler_says_which_setting_gives_it_one(
    planned: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRAY_STORE_URL", "disabled")
    assert "set store_url (DRAY_STORE_URL)" in planned("-A", "planned", "scheduler").error(1)


@pytest.mark.parametrize("option", ["-s", "-S"])
def test_options_of_celerys_beat_are_answered(planned: CommandLine, option: str) -> None:
    told = planned("-A", "planned", "beat", option, "somewhere").usage_error()
    assert "leave it out" in told
