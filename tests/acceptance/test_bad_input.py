"""Bad input on real servers, seen by whoever runs `dray`: the right exit code, one line that helps, in bounded time."""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from dray import Dray, Envelope, Url
from dray.cli.exits import FAILURE, UNREACHABLE, USAGE

#: Longest time (seconds) that a command may take to give up, on a busy machine.
BOUND = 40.0
#: What stands for a wrong password; it must not be seen anywhere.
WRONG = "wr0ng-s3cret"

SHOP = """
from dray import Dray
app = Dray("shop")
@app.task
def add(x: int, y: int) -> int:
    return x + y
"""

COMMANDS = {
    "doctor": ("-A", "shop", "doctor"),
    "worker": ("-A", "shop", "worker", "--burst", "-l", "warning"),
    "call": ("-A", "shop", "call", "shop.add", "--args", "[1, 2]"),
}
#: A call whose arguments are 2 MB, and what looks at the dead letters.
OTHERS = {
    "large call": ("-A", "shop", "call", "shop.add", "--args", "@large.json"),
    "dead": ("dead", "list", "--json"),
}


class Ended(NamedTuple):
    """One `dray` command that has ended."""

    command: str
    code: int
    stdout: str
    stderr: str
    seconds: float


class Shop:
    """A folder with an app in it, in which `dray` commands run as processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "shop.py").write_text(SHOP)
        (folder / "large.json").write_text(json.dumps(["x" * 2_000_000, 1]))
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith(("DRAY_", "AWS"))}

    def run(self, url: str, *commands: str, **settings: str) -> list[Ended]:
        """Run commands, known by their names above, side by side."""
        environment = {
            **self._environment,
            "DRAY_CONFIG": "",
            "DRAY_BROKER_URL": url,
            "DRAY_RESULT_BACKEND": "disabled",
            **settings,
        }
        began = time.monotonic()
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "dray", *{**COMMANDS, **OTHERS}[name]],
                cwd=self.folder,
                env=environment,
                text=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for name in commands
        ]
        ended = []
        for name, process in zip(commands, running, strict=True):
            try:
                out, err = process.communicate(timeout=2 * BOUND)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
            ended.append(Ended(name, process.returncode, out, err, time.monotonic() - began))
        return ended

    def refused(self, url: str, code: int, *said: str, **settings: str) -> None:
        """Assert that every command refuses this URL: with `code`, and with all that is `said` on one line."""
        for one in self.run(url, *COMMANDS, **settings):
            shown = f"{one.command} ended with {one.code} after {one.seconds:.1f} s\n{one.stdout}{one.stderr}"
            assert one.code == code, shown
            assert one.seconds < BOUND, shown
            assert WRONG not in one.stdout + one.stderr, shown
            assert "Traceback" not in one.stderr, shown
            lines = [line for line in one.stdout.splitlines() if line.startswith("FAIL  broker")]
            if one.command != "doctor" or not lines:
                lines = one.stderr.splitlines()
                assert [line.partition(" ")[0] for line in lines] == ["Error:"], shown
            for words in said:
                assert words in lines[0], f"{words!r} is missing:\n{shown}"

    def passes(self, url: str, *commands: str, **settings: str) -> None:
        """Assert that the commands do their work: what is refused elsewhere is refused for the reason given."""
        for one in self.run(url, *commands, **settings):
            assert one.code == 0, f"{one.command}\n{one.stdout}{one.stderr}"


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def changed(url: str, **parts: Any) -> str:
    """Return a URL with another scheme, username, password, path, hosts, or with more options (`options=`)."""
    parsed = Url.parse(url)
    options = {**parsed.options, **parts.pop("options", {})}
    words = {name: getattr(parsed, name) for name in ("scheme", "username", "password", "hosts", "path")}
    return Url(**{**words, **parts}, options=options).reveal()


def apart() -> str:
    """Return a prefix of this test's own."""
    return f"bad{secrets.token_hex(4)}"


@contextmanager
def silent_host() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield listening.getsockname()[1]


