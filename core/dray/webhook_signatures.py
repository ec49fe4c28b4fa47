"""Signs webhooks, and tells whether one is signed: by the Standard Webhooks convention, which Svix and others follow.

    webhook-id          the same each time it is tried: whoever has seen it already lets it be
    webhook-timestamp   when this try was made, in seconds since 1970
    webhook-signature   "v1," and HMAC-SHA256 of "id.timestamp.body" in base64; of several secrets, one after the other

A receiver in Python may use `verify` as it is.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping

#: Seconds by which the timestamp of a webhook may be away from now.
TOLERANCE = 300.0
_MARK = "whsec_"


def sign(secrets: Iterable[str], id: str, timestamp: int, body: bytes) -> str:
    """Return the value of webhook-signature: a signature with each of the secrets."""
    return " ".join(_signature(secret, id, str(timestamp), body) for secret in secrets)


def verify(secrets: Iterable[str], headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Tell whether a webhook was signed with one of the secrets, and within five minutes of `now`.

    `headers` is a mapping by names in lower case; `body` is what came, byte by byte.
    """
    id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not timestamp.isascii() or not timestamp.isdigit() or abs(now - int(timestamp)) > TOLERANCE:
        return False
    given = headers.get("webhook-signature", "").split()
    made = [_signature(secret, id, timestamp, body) for secret in secrets]
    return any(hmac.compare_digest(one.encode(), other.encode()) for one in given for other in made)


def read_secret(secret: str) -> bytes:
    """Return the key that a secret stands for: base64 after "whsec_", else its text. ValueError says what is wrong."""
    if not secret.startswith(_MARK):
        return secret.encode()
    try:
        return base64.b64decode(secret[len(_MARK) :], validate=True)
    except binascii.Error:
        raise ValueError("what follows whsec_ is not base64") from None


def _signature(secret: str, id: str, timestamp: str, body: bytes) -> str:
    content = f"{id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(read_secret(secret), content, hashlib.sha256).digest()).decode()
