"""Where tests get their servers from: a URL, a program, a container; and what is said when there is none."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ..servers.choosing import Given, NoServer, Service, choose, docker_is_there
from ..servers.hosts import Docker, ThisMachine
from ..servers.rabbitmq import RabbitMqServer
from ..servers.redis import RedisServer
from ..servers.server import given_or_started
from ..servers.sqs import LiveSqs

SERVICE = Service("rabbitmq", ("rabbitmq-server", "epmd"), "rabbitmq:4.1-management", "apt-get install rabbitmq-server")
URL = "amqp://guest:guest@elsewhere:5672/"


def found(name: str) -> str:
    return f"/usr/bin/{name}"


def nothing(name: str) -> None:
    return None


def yes() -> bool:
    return True


def no() -> bool:
    return False


def never() -> bool:
    raise AssertionError("Docker was asked")


def test_a_given_url_comes_before_all() -> None:
    assert choose(SERVICE, {"DRAY_TEST_RABBITMQ_URL": URL}, found, never) == Given(URL)


def test_a_given_url_is_no_use_to_a_test_that_kills() -> None:
    assert isinstance(choose(SERVICE, {"DRAY_TEST_RABBITMQ_URL": URL}, found, never, own=True), ThisMachine)


@pytest.mark.parametrize("mode", [{}, {"DRAY_TEST_SERVICES": "local"}, {"DRAY_TEST_SERVICES": "require"}])
def test_an_installed_program_comes_before_docker(mode: dict[str, str]) -> None:
    chosen = choose(SERVICE, mode, found, never)
    assert isinstance(chosen, ThisMachine)
    assert chosen.path("epmd") == "/usr/bin/epmd"


def test_half_of_the_programs_are_not_enough() -> None:
    chosen = choose(SERVICE, {}, {"epmd": "/usr/bin/epmd"}.get, yes)
    assert isinstance(chosen, Docker)


@pytest.mark.parametrize("mode", [{}, {"DRAY_TEST_SERVICES": "auto"}, {"DRAY_TEST_SERVICES": "require"}])
def test_docker_comes_next_where_it_answers(mode: dict[str, str]) -> None:
    chosen = choose(SERVICE, mode, nothing, yes)
    assert isinstance(chosen, Docker)
    assert chosen.image == "rabbitmq:4.1-management"


def test_docker_can_be_preferred_and_forbidden() -> None:
    assert isinstance(choose(SERVICE, {"DRAY_TEST_SERVICES": "docker"}, found, yes), Docker)
    with pytest.raises(NoServer, match="rabbitmq-server and epmd not found"):
        choose(SERVICE, {"DRAY_TEST_SERVICES": "local"}, nothing, never)


def test_none_is_said_with_how_to_get_one() -> None:
    with pytest.raises(NoServer) as caught:
        choose(SERVICE, {}, nothing, no)
    assert not caught.value.required
    assert str(caught.value) == (
        "no rabbitmq server: rabbitmq-server and epmd not found, and Docker does not answer. "
        "Get one: apt-get install rabbitmq-server, or set DRAY_TEST_RABBITMQ_URL to one that runs."
    )


def test_require_makes_none_a_failure() -> None:
    with pytest.raises(NoServer) as caught:
        choose(SERVICE, {"DRAY_TEST_SERVICES": "require"}, nothing, no)
    assert caught.value.required


def test_a_mode_that_does_not_exist_is_a_failure() -> None:
    with pytest.raises(NoServer, match="must be one of auto, local, docker, require") as caught:
        choose(SERVICE, {"DRAY_TEST_SERVICES": "requier"}, found, never)
    assert caught.value.required


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with no program and no Docker."""
    monkeypatch.setattr("tests.servers.choosing.find_program", nothing)
    monkeypatch.setattr("tests.servers.choosing.docker_is_there", no)
    monkeypatch.delenv("DRAY_TEST_RABBITMQ_URL", raising=False)
    return monkeypatch