def closed_port() -> int:
    """Return a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


# What is the same for every server: who does not answer, and what a URL may not say


AWAY = {
    "redis": "redis://:{password}@127.0.0.1:{port}/0?connect_timeout=1&socket_timeout=1",
    "rabbitmq": "amqp://me:{password}@127.0.0.1:{port}/?connect_timeout=1",
    "postgresql": "postgresql://me:{password}@127.0.0.1:{port}/postgres?connect_timeout=2",
    "sqs": "sqs://me:{password}@?region=us-east-1&endpoint=http://127.0.0.1:{port}&connect_timeout=1",
}


@pytest.mark.parametrize("service", AWAY)
def test_a_closed_port_is_out_of_reach(shop: Shop, service: str) -> None:
    port = closed_port()
    shop.refused(AWAY[service].format(port=port, password=WRONG), UNREACHABLE, f"127.0.0.1:{port}")


@pytest.mark.parametrize("service", AWAY)
def test_a_host_that_never_answers_is_given_up(shop: Shop, service: str) -> None:
    with silent_host() as port:
        shop.refused(AWAY[service].format(port=port, password=WRONG), UNREACHABLE, f"127.0.0.1:{port}")


@pytest.mark.parametrize("service", AWAY)
def test_an_unknown_option_names_the_nearest_right_one(shop: Shop, service: str) -> None:
    url = AWAY[service].format(port=1, password=WRONG)
    separator = "&" if "?" in url else "?"
    wrong = f"{url}{separator}connect_timout=1"
    shop.refused(wrong, USAGE, "has no option 'connect_timout'; did you mean 'connect_timeout'?")


@pytest.mark.parametrize("service", AWAY)
def test_a_host_without_a_name_is_out_of_reach(shop: Shop, service: str) -> None:
    url = AWAY[service].replace("127.0.0.1", "no-such-host.invalid").format(port=5, password=WRONG)
    shop.refused(url, UNREACHABLE, "no-such-host.invalid")


# Redis


def test_redis_wrong_password(shop: Shop, redis_tls_server: Any) -> None:
    shop.refused(changed(redis_tls_server.url, password=WRONG), FAILURE, "password")
    shop.refused(changed(redis_tls_server.url, username=None, password=None), FAILURE, "password")


def test_redis_wrong_database(shop: Shop, redis_server: Any) -> None:
    shop.refused(changed(redis_server.url, path="/99"), FAILURE, "99")


def test_redis_missing_permission(shop: Shop, redis_tls_server: Any) -> None:
    shop.passes(changed(redis_tls_server.url, options={"prefix": f"{redis_tls_server.prefix}:{apart()}"}), *COMMANDS)
    shop.refused(changed(redis_tls_server.url, options={"prefix": "elsewhere"}), FAILURE, "elsewhere")


def test_redis_with_tls_where_there_is_none_and_without_where_there_is(
    shop: Shop, redis_server: Any, redis_tls_server: Any
) -> None:
    shop.refused(changed(redis_server.url, scheme="rediss"), FAILURE, "TLS")
    plain = changed(redis_tls_server.url, scheme="redis")
    bare = plain.partition("?")[0]
    shop.refused(bare, FAILURE, "TLS")
    untrusted = redis_tls_server.url.partition("?")[0]
    shop.refused(untrusted, FAILURE, "certificate")


def test_redis_full(shop: Shop, redis_server: Any) -> None:
    import redis

    url = changed(redis_server.url, options={"prefix": apart()})
    shop.passes(url, "call")
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("maxmemory", 1)
        try:
            (ended,) = shop.run(url, "call", DRAY_TASK_PUBLISH_RETRY="no")
        finally:
            client.config_set("maxmemory", 0)
    assert ended.code == UNREACHABLE, ended
    assert len(ended.stderr.splitlines()) == 1 and "memory" in ended.stderr


# PostgreSQL


def test_postgresql_wrong_password(shop: Shop, postgres_server: Any) -> None:
    shop.refused(changed(postgres_server.url, password=WRONG), FAILURE, "password")


def test_postgresql_wrong_database(shop: Shop, postgres_server: Any) -> None:
    shop.refused(changed(postgres_server.url, path="/nowhere"), FAILURE, "nowhere")


def test_postgresql_missing_permission(shop: Shop, postgres_server: Any) -> None:
    import psycopg

    role, password, schema = apart(), secrets.token_hex(8), apart()
    limited = changed(postgres_server.url, username=role, password=password, options={"schema": schema})
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"create role {role} login password '{password}'")
        try:
            shop.refused(limited, FAILURE, "right", "`dray setup`", schema)
            shop.passes(changed(postgres_server.url, options={"schema": schema}), "call")
            shop.refused(limited, FAILURE, "right", "`dray setup`", schema)
        finally:
            connection.execute(f"drop schema if exists {schema} cascade")
            connection.execute(f"drop role {role}")


def test_postgresql_with_tls_where_there_is_none(shop: Shop, postgres_server: Any) -> None:
    shop.refused(changed(postgres_server.url, options={"sslmode": "require"}), FAILURE, "SSL")


# RabbitMQ


class Management:
    """RabbitMQ's management API."""

    def __init__(self, url: str) -> None:
        parsed = urlsplit(url)
        self._base = f"{parsed.scheme}://{parsed.hostname}:{parsed.port}"
        self._credentials = base64.b64encode(f"{parsed.username}:{parsed.password}".encode()).decode()

    def put(self, path: str, **what: Any) -> None:
        request = urllib.request.Request(f"{self._base}/api/{path}", json.dumps(what).encode(), method="PUT")
        request.add_header("Authorization", f"Basic {self._credentials}")
        request.add_header("Content-Type", "application/json")
        urllib.request.urlopen(request, timeout=10).close()


