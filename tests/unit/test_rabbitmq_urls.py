"""What the amqp:// adapter decides without a server: URLs, arguments by version, delays as keys, errors in words."""

from __future__ import annotations

from typing import Any

import pytest
from pika import BasicProperties, exceptions

from dray import BrokerError, BrokerUnavailable, Envelope, Url, UrlError
from dray_brokers.rabbitmq import RabbitBroker
from dray_brokers.rabbitmq_advice import advice
from dray_brokers.rabbitmq_connection import RabbitOptions, parameters_of, vhost_of
from dray_brokers.rabbitmq_errors import translated
from dray_brokers.rabbitmq_frames import Arrival
from dray_brokers.rabbitmq_management import Management
from dray_brokers.rabbitmq_topology import LONGEST, STEPS, UNIT, Server, Topology
from dray_brokers.rabbitmq_wire import copied, deliveries, id_of, lost_deliveries, properties_of


def parameters(text: str) -> list[Any]:
    url = Url.parse(text)
    return parameters_of(url, RabbitOptions.of(url))


# URLs


@pytest.mark.parametrize(
    ("text", "vhost"),
    [
        ("amqp://h", "/"),
        ("amqp://h/", "/"),
        ("amqp://h/%2F", "/"),
        ("amqp://h/shop", "shop"),
        ("amqp://h/%2Fshop", "/shop"),
        ("amqp://h/a%20b", "a b"),
    ],
)
def test_the_path_is_the_virtual_host(text: str, vhost: str) -> None:
    assert vhost_of(Url.parse(text)) == vhost


def test_every_host_is_tried_in_order_with_its_own_port() -> None:
    hosts = [(each.host, each.port) for each in parameters("amqp://user:pw@h1:5673,h2,[::1]:5674/shop?heartbeat=30")]
    assert hosts == [("h1", 5673), ("h2", 5672), ("::1", 5674)]


def test_what_the_url_says_reaches_the_driver() -> None:
    (each,) = parameters("amqp://us%40er:p%2Fw@h/shop?heartbeat=30&connect_timeout=2.5")
    assert (each.credentials.username, each.credentials.password) == ("us@er", "p/w")
    assert (each.virtual_host, each.heartbeat, each.socket_timeout, each.stack_timeout) == ("shop", 30, 2.5, 2.5)
    assert each.ssl_options is None


def test_without_host_and_user_it_is_the_guest_of_this_machine() -> None:
    (each,) = parameters("amqp://")
    assert (each.host, each.port, each.credentials.username) == ("localhost", 5672, "guest")


def test_amqps_asks_for_a_certificate_of_that_host() -> None:
    (each,) = parameters("amqps://h/shop")
    assert (each.port, each.ssl_options.server_hostname) == (5671, "h")
    assert each.ssl_options.context.check_hostname
    (trusting,) = parameters("amqps://h/shop?verify=no")
    assert not trusting.ssl_options.context.check_hostname


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("amqp://h/?hartbeat=3", "no option 'hartbeat'; did you mean 'heartbeat'"),
        ("amqp://h/?heartbeat=-1", "heartbeat is a number of seconds from 0 to 65535"),
        ("amqp://h/?connect_timeout=0", "connect_timeout is a number"),
        ("amqp://h/?queue_type=lazy", "queue_type"),
        ("amqp://h/?ca_certs=ca.crt", "are for amqps://"),
        ("amqp://h/?management=host:15672", "management is a URL"),
        ("amqp://h/?max_message_bytes=1", "max_message_bytes is a number"),
        ("amqp://h/?prefix=" + "p" * 101, "prefix takes up to 100 bytes"),
    ],
)
def test_an_option_that_cannot_be_is_told_in_words(text: str, words: str) -> None:
    with pytest.raises(UrlError, match=words):
        RabbitBroker(Url.parse(text))


def test_files_for_tls_that_are_not_there_are_told_when_it_is_opened() -> None:
    broker = RabbitBroker(Url.parse("amqps://h/?ca_certs=/nowhere/ca.crt"))
    with pytest.raises(UrlError, match="the files for TLS cannot be used"):
        broker.open()


