"""Secrets as keys: none that could be guessed, and from one secret another key for every purpose."""

from __future__ import annotations

import hashlib
import hmac

from dray import SettingError

#: Fewest characters of a secret: what `secrets.token_urlsafe(24)` gives, 192 random bits.
FEWEST = 32
#: How keys for other seals begin, public ones among them.
PEM = "-----BEGIN "


def symmetric_key(secret: str, purpose: str) -> bytes:
    """Return the 32 bytes that HKDF-SHA256 (RFC 5869) makes of `secret`, without a salt, for `purpose`.

    Raises `SettingError` for a secret that is too short, or that is an asymmetric key: whoever has the public half
    could seal with it.
    """
    if secret.startswith(PEM):
        raise SettingError("it is a PEM key, and this seal takes a secret text that both sides know")
    if len(secret) < FEWEST:
        raise SettingError(
            f"a secret of {len(secret)} characters can be guessed; at least {FEWEST} random ones are needed: "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    extracted = hmac.digest(bytes(hashlib.sha256().digest_size), secret.encode(), "sha256")
    return hmac.digest(extracted, purpose.encode() + b"\x01", "sha256")