@pytest.fixture
def vhost(rabbitmq_server: Any) -> str:
    """A vhost of its own, where guest may do everything."""
    name = apart()
    management = Management(rabbitmq_server.management_url)
    management.put(f"vhosts/{name}")
    management.put(f"permissions/{name}/guest", configure=".*", write=".*", read=".*")
    return name


def test_rabbitmq_wrong_password(shop: Shop, rabbitmq_server: Any) -> None:
    shop.refused(changed(rabbitmq_server.url, password=WRONG), FAILURE, "password")


def test_rabbitmq_wrong_vhost(shop: Shop, rabbitmq_server: Any) -> None:
    shop.refused(changed(rabbitmq_server.url, path="/nowhere"), FAILURE, "nowhere")


def test_rabbitmq_missing_permission(shop: Shop, rabbitmq_server: Any, vhost: str) -> None:
    management = Management(rabbitmq_server.management_url)
    name, password = apart(), secrets.token_hex(8)
    management.put(f"users/{name}", password=password, tags="")
    limited = changed(rabbitmq_server.url, username=name, password=password, path=f"/{vhost}")
    shop.refused(limited, FAILURE, vhost)
    management.put(f"permissions/{vhost}/{name}", configure="^$", write=".*", read=".*")
    (call,) = shop.run(limited, "call")
    assert call.code == FAILURE and len(call.stderr.splitlines()) == 1, call
    assert "default" in call.stderr and ("permission" in call.stderr or "may not" in call.stderr), call


def test_rabbitmq_with_tls_where_there_is_none(shop: Shop, rabbitmq_server: Any) -> None:
    shop.refused(changed(rabbitmq_server.url, scheme="amqps"), FAILURE, "TLS")


@contextmanager
def channel_to(url: str) -> Iterator[Any]:
    import pika

    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        connection.close()


def test_rabbitmq_a_queue_with_other_arguments(shop: Shop, rabbitmq_server: Any, vhost: str) -> None:
    url = changed(rabbitmq_server.url, path=f"/{vhost}")
    with channel_to(url) as channel:
        channel.queue_declare("default", durable=True, arguments={"x-max-priority": 3, "x-message-ttl": 60000})
    for ended in shop.run(url, "worker", "call"):
        assert ended.code == FAILURE, ended
        line = ended.stderr.splitlines()[-1]
        assert "'default' exists with x-message-ttl = 60000" in line and "arguments" in line, ended


def test_rabbitmq_a_full_queue(shop: Shop, rabbitmq_server: Any, vhost: str) -> None:
    url = changed(rabbitmq_server.url, path=f"/{vhost}")
    management = Management(rabbitmq_server.management_url)
    management.put(
        f"policies/{vhost}/short",
        pattern="^default$",
        definition={"max-length": 1, "overflow": "reject-publish"},
        **{"apply-to": "queues"},
    )
    shop.passes(url, "call")
    # A quorum queue takes a few more before it notices.
    for _ in range(20):
        (ended,) = shop.run(url, "call", DRAY_TASK_PUBLISH_RETRY="no")
        if ended.code:
            break
    assert ended.code == FAILURE, ended
    (line,) = ended.stderr.splitlines()
    assert "not published" in line and ("full" in line or "rejected" in line or "refused" in line), ended


# SQS


def test_sqs_wrong_endpoint(shop: Shop, moto_server: Any) -> None:
    shop.refused(moto_server.url.replace("endpoint=http:", "endpoint=https:"), FAILURE, "TLS")


