"""What a task's two lines are to whoever listens to the log: records like any other."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from dray import Dray


@pytest.fixture
def app() -> Iterator[Dray]:
    with Dray("logged", broker="memory://", set_as_current=False) as app:

        @app.task(name="add")
        def add(x: int, y: int) -> int:
            return x + y

        @app.task(name="boom")
        def boom() -> None:
            raise ValueError("no such size")

        yield app


def run(app: Dray, task: str, *args: int) -> str:
    sent = app.tasks[task].delay(*args)
    app.worker(pool="solo").run_until_idle()
    return sent.id


def test_a_task_says_when_it_begins_and_ends_and_its_facts_stand_beside_the_text(
    app: Dray, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "dray.task"):
        id = run(app, "add", 1, 2)
    began, ended = (record for record in caplog.records if record.name == "dray.task")
    facts = {"task": "add", "task_id": id, "queue": "default"}
    assert began.getMessage() == f"add[{id}] began"
    assert ended.getMessage().startswith(f"add[{id}] succeeded in 0.")
    assert vars(began).items() >= {**facts, "action": "began", "levelno": logging.INFO}.items()
    assert vars(ended).items() >= {**facts, "action": "succeeded", "levelname": "INFO"}.items()
    assert 0 <= vars(ended)["runtime"] < 60
    assert (began.module, ended.filename, began.thread) == ("telling", "telling.py", ended.thread)


def test_a_failure_is_an_error_with_the_exception(app: Dray, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "dray.task"):
        id = run(app, "boom")
    (failed,) = (record for record in caplog.records if record.name == "dray.task")
    assert failed.getMessage().startswith(f"boom[{id}] failed in ") and failed.levelno == logging.ERROR
    assert failed.exc_info is not None and isinstance(failed.exc_info[1], ValueError)


def test_filters_and_record_factories_of_users_see_them(
    app: Dray, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = logging.getLogRecordFactory()

    class Marked(logging.LogRecord):
        mark = "of the user's"

    monkeypatch.setattr(logging, "_logRecordFactory", plain)
    logging.setLogRecordFactory(Marked)
    logger = logging.getLogger("dray.task")
    keep = lambda record: vars(record).get("action") != "began"  # noqa: E731
    logger.addFilter(keep)
    try:
        with caplog.at_level(logging.INFO, "dray.task"):
            run(app, "add", 1, 2)
    finally:
        logger.removeFilter(keep)
    (ended,) = (record for record in caplog.records if record.name == "dray.task")
    assert isinstance(ended, Marked) and vars(ended)["action"] == "succeeded"
