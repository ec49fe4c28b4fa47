"""What a URL for SQS may say, and what is said when it is wrong or leads nowhere."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, SSLError

from dray import BrokerError, BrokerUnavailable, Envelope, PublishError, Url, UrlError
from dray_brokers.sqs import SqsBroker
from dray_brokers.sqs_errors import Failure, NotAllowed, QueueMissing, translated

PREDEFINED = "sqs://?region=eu-west-1&queues=emails:https://sqs.eu-west-1.amazonaws.com/123456789012/prod-emails"


@pytest.fixture(autouse=True)
def nothing_is_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", f"{tmp_path}/none")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", f"{tmp_path}/none")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def broker(text: str) -> SqsBroker:
    return SqsBroker(Url.parse(text))


def test_a_region_is_enough() -> None:
    can = broker("sqs://?region=eu-west-1").capabilities
    assert (can.max_delay, can.lease_max, can.max_message_bytes, can.key) == (900, 43_200, 784_896, "fair")


def test_fifo_queues_keep_the_order_of_a_key_and_have_no_delays() -> None:
    can = broker("sqs://?region=eu-west-1&fifo=yes").capabilities
    assert (can.max_delay, can.key, can.dedup, can.fifo) == (0, "order", False, False)


def test_a_smaller_limit_of_the_server_is_a_smaller_limit_of_ours() -> None:
    assert broker("sqs://?region=eu-west-1&max_bytes=262144").capabilities.max_message_bytes == 195_072


def test_keys_may_be_left_alone() -> None:
    assert broker("sqs://?region=eu-west-1&fair=no").capabilities.key == ""


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("sqs://localhost:4566?region=x", "takes no host"),
        ("sqs:///queue?region=x", "takes no host"),
        ("sqs://key@?region=x", "a key needs its secret"),
        ("sqs://?regoin=x", "did you mean 'region'"),
        ("sqs://?region=x&wait=0", "wait is a number from 1 to 20"),
        ("sqs://?region=x&wait=soon", "Expected `int`"),
        ("sqs://?region=x&retention=5", "retention is a number from 60 to 1209600"),
        ("sqs://?region=x&create=maybe", "Invalid enum value 'maybe'"),
        ("sqs://?region=x&prefix=a.b", "prefix takes letters"),
        ("sqs://?region=x&account=12", "account is a number of 12 digits"),
        ("sqs://?region=x&queues=emails", "queues= takes name:url"),
    ],
)
def test_a_wrong_url_says_what_is_wrong(text: str, what: str) -> None:
    with pytest.raises(UrlError, match=re.escape(what)):
        broker(text)


def test_secrets_are_never_shown() -> None:
    shown = str(Url.parse("sqs://AKIA:top%2Fsecret@?region=x&session_token=hidden"))
    assert "top" not in shown
    assert "hidden" not in shown


def test_without_a_region_it_says_how_to_name_one() -> None:
    with pytest.raises(BrokerError, match="no region; write sqs://"):
        broker("sqs://").open()


def test_a_profile_that_is_not_there_is_named() -> None:
    with pytest.raises(BrokerError, match=r"profile \(nobody\) could not be found"):
        broker("sqs://?region=eu-west-1&profile=nobody").open()


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    with pytest.raises(BrokerError, match="nowhere"):
        broker("sqs://a:b@?endpoint=nowhere").open()


def test_without_credentials_it_says_how_to_give_them(closed_port: int) -> None:
    with pytest.raises(BrokerError, match="no credentials .*write sqs://key:secret@") as refusal:
        broker(f"sqs://?region=eu-west-1&endpoint=http://127.0.0.1:{closed_port}").open()
    assert not isinstance(refusal.value, BrokerUnavailable)


def test_where_nobody_listens_it_is_unavailable_and_says_where(closed_port: int) -> None:
    with pytest.raises(BrokerUnavailable, match=f"GetQueueUrl: no answer: .*127.0.0.1:{closed_port}"):
        broker(f"sqs://a:b@?endpoint=http://127.0.0.1:{closed_port}").open()


def test_who_never_answers_is_given_up_in_time() -> None:
    # A socket that listens with a full queue drops what knocks: the way a firewall does.
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(("127.0.0.1", port))
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                broker(f"sqs://a:b@?endpoint=http://127.0.0.1:{port}&connect_timeout=0.4").open()
            assert time.monotonic() - began < 10


def test_predefined_queues_are_the_only_ones() -> None:
    with pytest.raises(BrokerError, match=r"'email' is not among those that queues= names: emails"):
        broker(PREDEFINED).consumer(["email"], 30.0)
    with pytest.raises(PublishError) as refusal:
        broker(PREDEFINED).publish([Envelope(id="a", queue="emails__p5", body=b"")])
    assert "add emails__p5:https://" in refusal.value.rejected["a"]


def test_queues_that_the_engine_adds_need_not_be_predefined_to_be_empty() -> None:
    opened = broker(PREDEFINED)
    opened.consumer(["emails", "emails__p5"], 30.0).close()
    assert opened.sizes(["emails__dead"]) == {"emails__dead": {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}}
    assert opened.setup(["emails__dead"]) == []


def answered(code: str, status: int = 400) -> ClientError:
    told = {"Error": {"Code": code, "Message": "so it is"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(told, "SendMessageBatch")


@pytest.mark.parametrize(
    ("error", "kind", "what"),
    [
        (answered("AccessDenied"), NotAllowed, "allow these credentials the action sqs:SendMessageBatch"),
        (answered("KMS.AccessDeniedException"), NotAllowed, "KMS.AccessDeniedException: so it is"),
        (answered("InvalidClientTokenId", 403), BrokerError, "check key and secret"),
        (answered("SignatureDoesNotMatch", 403), BrokerError, "check key and secret"),
        (answered("ExpiredToken", 403), BrokerError, "session_token="),
        (answered("OverLimit"), BrokerUnavailable, "it passes by itself"),
        (answered("RequestThrottled"), BrokerUnavailable, "it passes by itself"),
        (answered("Whatever", 503), BrokerUnavailable, "Whatever: so it is"),
        (answered("AWS.SimpleQueueService.NonExistentQueue"), QueueMissing, "so it is"),
        (answered("UnsupportedOperation"), BrokerError, "UnsupportedOperation: so it is"),
        (NoCredentialsError(), BrokerError, "no credentials"),
        (SSLError(endpoint_url="https://x", error="self-signed"), BrokerError, "AWS_CA_BUNDLE"),
        (BotoCoreError(), BrokerError, "BotoCoreError"),
    ],
)
def test_errors_say_what_was_asked_and_whether_they_pass(
    error: BotoCoreError | ClientError, kind: type[BrokerError], what: str
) -> None:
    told = translated(error, Url.parse("sqs://key:hidden@?region=x"), "SendMessageBatch", "emails")
    assert type(told) is kind
    assert what in str(told)
    assert str(told).startswith("sqs://key:***@?region=x: ")
    assert "SendMessageBatch on 'emails'" in str(told)


@pytest.mark.parametrize(
    ("failed", "passing"),
    [
        ({"Code": "InternalError", "SenderFault": False}, True),
        ({"Code": "RequestThrottled", "SenderFault": True}, True),
        ({"Code": "InvalidMessageContents", "SenderFault": True}, False),
    ],
)
def test_of_what_failed_in_a_batch_some_may_be_tried_again(failed: dict[str, object], passing: bool) -> None:
    assert Failure(failed).passing is passing