# Servers of other versions


def server(version: str, queue_type: str = "auto", clustered: bool = False) -> Server:
    options = RabbitOptions.of(Url.parse(f"amqp://h/?queue_type={queue_type}"))
    return Server.of({"version": version}, options, clustered)


@pytest.mark.parametrize(
    ("version", "clustered", "quorum"),
    [("3.10.8", False, False), ("3.13.7", True, True), ("4.0.2", False, True), ("4.3.0-rc.1", False, True)],
)
def test_queues_are_quorum_queues_where_these_are_the_better_choice(
    version: str, clustered: bool, quorum: bool
) -> None:
    assert server(version, clustered=clustered).quorum is quorum


@pytest.mark.parametrize(
    ("version", "kind", "arguments"),
    [
        ("3.10.8", "classic", {"x-queue-type": "classic"}),
        ("3.10.8", "quorum", {"x-queue-type": "quorum"}),
        ("4.1.0", "classic", {"x-queue-type": "classic"}),
        ("4.1.0", "quorum", {"x-queue-type": "quorum", "x-delivery-limit": -1}),
    ],
)
def test_queues_are_declared_as_the_version_allows(version: str, kind: str, arguments: dict[str, Any]) -> None:
    assert server(version, kind).queue_arguments(RabbitOptions()) == arguments


def test_the_time_for_a_task_is_only_said_where_it_is_understood() -> None:
    options = RabbitOptions(consumer_timeout=7200.0)
    assert "x-consumer-timeout" not in server("3.11.2").queue_arguments(options)
    assert server("3.12.0").queue_arguments(options)["x-consumer-timeout"] == 7_200_000


def test_a_version_that_cannot_be_read_is_an_old_one() -> None:
    assert server("unknown").quorum is False


@pytest.mark.parametrize(
    ("version", "kind", "words"),
    [
        ("3.10.8", "auto", "if this is a cluster, write ?queue_type=quorum"),
        ("4.0.0", "auto", "queues are quorum (RabbitMQ 4.0.0): RabbitMQ 4 and newer"),
        ("3.13.0", "classic", "queues are classic, as the URL says"),
        ("3.13.0", "auto", "raise it with ?consumer_timeout=SECONDS"),
    ],
)
def test_advice_explains_the_choice(version: str, kind: str, words: str) -> None:
    url = Url.parse(f"amqp://guest@example.org/?queue_type={kind}")
    options = RabbitOptions.of(url)
    said = advice(server(version, kind), options, Management(url, options), ["example.org"], "guest")
    assert words in " ".join(said)
    assert "make a user of your own" in said[-1]


# Delays


def topology(prefix: str = "p.") -> Topology:
    return Topology(Url.parse("amqp://h"), RabbitOptions(prefix=prefix))


@pytest.mark.parametrize("delay", [0.001, 0.1, 0.15, 0.3, 1.0, 59.99, 3600.0, LONGEST])
def test_the_steps_of_a_key_add_up_to_the_delay_or_a_little_more(delay: float) -> None:
    post = topology().delayed("q", delay, BasicProperties(), b"")
    *digits, word = post.key.split(".")
    steps = sum(UNIT * 2 ** (STEPS - 1 - n) for n, digit in enumerate(digits) if digit == "1")
    assert (len(digits), word) == (STEPS, "q")
    assert delay - 1e-6 <= steps < delay + UNIT + 1e-6


def test_a_message_enters_the_ladder_at_its_highest_step() -> None:
    assert topology().delayed("q", 0.5, BasicProperties(), b"").exchange == "dray.delay.classic.02"


@pytest.mark.parametrize("queue", ["a.b", "*", "#", "50%", "a.*.#", "ключ-鍵-🛒"])
def test_a_queue_is_one_word_of_a_key_that_no_other_queue_has(queue: str) -> None:
    word = topology().delayed(queue, 0.1, BasicProperties(), b"").key.split(".", STEPS)[-1]
    assert not set(word) & set(".*#")
    assert word != topology().delayed(queue.replace(".", "%2E"), 0.1, BasicProperties(), b"").key or "." not in queue


