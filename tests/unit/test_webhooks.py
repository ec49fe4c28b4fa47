"""Webhooks: declared with a task, delivered by one, signed, tried again, and never to a place that is not public."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, NamedTuple

import pytest

from dray import Dray, ManualClock, Reject, SettingError, TaskOptionError, webhook_post
from dray.outcome import Done
from dray.testing import Driver, Enqueued, memory_app
from dray.testing.faults import FlakyBroker
from dray.webhook_options import Refused, may_be_called
from dray.webhook_post import post
from dray.webhook_signatures import sign, verify
from dray.webhooks import TASK, calls

SECRET = "whsec_" + base64.b64encode(b"a key of twenty-four byt").decode()


class Call(NamedTuple):
    """A call that the server got."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.body)


class Site:
    """A real HTTP server; it answers as `answers` says, and then with 200."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                site.calls.append(Call(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                status, headers = site.answers.pop(0) if site.answers else (200, {})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", "4")
                self.end_headers()
                self.wfile.write(b"done")

            def log_message(self, format: str, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?token=t0p"


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    thread = Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


HERE = pytest.mark.dray(webhook_allow_private=["127.0.0.1"])


# What is told


@HERE
def test_a_task_that_succeeds_calls_its_webhook_with_the_result(
    dray_app: Dray, dray_worker: Driver, site: Site
) -> None:
    id = dray_app.task(name="add", webhook=site.url)(lambda x, y: x + y).delay(1, 2).id
    dray_worker.run_until_idle()
    (call,) = site.calls
    assert call.path == "/hook?token=t0p"
    assert call.headers["content-type"] == "application/json"
    assert call.headers["webhook-id"] == f"{id}-w0"
    assert "webhook-signature" not in call.headers
    now = "2023-11-14T22:13:20Z"
    assert call.data == {
        "type": "task.succeeded",
        "timestamp": now,
        "task_id": id,
        "task": "add",
        "status": "success",
        "result": 3,
        "queue": "default",
        "retries": 0,
        "sent": now,
        "ended": now,
    }


@HERE
@pytest.mark.parametrize("how", ["failed", "rejected"])
def test_a_task_that_fails_for_good_calls_it_with_the_error(
    dray_app: Dray, dray_worker: Driver, site: Site, how: str
) -> None:
    @dray_app.task(name="work", webhook=site.url, ignore_result=True)
    def work() -> None:
        raise Reject("not today") if how == "rejected" else ValueError("no")

    work.delay()
    dray_worker.run_until_idle()
    (call,) = site.calls
    assert (call.data["type"], call.data["status"]) == ("task.failed", "failed")
    assert call.data["error"] == {"rejected": "not today", "failed": "no"}[how]
    assert call.data["exception"] == {"rejected": None, "failed": "builtins.ValueError"}[how]


@HERE
def test_a_task_that_is_tried_again_calls_it_once_at_the_end(dray_app: Dray, dray_worker: Driver, site: Site) -> None:
    @dray_app.task(name="work", autoretry_for=ValueError, max_retries=2, default_retry_delay=1, webhook=site.url)
    def work() -> None:
        raise ValueError("no")

    work.delay()
    dray_worker.advance(10)
    assert [call.data["retries"] for call in site.calls] == [2]


@HERE
def test_a_webhook_may_be_for_one_end_only_and_there_may_be_several(
    dray_app: Dray, dray_worker: Driver, site: Site
) -> None:
    hooks = [
        {"url": site.url.replace("hook", "good"), "on": "success"},
        {"url": site.url.replace("hook", "bad"), "on": ["failure"], "timeout": 3},
        site.url.replace("hook", "both"),
    ]
    dray_app.task(name="work", webhook=hooks)(lambda: None).delay()
    dray_worker.run_until_idle()
    assert sorted(call.path.split("?")[0] for call in site.calls) == ["/both", "/good"]


@HERE
def test_a_setting_gives_webhooks_to_the_tasks_that_fit_a_pattern(
    dray_app: Dray, dray_worker: Driver, site: Site
) -> None:
    dray_app.conf.task_annotations = {"emails.*": {"webhook": {"url": site.url, "on": "failure"}}}

    @dray_app.task(name="emails.send")
    def send() -> None:
        raise ValueError("no")

    send.delay()
    dray_app.task(name="other")(lambda: 1 / 0).delay()
    dray_worker.run_until_idle()
    assert [call.data["task"] for call in site.calls] == ["emails.send"]


@HERE
@pytest.mark.parametrize("value", [1j, "x" * 200_000, [1.5, None]])
def test_a_result_that_cannot_be_told_is_left_out(dray_app: Dray, dray_worker: Driver, site: Site, value: Any) -> None:
    dray_app.task(name="work", ignore_result=True, webhook=site.url)(lambda: value).delay()
    dray_worker.run_until_idle()
    (call,) = site.calls
    if isinstance(value, str):
        assert call.data["result_left_out"].endswith("bytes")
        assert len(call.body) < 1000
    else:
        assert call.data["result"] == (value if isinstance(value, list) else str(value))


# Signatures


@HERE
@pytest.mark.dray(webhook_secrets={"new": SECRET, "old": "as plain text"})
def test_a_call_is_signed_with_every_secret_so_that_they_can_be_changed(
    dray_app: Dray, dray_worker: Driver, dray_clock: ManualClock, site: Site
) -> None:
    dray_app.task(name="work", webhook=site.url)(lambda: None).delay()
    dray_worker.run_until_idle()
    (call,) = site.calls
    assert len(call.headers["webhook-signature"].split()) == 2
    now = dray_clock.time()
    assert int(call.headers["webhook-timestamp"]) == now
    for secrets, right in [([SECRET], True), (["as plain text"], True), (["another"], False), ([], False)]:
        assert verify(secrets, call.headers, call.body, now) is right
    assert verify([SECRET], call.headers, call.body + b" ", now) is False
    assert verify([SECRET], call.headers, call.body, now + 301) is False
    assert verify([SECRET], {**call.headers, "webhook-id": "another"}, call.body, now) is False
    assert verify([SECRET], {}, call.body, now) is False


def test_a_signature_is_the_one_of_the_standard() -> None:
    # From the documentation of Standard Webhooks and Svix.
    secret, id = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek"
    made = sign([secret], id, 1614265330, b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_that_is_none_keeps_a_worker_from_starting(dray_clock: ManualClock) -> None:
    for secret, wrong in [("whsec_!", "is not base64"), ("env:NOT_SET_ANYWHERE", "NOT_SET_ANYWHERE is not set")]:
        with memory_app(dray_clock, webhook_secrets={"k": secret}) as app:
            with pytest.raises(SettingError, match=rf"webhook_secrets\['k'\]: .*{wrong}"):
                app.worker().start()
            assert secret == "env:NOT_SET_ANYWHERE" or secret not in repr(app.conf)


# When it does not work at once


@HERE
@pytest.mark.dray(webhook_retries=[5, 300])
def test_a_call_that_fails_is_tried_again_and_kept_in_the_end(
    dray_app: Dray, dray_worker: Driver, dray_clock: ManualClock, site: Site
) -> None:
    site.answers = [(500, {}), (302, {"location": "http://127.0.0.1/elsewhere"}), (404, {}), (200, {})]
    result = dray_app.task(name="work", webhook=site.url)(lambda: 1).delay()
    start = dray_clock.time()
    dray_worker.advance(1000)
    assert result.get() == 1
    assert [int(call.headers["webhook-timestamp"]) - start for call in site.calls] == [0, 5, 305]
    assert len({call.headers["webhook-id"] for call in site.calls}) == 1
    (letter,) = dray_app.dead_letters.find()
    assert letter.task == TASK
    assert "answered 404: done" in letter.reason
    assert "t0p" not in repr(letter)
    assert dray_app.dead_letters.replay([letter.id]) == {"default": 1}
    dray_worker.run_until_idle()
    assert len(site.calls) == 4


@HERE
def test_a_server_says_itself_when_to_try_again_or_never(
    dray_app: Dray, dray_worker: Driver, dray_clock: ManualClock, site: Site
) -> None:
    site.answers = [(503, {"retry-after": "60"}), (410, {})]
    dray_app.task(name="work", webhook=site.url)(lambda: 1).delay()
    start = dray_clock.time()
    dray_worker.advance(100_000)
    assert [int(call.headers["webhook-timestamp"]) - start for call in site.calls] == [0, 60]
    assert [letter.reason for letter in dray_app.dead_letters.find()] == [
        f"{site.url.split('/hook')[0]} answered 410: it wants no more of these"
    ]


@HERE
@pytest.mark.dray(webhook_retries=[])
def test_where_nobody_listens_the_call_is_kept(dray_app: Dray, dray_worker: Driver) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        dray_app.task(name="work", webhook=url)(lambda: 1).delay()
        dray_worker.run_until_idle()
    (letter,) = dray_app.dead_letters.find()
    assert "ConnectionRefusedError" in letter.reason


@HERE
def test_a_reply_that_is_lost_while_the_call_is_sent_makes_it_no_second_one(
    dray_clock: ManualClock, site: Site
) -> None:
    with memory_app(dray_clock, webhook_allow_private=["127.0.0.1"]) as app:
        broker = FlakyBroker.between(app)
        app.task(name="work", webhook=site.url)(lambda: 1).delay()
        broker.lose_reply_of("publish")
        worker = Driver(app)
        worker.run_until_idle()
        worker.advance(5)
    assert len(site.calls) == 1


def test_a_run_that_is_repeated_after_a_crash_makes_the_same_call(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    task = dray_app.task(name="work", webhook="https://example.com/hook")(lambda: 1)
    task.delay()
    (message,) = dray_enqueued.all()
    made = [one.id for _ in range(2) for one in calls(dray_app, message, Done(1))]
    assert made == [f"{message.id}-w0"] * 2


# Where it may lead


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("ftp://example.com/", "is an http:// or https:// URL; got ftp"),
        ("file:///etc/passwd", "is an http:// or https:// URL; got file"),
        ("example.com", "is an http:// or https:// URL; got no scheme"),
        ("https:///path", "names a host"),
        ("http://a b/", "names a host"),
        ("http://host:99999/", "is no URL"),
        ("http://me:pw@example.com/", "carries no user and password"),
        (5, "is a URL as text; got 5"),
        ({"url": "https://example.com", "onn": "success"}, "it has no 'onn'; did you mean 'on'"),
        ({"url": "https://example.com", "on": "retry"}, "on is 'success', 'failure' or both; got .'retry'"),
        ({"url": "https://example.com", "on": []}, "on is 'success', 'failure' or both"),
        ({"url": "https://example.com", "timeout": 0}, "timeout is a number of seconds > 0"),
        ({"on": "success"}, "is a URL as text; got None"),
    ],
)
def test_what_is_no_webhook_is_refused_when_it_is_declared(dray_app: Dray, url: Any, wrong: str) -> None:
    with pytest.raises(TaskOptionError, match=rf"work: webhook: .*{wrong}"):
        dray_app.task(name="work", webhook=url)(lambda: None)


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "[::1]", "localhost", "LOCALHOST"])
def test_a_place_that_is_not_public_is_refused_before_anything_is_sent(
    dray_app: Dray, dray_enqueued: Enqueued, host: str
) -> None:
    task = dray_app.task(name="work", webhook=f"http://{host}/hook")(lambda: None)
    with pytest.raises(TaskOptionError, match="is not public: to call it all the same, name it in webhook_allow_pri"):
        task.delay()
    assert dray_enqueued.all() == []


def test_a_name_that_leads_to_a_private_place_is_not_called(
    dray_app: Dray, dray_worker: Driver, monkeypatch: pytest.MonkeyPatch, site: Site
) -> None:
    port = site.server.server_port
    monkeypatch.setattr(webhook_post.socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", port))])
    dray_app.task(name="work", webhook=f"http://intern.example.com:{port}/")(lambda: None).delay()
    dray_worker.run_until_idle()
    assert site.calls == []
    (letter,) = dray_app.dead_letters.find()
    assert letter.reason.startswith("not called: intern.example.com (127.0.0.1) is not public")


def test_the_address_that_was_looked_at_is_the_one_that_is_called(monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    answers = [[(2, 1, 6, "", ("127.0.0.1", 80))]]  # asked a second time, it would raise
    monkeypatch.setattr(webhook_post.socket, "getaddrinfo", lambda *_, **__: answers.pop())
    dialled: list[Any] = []
    connect: Callable[..., socket.socket] = socket.create_connection

    def dial(place: Any, timeout: float) -> socket.socket:
        dialled.append(place)
        return _connected(connect, place, timeout)

    monkeypatch.setattr(webhook_post.socket, "create_connection", dial)
    port = site.server.server_port
    answer = post(f"http://intern.example.com:{port}/x", b"{}", {}, 5.0, ["127.0.0.0/8"])
    assert answer.status == 200
    assert dialled == [("127.0.0.1", port)]
    assert site.calls[0].headers["host"] == f"intern.example.com:{port}"


def _connected(connect: Callable[..., socket.socket], place: Any, timeout: float) -> socket.socket:
    made = socket.socket()
    made.settimeout(timeout)
    made.connect(place)
    return made


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("192.168.0.1", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("fd00::1", False),
        ("fe80::1", False),
        ("::ffff:127.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
    ],
)
def test_only_public_addresses_are_called(address: str, public: bool) -> None:
    from ipaddress import ip_address

    assert may_be_called(ip_address(address), "some.example", ()) is public
    assert may_be_called(ip_address(address), "some.example", ("some.example",)) is True


def test_a_redirection_is_not_followed_and_a_bad_url_is_refused(site: Site) -> None:
    site.answers = [(301, {"location": site.url})]
    assert post(site.url, b"{}", {}, 5.0, ["127.0.0.1"]).status == 301
    assert len(site.calls) == 1
    with pytest.raises(Refused, match="got gopher"):
        post("gopher://x/", b"", {}, 5.0, ())
