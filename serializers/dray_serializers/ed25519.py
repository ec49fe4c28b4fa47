"""Signing with a private key that others check with the public one: Ed25519 (RFC 8032).

Sealed are 64 bytes of signature, then the content as it was. The signature is over what is bound, then the content.
Needs `pip install 'dray[crypto]'`. Keys are PEM as openssl writes them: `openssl genpkey -algorithm ed25519`.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from dray import DecodeError, Seal, SettingError

from .signing import MISFIT

#: Bytes of an Ed25519 signature.
_SIZE = 64


class Ed25519(Seal):
    """Ed25519. A private key signs and checks, a public key checks only."""

    name = "ed25519"

    def __init__(self, secret: str) -> None:
        private, public = _keys(secret)
        self._private = private
        self._public = public
        self.can_seal = private is not None

    def seal(self, content: bytes, bound: bytes) -> bytes:
        assert self._private is not None, "a public key was asked to sign"
        return self._private.sign(bound + content) + content

    def open(self, sealed: bytes, bound: bytes) -> bytes:
        content = sealed[_SIZE:]
        try:
            self._public.verify(sealed[:_SIZE], bound + content)
        except InvalidSignature:
            raise DecodeError(MISFIT) from None
        return content


def _keys(pem: str) -> tuple[Ed25519PrivateKey | None, Ed25519PublicKey]:
    """Return the private key, if `pem` is one, and the public key."""
    text = pem.encode()
    try:
        found = load_pem_public_key(text) if "PUBLIC KEY" in pem else load_pem_private_key(text, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        found = None  # TypeError: the key is encrypted with a password
    if isinstance(found, Ed25519PrivateKey):
        return found, found.public_key()
    if isinstance(found, Ed25519PublicKey):
        return None, found
    raise SettingError(
        "it is no Ed25519 key in PEM without a password: openssl genpkey -algorithm ed25519 makes a private one, and "
        "openssl pkey -pubout the public one that belongs to it"
    )
