"""Where settings come from, and which place wins."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import pytest

from dray import Queue, SettingError, Settings
from dray.configuration import read_object
from dray.settings import Row, describe


def load(cwd: Path, overrides: dict[str, Any] | None = None, /, **environ: str) -> Settings:
    return Settings.load(overrides or {}, environ, cwd)


# Which place wins


def test_code_wins_over_the_environment_over_the_file_over_the_default(tmp_path: Path) -> None:
    (tmp_path / "dray.toml").write_text('timezone = "Europe/Rome"\nworker_lease = 11\nworker_concurrency = 3\n')
    conf = load(tmp_path, {"timezone": "Europe/Athens"}, DRAY_TIMEZONE="Europe/Paris", DRAY_WORKER_LEASE="12")
    assert (conf.timezone, conf.origin("timezone")) == ("Europe/Athens", "code")
    assert (conf.worker_lease, conf.origin("worker_lease")) == (12.0, "DRAY_WORKER_LEASE (environment)")
    assert (conf.worker_concurrency, conf.origin("worker_concurrency")) == (3, "dray.toml")
    assert (conf.task_serializer, conf.origin("task_serializer")) == ("json", "default")


# The environment


def something_else(row: Row) -> str:
    """Return a text that sets `row` to something other than its default."""
    texts = {
        "true or false": "no" if row.default == "True" else "yes",
        "URL": "memory://",
        "URL, or several": "memory://;sqlite:///a.db",
        "'strict' or 'weighted'": "weighted",
        "'ordered' or 'shuffle'": "shuffle",
        "'direct' or 'fanout' or 'topic'": "topic",
        "task_annotations": '{"*": {"queue": "slow"}}',
        "task_queue_limits": '{"mail": {"rate_limit": "10/s"}}',
        "task_publish_retry_policy": '{"max_retries": 7}',
        "plugin_choices": '{"brokers.nats": "acme-nats/nats"}',
        "timezone": "Asia/Tokyo",
        "beat_schedule": '{"nightly": {"task": "shop.clean", "schedule": "@daily"}}',
        "MAX,MIN": "10,3",
        "'fork' or 'forkserver' or 'spawn'": "spawn",
        "worker_max_memory_per_child": "500000000",
    }
    table = '{"a": 5}' if "whole number" in row.type else '{"a": "b"}'
    fitting = table if row.type.startswith("table") else "7"
    return texts.get(row.name, texts.get(row.type.removesuffix(" or None"), fitting))


@pytest.mark.parametrize("row", describe(), ids=lambda row: row.name)
def test_every_setting_has_its_variable(row: Row, tmp_path: Path) -> None:
    conf = load(tmp_path, **{row.environment: something_else(row)})
    assert conf.origin(row.name) == f"{row.environment} (environment)"
    assert conf.shown()[row.name] != Settings().shown()[row.name]


def test_an_empty_variable_is_as_good_as_none_unless_it_is_a_list(tmp_path: Path) -> None:
    conf = load(tmp_path, DRAY_BROKER_URL="", DRAY_WORKER_LEASE=" ", DRAY_PLUGINS="", DRAY_IMPORTS="")
    assert conf.broker_url is None and conf.origin("broker_url") == "default"
    assert conf.worker_lease == 30.0
    assert conf.plugins == [] and conf.origin("plugins") == "DRAY_PLUGINS (environment)"


def test_plugins_are_disabled_under_either_spelling(tmp_path: Path) -> None:
    assert load(tmp_path, DRAY_DISABLE_PLUGINS="a,b").disabled_plugins == ["a", "b"]
    assert load(tmp_path, DRAY_DISABLE_PLUGINS="a", DRAY_DISABLED_PLUGINS="c").disabled_plugins == ["c"]


def test_a_url_may_be_kept_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("amqp://u:p@mq\n")
    conf = load(tmp_path, DRAY_BROKER_URL_FILE=str(tmp_path / "secret"))
    assert conf.broker_url == "amqp://u:p@mq"
    assert conf.origin("broker_url") == "DRAY_BROKER_URL_FILE (environment)"
    with pytest.raises(SettingError, match="DRAY_BROKER_URL_FILE .*cannot read"):
        load(tmp_path, DRAY_BROKER_URL_FILE=str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("DRAY_BROKER", "did you mean DRAY_BROKER_URL?"),
        ("DRAY_TASK_SERIALISER", "did you mean DRAY_TASK_SERIALIZER?"),
        ("DRAY_CONCURRENCY", "did you mean DRAY_WORKER_CONCURRENCY?"),
        ("DRAY_WORKER_LOST_WAIT", "is noticed at once"),
    ],
)
def test_a_misspelt_variable_is_an_error_with_the_right_spelling(variable: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError) as caught:
        load(tmp_path, **{variable: "1"})
    assert str(caught.value).startswith(f"{variable} (environment): ")
    assert said in str(caught.value)


def test_a_bad_value_names_its_variable(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^DRAY_WORKER_CONCURRENCY \(environment\): worker_concurrency = 'many'"):
        load(tmp_path, DRAY_WORKER_CONCURRENCY="many")


def test_variables_of_others_are_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load(
            tmp_path,
            DRAY_APP="shop",
            DRAY_PORT="tcp://10.0.0.1:80",
            DRAY_PORT_80_TCP="tcp://10.0.0.1:80",
            DRAY_WORKER_SERVICE_HOST="10.0.0.1",
            DRAY_WORKER_SERVICE_PORT="80",
            HOME="/",
            DRAYMAN="x",
        )
        assert caplog.text == ""
        load(tmp_path, DRAY_XYZZY="1")
    assert "DRAY_XYZZY in the environment is not a setting of dray" in caplog.text


# The file


def test_the_nearest_file_upwards_wins(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "dray.toml").write_text("worker_lease = 1\n")
    assert load(below).worker_lease == 1.0
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.dray]\nworker-lease = 2\n")
    conf = load(below)
    assert (conf.worker_lease, conf.origin("worker_lease")) == (2.0, "pyproject.toml [tool.dray]")
    (tmp_path / "a" / "dray.toml").write_text("worker_lease = 3\n")
    assert load(below).worker_lease == 3.0
    (below / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    assert load(below).worker_lease == 3.0


def test_tables_and_lists_are_written_as_toml_has_them(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        """
        [tool.dray]
        broker_url = "sqlite:///tasks.db"
        result_expires = "1h"
        accept_content = ["json"]
        [tool.dray.task_routes]
        "mail.*" = "mail"
        "report.*" = { queue = "slow", priority = 1 }
        """
    )
    conf = load(tmp_path)
    assert (conf.broker_url, conf.result_expires, conf.accept_content) == ("sqlite:///tasks.db", 3600.0, ["json"])
    assert conf.task_routes == {"mail.*": "mail", "report.*": {"queue": "slow", "priority": 1}}


def test_queues_and_routers_are_written_in_a_file_or_the_environment(tmp_path: Path) -> None:
    (tmp_path / "dray.toml").write_text(
        """
        task_routes = ["shop.routing:route", { "mail.*" = "mail" }]
        [[task_queues]]
        name = "video"
        exchange = "media"
        type = "topic"
        routing_key = "media.#"
        [[task_queues]]
        name = "full"
        arguments = { x-max-length = 10 }
        """
    )
    conf = load(tmp_path)
    assert conf.task_queues == [
        Queue(name="video", exchange="media", type="topic", routing_key="media.#"),
        Queue(name="full", arguments={"x-max-length": 10}),
    ]
    assert conf.task_routes == ["shop.routing:route", {"mail.*": "mail"}]
    conf = load(tmp_path, DRAY_TASK_QUEUES="a,b", DRAY_TASK_ROUTES="shop.routing:route")
    assert conf.task_queues == [Queue(name="a"), Queue(name="b")]
    assert conf.task_routes == ["shop.routing:route"]
    conf = load(tmp_path, DRAY_TASK_QUEUES="", DRAY_TASK_ROUTES="")
    assert (conf.task_queues, conf.task_routes) == ([], {})


def test_dray_config_names_the_file_or_turns_it_off(tmp_path: Path) -> None:
    (tmp_path / "dray.toml").write_text("worker_lease = 1\n")
    (tmp_path / "prod.toml").write_text("worker_lease = 2\n")
    conf = load(tmp_path, DRAY_CONFIG="prod.toml")
    assert (conf.worker_lease, conf.origin("worker_lease")) == (2.0, "prod.toml")
    assert load(tmp_path, DRAY_CONFIG="").worker_lease == 30.0
    with pytest.raises(SettingError, match="DRAY_CONFIG .*there is no file"):
        load(tmp_path, DRAY_CONFIG="nowhere.toml")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "dray.toml",
            "worker_leese = 1",
            r"^dray.toml: there is no setting 'worker_leese'; did you mean 'worker_lease'",
        ),
        ("dray.toml", "worker_lease = 'x'", r"^dray.toml: worker_lease = 'x'"),
        ("dray.toml", "worker_lease = ]", "dray.toml' cannot be read: .*line 1"),
        ("pyproject.toml", "[tool]\ndray = 5", "must be a table"),
        ("pyproject.toml", "[tool.dray]\ntask_protocol = 2", r"^pyproject.toml \[tool.dray\]: .*leave it out"),
    ],
)
def test_a_mistake_in_the_file_names_the_file(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SettingError, match=said):
        load(tmp_path)


# Objects of Python


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    made = types.ModuleType("shop_config")
    code = (
        "import os, logging\nfrom pathlib import Path\n"
        "task_serializer = 'msgpack'\nRESULT_EXPIRES = 60\n_hidden = 1\nHERE = 'x'\n"
        "logger = logging.getLogger('x')\n"
        "def worker_hook(): ...\nclass TaskThing: ...\n"
    )
    exec(code, made.__dict__)
    sys.modules["shop_config"] = made
    yield made
    del sys.modules["shop_config"]


def test_a_module_gives_its_settings_and_nothing_else(module: types.ModuleType) -> None:
    expected = {"task_serializer": "msgpack", "result_expires": 60}
    assert read_object(module) == expected
    assert read_object("shop_config") == expected


def test_a_module_may_have_a_function_that_routes(module: types.ModuleType) -> None:
    exec("def task_routes(name, args, kwargs, options): ...", module.__dict__)
    assert read_object(module)["task_routes"] is module.__dict__["task_routes"]


class Config:
    timezone = "Europe/Athens"
    BROKER_URL = "memory://"
    debug = True

    def task_helper(self) -> None: ...


class Prefixed:
    CELERY_BROKER_URL = "memory://"
    celery_timezone = "UTC"
    CELERYBEAT = 1
    task_serializer = "ignored"


@dataclass
class Data:
    worker_lease: float = 5.0
    name: str = "x"

    @property
    def worker_name(self) -> str:
        return f"worker-{self.name}"


class Model(pydantic.BaseModel):
    broker_url: pydantic.SecretStr = pydantic.SecretStr("amqp://u:p@mq")
    result_backend: pydantic.RedisDsn = pydantic.RedisDsn("redis://h/0")
    app_title: str = "x"

    @property
    def worker_concurrency(self) -> int:
        return 3


def test_a_class_gives_its_attributes_in_either_case() -> None:
    assert read_object(Config) == {"timezone": "Europe/Athens", "broker_url": "memory://"}


def test_a_namespace_is_taken_off_and_everything_else_ignored() -> None:
    assert read_object(Prefixed, "CELERY") == {"broker_url": "memory://", "timezone": "UTC"}
    assert read_object({"DRAY_TIMEZONE": "UTC", "DEBUG": True}, namespace="DRAY") == {"timezone": "UTC"}


def test_a_dataclass_gives_its_fields_and_properties() -> None:
    assert read_object(Data()) == {"worker_lease": 5.0, "worker_name": "worker-x"}


def test_a_pydantic_model_gives_its_fields_and_properties() -> None:
    conf = Settings()
    conf.from_object(Model())
    assert conf.broker_url == "amqp://u:p@mq"
    assert conf.result_backend == "redis://h:6379/0"
    assert conf.worker_concurrency == 3


def test_an_attribute_of_a_module_is_named_after_a_colon_or_a_dot(module: types.ModuleType) -> None:
    module.__dict__["Prod"] = Config
    assert read_object("shop_config:Prod")["broker_url"] == "memory://"
    assert read_object("shop_config.Prod")["broker_url"] == "memory://"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("shop_confg", "there is no module 'shop_confg'"),
        ("shop_config:Nope", "'shop_config' has no 'Nope'"),
        ("shop_config.Nope", "'shop_config' has no 'Nope'"),
    ],
)
def test_a_path_that_leads_nowhere_says_where_it_ends(path: str, said: str, module: types.ModuleType) -> None:
    with pytest.raises(SettingError, match=said):
        read_object(path)


@pytest.mark.parametrize(
    ("source", "namespace", "said"),
    [
        ({"task_serialiser": "x"}, "", "did you mean 'task_serializer'"),
        ({"anything": "x"}, "", "'anything' is not a setting"),
        ({"DRAY_ANYTHING": "x"}, "DRAY", "'DRAY_ANYTHING' is not a setting"),
        (types.SimpleNamespace(task_qeues=[]), "", "'task_qeues' is not a setting; did you mean 'task_queues'"),
        (types.SimpleNamespace(worker_lost_wait=5), "", "is noticed at once"),
        (types.SimpleNamespace(CELERY_BROKER_URL="x"), "", "say namespace='CELERY'"),
        (types.SimpleNamespace(beat_scheduler="x"), "", "kept in the store"),
    ],
)
def test_names_that_were_meant_as_settings_and_are_none_are_refused(source: Any, namespace: str, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        read_object(source, namespace)


def test_all_unknown_names_of_an_object_are_told_at_once() -> None:
    with pytest.raises(SettingError) as caught:
        read_object({"task_protocol": 2, "worker_state_db": "x"})
    assert len(str(caught.value).splitlines()) == 2