def test_sqs_queues_that_are_not_there(shop: Shop, moto_server: Any) -> None:
    url = changed(moto_server.url, options={"create": "no", "prefix": apart()})
    (ended,) = shop.run(url, "call")
    assert ended.code == FAILURE and len(ended.stderr.splitlines()) == 1, ended
    assert "default" in ended.stderr and "create" in ended.stderr, ended


def assert_too_large(ended: Ended) -> None:
    assert ended.code == FAILURE, ended
    (line,) = ended.stderr.splitlines()
    assert "2,000," in line and "bytes are more than" in line, ended
    assert "send a reference (a path, a key, an id)" in line, ended


def test_a_message_over_the_limit_of_sqs_is_refused_when_it_is_sent(shop: Shop, moto_server: Any) -> None:
    (ended,) = shop.run(changed(moto_server.url, options={"prefix": apart()}), "large call")
    assert_too_large(ended)


@pytest.mark.parametrize("service", ["redis_server", "postgres_server", "rabbitmq_server"])
def test_a_message_over_our_own_limit_is_refused_everywhere(
    shop: Shop, request: pytest.FixtureRequest, service: str
) -> None:
    url = request.getfixturevalue(service).url
    (ended,) = shop.run(url, "large call", DRAY_TASK_MAX_MESSAGE_BYTES="1000000")
    assert_too_large(ended)


# Messages of others in our queues


#: What Celery writes for `shop.add(1, 2)`, as it stands on AMQP: the name of the task is in the headers there.
ARGUMENTS = b'[[1, 2], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
HEADERS = {"lang": "py", "task": "shop.add", "id": "from-celery", "root_id": "from-celery", "retries": 0}
#: The same as kombu writes it for brokers that know nothing but a body.
IN_ONE_PIECE = json.dumps(
    {
        "body": base64.b64encode(ARGUMENTS).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": HEADERS,
        "properties": {"body_encoding": "base64", "delivery_tag": "x", "delivery_info": {"routing_key": "default"}},
    }
).encode()


def assert_buried_as_celerys(shop: Shop, url: str) -> None:
    """Run a worker until nothing is left, and look at the one dead letter."""
    for one in shop.run(url, "worker"):
        assert one.code == 0, one
    (ended,) = shop.run(url, "dead")
    (letter,) = json.loads(ended.stdout)["dead"]
    assert (letter["queue"], letter["task"]) == ("default", None)
    assert "this is a Celery message" in letter["reason"]


@pytest.mark.parametrize("service", ["redis_server", "postgres_server"])
def test_a_celery_message_is_buried_as_that(shop: Shop, request: pytest.FixtureRequest, service: str) -> None:
    option = "prefix" if service == "redis_server" else "schema"
    url = changed(request.getfixturevalue(service).url, options={option: apart()})
    with Dray("other", broker=url, result_backend="disabled", plugins=[], set_as_current=False) as app:
        app.broker.publish([Envelope(id="from-celery", queue="default", body=IN_ONE_PIECE)])
    assert_buried_as_celerys(shop, url)


def test_a_celery_message_in_a_queue_of_rabbitmq_is_buried_as_that(
    shop: Shop, rabbitmq_server: Any, vhost: str
) -> None:
    import pika

    url = changed(rabbitmq_server.url, path=f"/{vhost}")
    shop.passes(url, "worker")
    with channel_to(url) as channel:
        properties = pika.BasicProperties(
            headers=HEADERS, content_type="application/json", content_encoding="utf-8", delivery_mode=2
        )
        channel.basic_publish("", "default", ARGUMENTS, properties, mandatory=True)
    assert_buried_as_celerys(shop, url)


def test_a_celery_message_in_a_queue_of_sqs_is_buried_as_that(shop: Shop, moto_server: Any) -> None:
    import boto3

    prefix = apart()
    url = changed(moto_server.url, options={"prefix": prefix})
    shop.passes(url, "call", "worker")
    shop.passes(url, "worker")
    client = boto3.client(
        "sqs",
        region_name="us-east-1",
        endpoint_url=moto_server.endpoint,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    (queue,) = (one for one in client.list_queues(QueueNamePrefix=prefix)["QueueUrls"] if one.endswith("default"))
    client.send_message(QueueUrl=queue, MessageBody=base64.b64encode(IN_ONE_PIECE).decode())
    client.close()
    assert_buried_as_celerys(shop, url)