def test_a_test_without_its_server_is_skipped(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("DRAY_TEST_SERVICES", "auto")
    with pytest.raises(pytest.skip.Exception, match="no rabbitmq server"):
        given_or_started(RabbitMqServer)


def test_a_test_without_its_server_fails_where_it_is_required(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("DRAY_TEST_SERVICES", "require")
    with pytest.raises(pytest.fail.Exception, match="no rabbitmq server"):
        given_or_started(RabbitMqServer)


def test_a_given_server_is_used_and_never_killed(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("DRAY_TEST_RABBITMQ_URL", URL)
    server = given_or_started(RabbitMqServer)
    assert server.url == URL
    assert server.management_url == "http://guest:guest@elsewhere:15672"
    with pytest.raises(pytest.skip.Exception, match="not ours to stop"):
        server.kill()
    server.close()


def test_an_account_of_sqs_is_never_required(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("DRAY_TEST_SERVICES", "require")
    bare.delenv("DRAY_TEST_SQS_URL", raising=False)
    with pytest.raises(pytest.skip.Exception, match="DRAY_TEST_SQS_URL"):
        LiveSqs.given_or_skipped()


def test_docker_on_another_machine_is_not_asked(tmp_path: Path) -> None:
    assert not docker_is_there({"DOCKER_HOST": "tcp://elsewhere:2375"})
    assert not docker_is_there({"DOCKER_HOST": f"unix://{tmp_path}/docker.sock"})


class StubContainer:
    """What testcontainers' DockerContainer is asked for."""

    made: list[StubContainer] = []

    def __init__(self, image: str) -> None:
        self.image = image
        self.asked: dict[str, Any] = {}
        self.calls: list[str] = []
        StubContainer.made.append(self)

    def with_command(self, command: list[str]) -> StubContainer:
        self.asked["command"] = command
        return self

    def with_envs(self, **variables: str) -> StubContainer:
        self.asked["environment"] = variables
        return self

    def with_volume_mapping(self, host: Path, container: str, mode: str) -> StubContainer:
        self.asked["volume"] = (str(host), container, mode)
        return self

    def with_kwargs(self, **options: Any) -> StubContainer:
        self.asked |= options
        return self

    def start(self) -> None:
        self.calls.append("create")

    def get_wrapped_container(self) -> Any:
        return SimpleNamespace(
            status="running",
            reload=lambda: None,
            kill=lambda signal: self.calls.append(f"kill {signal}"),
            start=lambda: self.calls.append("start"),
            stop=lambda timeout: self.calls.append("stop"),
        )

    def get_logs(self) -> tuple[bytes, bytes]:
        return b"", b"it did not work\n"


@pytest.fixture
def docker(bare: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with nothing but Docker, which is a stub: no container is ever made."""
    StubContainer.made = []
    module = ModuleType("testcontainers.core.container")
    module.DockerContainer = StubContainer  # type: ignore[attr-defined]
    bare.setitem(sys.modules, "testcontainers.core.container", module)
    bare.setattr("tests.servers.choosing.docker_is_there", yes)
    bare.setattr("tests.servers.redis.replies", lambda *asked: True)
    bare.setenv("DRAY_TEST_SERVICES", "auto")
    bare.delenv("DRAY_TEST_REDIS_URL", raising=False)
    return bare


def test_testcontainers_is_asked_for_the_image_on_the_network_and_in_the_folder_of_this_machine(
    docker: pytest.MonkeyPatch,
) -> None:
    server = given_or_started(RedisServer)
    (made,) = StubContainer.made
    assert made.image == RedisServer.service.image
    assert made.asked["command"][:3] == ["redis-server", "--port", f"{server.port}"]
    assert made.asked["network_mode"] == "host"
    assert made.asked["volume"] == (f"{server.folder}", f"{server.folder}", "rw")
    server.kill()
    server.start()
    server.close()
    assert made.calls == ["create", "kill SIGKILL", "start", "kill SIGKILL"]
    assert not server.folder.exists()


def test_a_container_that_does_not_answer_is_ended_and_its_log_shown(docker: pytest.MonkeyPatch) -> None:
    docker.setattr("tests.servers.redis.replies", lambda *asked: False)
    docker.setattr("tests.servers.hosts.PATIENCE", 0.0)
    with pytest.raises(Exception, match="did not answer within 0 s(?s:.*)it did not work"):
        given_or_started(RedisServer)
    (made,) = StubContainer.made
    assert made.calls == ["create", "kill SIGKILL"]
