"""Signing with a secret that both sides know: HMAC-SHA256, from the standard library.

Sealed are 32 bytes of signature, then the content as it was. The signature is over what is bound, then the content.
"""

from __future__ import annotations

import hmac

from dray import DecodeError, Seal

from .keys import symmetric_key

#: Bytes of an HMAC-SHA256.
_SIZE = 32


class Hmac(Seal):
    """HMAC-SHA256. Whoever can check a signature can also make one."""

    name = "hmac"

    def __init__(self, secret: str) -> None:
        self._key = symmetric_key(secret, "dray hmac-sha256")

    def seal(self, content: bytes, bound: bytes) -> bytes:
        return hmac.digest(self._key, bound + content, "sha256") + content

    def open(self, sealed: bytes, bound: bytes) -> bytes:
        signature, content = sealed[:_SIZE], sealed[_SIZE:]
        if not hmac.compare_digest(signature, hmac.digest(self._key, bound + content, "sha256")):
            raise DecodeError(MISFIT)
        return content


#: What is said of every signature that is wrong. There is nothing to tell apart: which byte was changed, no one knows.
MISFIT = "the signature does not fit: it was changed, cut off or moved to another id, or signed with another key"
