"""What SQS and its driver say when something fails, as errors of dray: what passes by itself, and what never will."""

from __future__ import annotations

from collections.abc import Mapping

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    InvalidRegionError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
)

from dray import BrokerError, BrokerUnavailable, Url

MISSING = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"}
#: The receipt is of a loan that is over: expired, deleted, or lent to another since.
OVER = {
    "ReceiptHandleIsInvalid",
    "InvalidReceiptHandle",
    "MessageNotInflight",
    "AWS.SimpleQueueService.MessageNotInflight",
    "InvalidParameterValue",
}
_BUSY = {
    "RequestThrottled",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "OverLimit",
    "AWS.SimpleQueueService.OverLimit",
    "KmsThrottled",
    "KMS.ThrottlingException",
    "ServiceUnavailable",
    "InternalError",
    "InternalFailure",
    "RequestTimeout",
    "QueueDeletedRecently",
    "AWS.SimpleQueueService.QueueDeletedRecently",
}
_NOT_KNOWN = {
    "InvalidClientTokenId",
    "InvalidAccessKeyId",
    "UnrecognizedClientException",
    "SignatureDoesNotMatch",
    "InvalidSignatureException",
    "IncompleteSignature",
    "InvalidSecurity",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
}


class QueueMissing(BrokerError):
    """The queue does not exist (any more)."""


class NotAllowed(BrokerError):
    """The credentials are good, but not for this."""


class Failure(Exception):
    """Why one entry of a batch failed."""

    def __init__(self, failed: Mapping[str, object]) -> None:
        self.code = str(failed.get("Code", ""))
        super().__init__(f"SQS refused it: {self.code}: {failed.get('Message') or 'no reason given'}")
        #: True: the same may succeed when tried again.
        self.passing = self.code in _BUSY or not failed.get("SenderFault", False)


def translated(error: BotoCoreError | ClientError, url: Url, action: str, queue: str) -> BrokerError:
    """Return an error of the driver's as one of dray's, in one line that says what was asked and what would help."""
    asked = f"{url}: {action}" + (f" on {queue!r}" if queue else "")
    if isinstance(error, ClientError):
        return _answered(error, asked, action)
    if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
        return BrokerError(
            f"{asked}: no credentials ({error}); write sqs://key:secret@?region=..., name a profile=, "
            "or set what boto3 looks for (AWS_ACCESS_KEY_ID, a role, ~/.aws)"
        )
    if isinstance(error, SSLError):
        if "WRONG_VERSION_NUMBER" in str(error):
            return BrokerError(f"{asked}: the server speaks no TLS there; write endpoint=http://...")
        return BrokerError(f"{asked}: {error}; trust the server's certificate with AWS_CA_BUNDLE")
    if isinstance(error, ConnectionError | HTTPClientError):
        return BrokerUnavailable(f"{asked}: no answer: {error}; check region=, endpoint= and the network")
    if isinstance(error, ProfileNotFound | InvalidRegionError):
        return BrokerError(f"{url}: {error}")
    return BrokerError(f"{asked}: {type(error).__name__}: {error}")


def _answered(error: ClientError, asked: str, action: str) -> BrokerError:
    told = error.response.get("Error", {})
    code, message = str(told.get("Code", "")), told.get("Message", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    said = f"{asked}: {code}: {message}"
    if code in MISSING:
        return QueueMissing(said)
    if code in _BUSY or status >= 500:
        return BrokerUnavailable(f"{said} (it passes by itself)")
    if code in _NOT_KNOWN:
        return BrokerError(f"{said}; check key and secret (percent-encoded in the URL), session_token= and the clock")
    if "AccessDenied" in code:
        other = "; or name the queues, with queues= or account=" if action in ("GetQueueUrl", "CreateQueue") else ""
        return NotAllowed(f"{said}; allow these credentials the action sqs:{action}{other}")
    return BrokerError(said)
