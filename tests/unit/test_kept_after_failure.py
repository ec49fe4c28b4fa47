"""Whether the message of a failed task is kept: `dead_letter`, `acks_on_failure` and the setting say the same thing."""

from __future__ import annotations

from typing import Any

import pytest

from dray import Dray, SettingError, Task, TaskOptionError
from dray.testing import Driver


def kept(app: Dray, worker: Driver, **options: Any) -> bool:
    """Tell whether the message of a task with these options is kept when it fails."""

    @app.task(name="boom", **options)
    def boom() -> None:
        raise ValueError("no")

    result = boom.delay()
    worker.run_until_idle()
    assert result.state == "FAILURE"
    return len(app.broker.dead("default", 10)) == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, False),
        ({"dead_letter": True}, True),
        ({"acks_on_failure": False}, True),
        ({"acks_on_failure": True}, False),
        ({"dead_letter": True, "acks_on_failure": False}, True),
        ({"acks_late": False}, False),
    ],
)
def test_a_task_says_whether_its_message_is_kept(
    dray_app: Dray, dray_worker: Driver, options: dict[str, Any], expected: bool
) -> None:
    assert kept(dray_app, dray_worker, **options) is expected


@pytest.mark.parametrize(
    ("options", "expected"), [({}, True), ({"acks_on_failure": True}, False), ({"dead_letter": False}, False)]
)
@pytest.mark.dray(task_acks_on_failure=False)
def test_the_setting_counts_where_the_task_says_nothing(
    dray_app: Dray, dray_worker: Driver, options: dict[str, Any], expected: bool
) -> None:
    assert kept(dray_app, dray_worker, **options) is expected


def test_celerys_name_of_the_setting_leads_to_it() -> None:
    with pytest.raises(SettingError, match="that is `task_acks_on_failure`; False keeps the message"):
        Dray(set_as_current=False).conf.update(task_acks_on_failure_or_timeout=False)


@pytest.mark.dray(task_annotations={"*": {"acks_on_failure": False}})
def test_an_annotation_stands_above_what_the_task_says_in_other_words(dray_app: Dray, dray_worker: Driver) -> None:
    assert kept(dray_app, dray_worker, dead_letter=False)


def test_a_base_class_may_say_it(dray_app: Dray, dray_worker: Driver) -> None:
    class Kept(Task[Any, Any]):
        acks_on_failure = False

    assert kept(dray_app, dray_worker, base=Kept)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"dead_letter": True, "acks_on_failure": True}, "dead_letter=True and acks_on_failure=True contradict"),
        ({"dead_letter": False, "acks_on_failure": False}, "contradict each other"),
        ({"dead_letter": True, "acks_late": False}, "acks_late=False its message is acked before it begins"),
        ({"acks_on_failure": False, "acks_late": False}, "acks_late=False its message is acked before it begins"),
        ({"acks_on_failure": "no"}, "acks_on_failure is true or false; got 'no'"),
    ],
)
def test_what_cannot_both_be_is_an_error_where_it_is_declared(
    dray_app: Dray, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(TaskOptionError, match=complaint):
        dray_app.task(name="boom", **options)(lambda: None)
