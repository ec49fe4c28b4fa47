"""The table of settings: defaults, conversion, validation, origins, and what is never shown."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as trying
from hypothesis import strategies as st

from dray import DrayError, SettingError, Settings, Url
from dray.celery_settings import instead
from dray.setting_values import read_seconds
from dray.settings import Row, describe, read_setting, settings_table

ROWS = {row.name: row for row in describe()}


def the_error(**change: Any) -> str:
    with pytest.raises(SettingError) as caught:
        Settings().update(change)
    return str(caught.value)


# The table


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_every_setting_is_fully_described(row: Row) -> None:
    assert row.help[0].isupper() or row.help[0] in "'`"
    assert row.help.endswith(".")
    assert row.type and row.group and row.default
    assert row.environment == f"DRAY_{row.name.upper()}"
    assert row.unit in ("", "seconds", "bytes")


@pytest.mark.parametrize("name", ROWS)
def test_every_default_is_a_value_that_its_own_setting_takes(name: str) -> None:
    default = getattr(Settings(), name)
    assert read_setting(name, default) == default


def test_the_defaults_are_the_documented_ones() -> None:
    conf = Settings()
    assert (conf.task_serializer, conf.accept_content) == ("json", ["json", "msgpack"])
    assert (conf.result_expires, conf.worker_lease, conf.worker_shutdown_timeout) == (86400.0, 30.0, 25.0)
    assert (conf.task_acks_late, conf.task_max_deliveries, conf.timezone) == (True, 3, "UTC")
    assert conf.task_max_message_bytes == 16 * 1024 * 1024
    assert conf.task_publish_retry_policy == {
        "max_retries": 3,
        "interval_start": 0.0,
        "interval_step": 0.2,
        "interval_max": 1.0,
    }


def test_two_settings_objects_share_no_lists_or_tables() -> None:
    one, other = Settings(), Settings()
    one.accept_content.append("yaml")
    one.task_routes["a"] = "b"
    one.task_publish_retry_policy["max_retries"] = 9
    assert other.accept_content == ["json", "msgpack"]
    assert other.task_routes == {}
    assert other.task_publish_retry_policy["max_retries"] == 3
    assert Settings().accept_content == ["json", "msgpack"]


def test_no_setting_of_dray_is_also_listed_as_missing_from_it() -> None:
    assert [name for name in settings_table() if instead(name)] == []


# Durations


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (5, 5.0),
        (2.5, 2.5),
        (timedelta(minutes=2), 120.0),
        ("90", 90.0),
        ("5m", 300.0),
        ("30s", 30.0),
        ("1h", 3600.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("250ms", 0.25),
        ("1D", 86400.0),
        ("2w", 1209600.0),
        (" 1.5h ", 5400.0),
    ],
)
def test_a_duration_is_written_in_many_ways(written: Any, seconds: float) -> None:
    conf = Settings()
    conf.update(task_default_retry_delay=written)
    assert conf.task_default_retry_delay == pytest.approx(seconds)


@pytest.mark.parametrize("written", ["5x", "m5", "5m!", "soon", True, float("nan"), float("inf"), "inf", -1, [5]])
def test_what_is_no_duration_is_refused(written: Any) -> None:
    assert "task_default_retry_delay = " in the_error(task_default_retry_delay=written)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 999), st.sampled_from([("w", 604800), ("d", 86400), ("h", 3600), ("m", 60), ("s", 1)])
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["", " "]),
)
def test_the_parts_of_a_duration_add_up(parts: list[tuple[int, tuple[str, int]]], between: str) -> None:
    text = between.join(f"{number}{unit}" for number, (unit, _) in parts)
    assert read_seconds(text) == sum(number * seconds for number, (_, seconds) in parts)


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        seconds = read_seconds(text)
    except ValueError:
        return
    assert seconds == seconds and abs(seconds) < 1e13


@pytest.mark.parametrize("never", [None, 0, "none", "0s", timedelta(0)])
def test_results_are_kept_for_ever_with_none_and_with_nought(never: Any) -> None:
    conf = Settings()
    conf.update(result_expires=never)
    assert conf.result_expires is None


# Other types


@pytest.mark.parametrize("word", ["true", "True", "yes", "on", "1", 1, True])
def test_truth_has_many_words(word: Any) -> None:
    conf = Settings()
    conf.update(task_always_eager=word)
    assert conf.task_always_eager is True


@pytest.mark.parametrize("word", ["false", "NO", "off", "0", 0, False])
def test_so_has_its_opposite(word: Any) -> None:
    conf = Settings()
    conf.update(task_acks_late=word)
    assert conf.task_acks_late is False


@pytest.mark.parametrize(
    "written", ["json, yaml", ["json", "yaml"], ("json", "yaml"), {"yaml", "json"}, '["json","yaml"]']
)
def test_a_list_is_a_sequence_or_set_or_text_with_commas(written: Any) -> None:
    conf = Settings()
    conf.update(accept_content=written)
    assert conf.accept_content == ["json", "yaml"]


def test_a_table_may_be_written_in_json() -> None:
    conf = Settings()
    conf.update(worker_queue_weights='{"high": 3}', task_routes='{"mail.*": {"queue": "mail", "priority": 9}}')
    assert conf.worker_queue_weights == {"high": 3}
    assert conf.task_routes == {"mail.*": {"queue": "mail", "priority": 9}}


def test_a_partial_retry_policy_keeps_the_rest_of_the_default() -> None:
    conf = Settings()
    conf.update(task_publish_retry_policy={"max_retries": None})
    assert conf.task_publish_retry_policy["max_retries"] is None
    assert conf.task_publish_retry_policy["interval_max"] == 1.0


class Secret:
    """As settings libraries wrap passwords."""

    def get_secret_value(self) -> str:
        return "amqp://guest:guest@mq"


class Dsn:
    """As settings libraries wrap URLs."""

    def __str__(self) -> str:
        return "amqp://mq/"


@pytest.mark.parametrize(
    ("written", "url"),
    [
        (Secret(), "amqp://guest:guest@mq"),
        (Dsn(), "amqp://mq/"),
        (Url.parse("amqp://u:p@mq"), "amqp://u:p@mq"),
        (" memory:// ", "memory://"),
        ("", None),
        ("none", None),
    ],
)
def test_a_url_may_come_wrapped(written: Any, url: str | None) -> None:
    conf = Settings()
    conf.update(broker_url=written)
    assert conf.broker_url == url


def test_results_are_turned_off_with_the_word_disabled() -> None:
    conf = Settings()
    conf.result_backend = "disabled"
    assert conf.result_backend == "disabled"
    assert "is not a URL" in the_error(broker_url="disabled")


# Refusals


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task_serialiser": "json"}, "there is no setting 'task_serialiser'; did you mean 'task_serializer'?"),
        ({"CELERY_TASK_SERIALIZER": "json"}, "did you mean 'task_serializer'?"),
        ({"task_protocol": 2}, "messages say themselves which format they have"),
        ({"worker_pool_start_method": "spawn"}, "that is `worker_start_method`"),
        ({"worker_max_memory_per_child": 200_000}, "whole number >= 16,777,216"),
        ({"task_time_limit": -1}, "It takes: seconds > 0"),
        ({"worker_autoscale": "10"}, "It takes: MAX,MIN"),
        ({"broker_transport_options": {}}, "scheme://host/...?option=value"),
        ({"result_backend_transport_options": {}}, "scheme://host/...?option=value"),
        ({"event_serializer": "json"}, "with `worker_send_task_events` they are kept in the store"),
        ({"result_ttl": 5}, "that is `result_expires`"),
        ({"xyzzy": 5}, "there is no setting 'xyzzy'. `dray settings` lists them all."),
        (
            {"task_default_priority": 12},
            "task_default_priority = 12: that does not fit. It takes: whole number from 0 to 9.",
        ),
        ({"worker_concurrency": 0}, "It takes: whole number >= 1 or None."),
        ({"worker_queue_order": "random"}, "It takes: 'strict' or 'weighted'."),
        ({"task_acks_late": "perhaps"}, "It takes: true or false."),
        ({"task_serializer": None}, "None is no value for it"),
        ({"accept_content": 5}, "It takes: list of names."),
        ({"task_default_queue": "two words"}, "It takes: queue name without whitespace."),
        ({"task_default_queue": ""}, "It takes: queue name without whitespace."),
        ({"worker_lease": 0}, "It takes: seconds > 0."),
        ({"task_routes": {"a": {"queu": "x"}}}, "it has no 'queu'; did you mean 'queue'?"),
        ({"task_routes": {"a": {"rate_limit": "10/s"}}}, "is that of its queue, and it names none"),
        ({"task_routes": {"a": {"queue": "q", "rate_limit": "10/x"}}}, "a rate is a number and a unit"),
        ({"task_default_rate_limit": "10/x"}, "a rate is a number and a unit"),
        ({"task_queue_limits": {"q": {"rate": "10/s"}}}, "it has no 'rate'"),
        ({"task_routes": {"a": {"priority": 10}}}, "is no route: that is a queue name"),
        ({"task_routes": "{nonsense"}, "as text it is written in JSON"),
        ({"task_publish_retry_policy": {"max_retires": 1}}, "it has no 'max_retires'; did you mean 'max_retries'?"),
        ({"worker_queue_weights": {"a": 0}}, "whole number >= 1"),
        ({"timezone": "Europe/Athen"}, "did you mean 'Europe/Athens'?"),
        ({"timezone": "../../etc/passwd"}, "no such time zone"),
        ({"plugin_choices": {"redis": "acme/redis"}}, "kind.name -> dist/name"),
        ({"broker_url": "localhost"}, "is not a URL"),
    ],
)
def test_a_refusal_says_what_was_asked_and_what_would_work(change: dict[str, Any], said: str) -> None:
    assert said in the_error(**change)


def test_all_mistakes_of_an_update_are_told_at_once_and_nothing_is_changed() -> None:
    conf = Settings()
    with pytest.raises(SettingError) as caught:
        conf.update({"task_default_priority": 3, "worker_lease": "long"}, strit=True)
    assert len(str(caught.value).splitlines()) == 2
    assert conf.task_default_priority == 0
    assert conf.origin("task_default_priority") == "default"


def test_assigning_converts_and_validates() -> None:
    conf = Settings()
    conf.result_expires = timedelta(hours=1)  # type: ignore[assignment]
    assert conf.result_expires == 3600.0
    with pytest.raises(SettingError, match="task_serialiser"):
        conf.task_serialiser = "json"  # type: ignore[attr-defined]


def test_the_constructor_validates_too() -> None:
    assert Settings(worker_lease="1m").worker_lease == 60.0  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="worker_lease"):
        Settings(worker_lease=-1)


@pytest.mark.parametrize("name", ROWS)
@trying(max_examples=20)
@given(value=st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.integers()))
def test_any_value_is_taken_or_refused_by_a_setting_error(name: str, value: Any) -> None:
    conf = Settings()
    try:
        conf.update({name: value})
    except DrayError as error:
        assert type(error) is SettingError and name in str(error)
    else:
        assert read_setting(name, getattr(conf, name)) == getattr(conf, name)


# Origins, and what is shown


def test_a_setting_knows_where_its_value_comes_from() -> None:
    conf = Settings(strict=True)
    conf.update({"timezone": "Europe/Athens"}, origin="dray.toml")
    assert conf.origin("timezone") == "dray.toml"
    assert conf.origin("strict") == "code"
    assert conf.origin("plugins") == "default"
    conf.timezone = "UTC"
    assert conf.origin("timezone") == "code"
    with pytest.raises(SettingError, match="did you mean 'timezone'"):
        conf.origin("timezon")


def test_an_error_names_the_place_it_comes_from() -> None:
    with pytest.raises(SettingError, match=r"^DRAY_WORKER_LEASE \(environment\): worker_lease = 'x'"):
        Settings().update({"worker_lease": "x"}, origin="DRAY_WORKER_LEASE (environment)")


def test_passwords_are_masked_wherever_settings_are_shown() -> None:
    conf = Settings(broker_url="amqp://user:hunter2@mq", result_backend="redis://:hunter2@h/0")
    conf.task_annotations = {"*": {"headers": {"from": "amqp://user:hunter2@mq"}}}
    shown = [repr(conf), str(conf), *conf.shown().values(), repr(conf.__rich_repr__())]
    assert not any("hunter2" in text for text in shown)
    assert conf.shown()["broker_url"] == "'amqp://user:***@mq'"
    assert set(conf.shown()) == set(ROWS)


@pytest.mark.parametrize(
    "bad", ["amqp//user:hunter2@mq", "amqp://:hun/ter2@mq/0", "amqp://u:hunter2@mq:99999999", "user:hunter2@mq"]
)
def test_the_password_of_a_bad_url_is_not_repeated(bad: str) -> None:
    said = the_error(broker_url=bad)
    assert "broker_url" in said
    assert not re.search("hunter2|ter2", said)