def test_a_long_name_still_fits_into_a_key() -> None:
    keys = {topology().delayed("." * 127 + last, 0.1, BasicProperties(), b"").key for last in "ab"}
    assert len(keys) == 2
    assert max(len(key) for key in keys) <= 255


# Messages


def arrival(properties: BasicProperties, redelivered: bool = False) -> Arrival:
    return Arrival(1, redelivered, properties, b"")


def test_an_ordinary_message_needs_no_headers() -> None:
    properties = properties_of(Envelope(id="a", queue="q", body=b""), 12.7)
    assert (properties.message_id, properties.headers, properties.timestamp) == ("a", None, 12)
    assert (properties.delivery_mode, properties.priority) == (2, None)


def test_an_id_that_is_too_long_for_its_place_is_a_header() -> None:
    properties = properties_of(Envelope(id="鍵" * 128, queue="q", body=b""), 0.0)
    assert properties.message_id is None
    assert id_of(properties) == "鍵" * 128


def test_a_copy_has_the_priority_that_the_message_had() -> None:
    properties = properties_of(Envelope(id="a", queue="q", body=b"", priority=4), 0.0)
    assert (properties.priority, copied(properties, 1).priority) == (4, 4)


def test_a_copy_knows_how_often_it_was_handed_out_and_nothing_else_of_its_past() -> None:
    past = {"x-death": [{}], "x-first-death-queue": "q", "x-delivery-count": 3, "x-dray-attempt": 2, "mine": "kept"}
    copy = copied(BasicProperties(message_id="a", headers=past, user_id="somebody"), 5)
    assert copy.headers == {"x-dray-attempt": 2, "mine": "kept", "x-dray-deliveries": 5}
    assert (deliveries(arrival(copy)), copy.user_id) == (5, None)


@pytest.mark.parametrize("garbage", ["3", -1, True, None, 1 << 60, [1]])
def test_a_count_that_is_none_counts_nothing(garbage: object) -> None:
    properties = BasicProperties(headers={"x-dray-deliveries": garbage, "x-delivery-count": garbage})
    assert (deliveries(arrival(properties)), lost_deliveries(arrival(properties))) == (0, 1)


def test_a_foreign_message_has_an_id_all_the_same() -> None:
    assert id_of(BasicProperties(correlation_id="theirs")) == "theirs"
    assert id_of(BasicProperties(message_id=b"\xff")) == "\ufffd"
    made_up = {id_of(BasicProperties()) for _ in range(2)}
    assert len(made_up) == 2


# Errors


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (exceptions.ConnectionClosedByBroker(320, "CONNECTION_FORCED - bye"), BrokerUnavailable, "bye"),
        (exceptions.ChannelClosedByBroker(404, "NOT_FOUND - no queue"), BrokerError, "no queue"),
        (exceptions.ChannelClosedByBroker(404, "NOT_FOUND - home node is down"), BrokerUnavailable, "is down"),
        (
            exceptions.ConnectionClosedByBroker(530, "NOT_ALLOWED - connection limit is reached"),
            BrokerUnavailable,
            "limit",
        ),
        (exceptions.StreamLostError("gone"), BrokerUnavailable, "the connection is lost: gone"),
        (ConnectionRefusedError(111, "refused"), BrokerUnavailable, "nothing listens there"),
        (
            exceptions.ProbableAuthenticationError('x: (403) "ACCESS_REFUSED - Login was refused"'),
            BrokerError,
            "check the",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_an_error_of_the_drivers_says_whether_it_will_pass(
    error: Exception, kind: type[BrokerError], words: str
) -> None:
    told = translated(error, Url.parse("amqp://user:secret@h/"), "asking")
    assert type(told) is kind
    assert words in str(told)
    assert "secret" not in str(told)
