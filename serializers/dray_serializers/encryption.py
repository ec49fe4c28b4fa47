"""Encryption: AES-256-GCM with random nonces of 192 bits, the construction XAES-256-GCM (C2SP).

Sealed are 24 bytes of nonce, then the ciphertext, then 16 bytes of tag. What is bound is the associated data. Plain
AES-GCM has room for 96 bits of nonce, too few to draw by chance for billions of messages; here the first half of the
nonce chooses a key of its own for AES-GCM, and the second half is the nonce under that key.

Needs `pip install 'dray[crypto]'`.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from dray import DecodeError, Seal

from .keys import symmetric_key

_NONCE, _TAG, _BLOCK = 24, 16, 16
#: The two inputs of the key derivation, without the half of the nonce that completes each to a block.
_FIRST, _SECOND = b"\x00\x01X\x00", b"\x00\x02X\x00"


class AesGcm(Seal):
    """XAES-256-GCM. Whoever can read can also write."""

    name = "aes-gcm"

    def __init__(self, secret: str) -> None:
        self._cipher = Xaes(symmetric_key(secret, "dray xaes-256-gcm"))

    def seal(self, content: bytes, bound: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, content, bound)

    def open(self, sealed: bytes, bound: bytes) -> bytes:
        try:
            if len(sealed) < _NONCE + _TAG:
                raise InvalidTag
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], bound)
        except InvalidTag:
            raise DecodeError(
                "it cannot be decrypted: it was changed, cut off or moved to another id, or encrypted with another key"
            ) from None


class Xaes:
    """XAES-256-GCM under one key of 32 bytes, as https://c2sp.org/XAES-256-GCM says."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        # A block cipher at work is not to be shared between threads, and costs more to make than a message to encrypt.
        self._blocks = threading.local()
        zero = int.from_bytes(self._encrypted(bytes(_BLOCK)))
        # Doubling in the field of AES-CMAC (NIST SP 800-38B): the key that full last blocks are masked with.
        doubled = (zero << 1) ^ (0x87 if zero >> 127 else 0)
        self._mask = (doubled & (1 << 128) - 1).to_bytes(_BLOCK) * 2

    def encrypt(self, nonce: bytes, plain: bytes, bound: bytes) -> bytes:
        """Return the ciphertext and the tag; `nonce` is 24 bytes that were never used with this key."""
        return AESGCM(self._derived(nonce[:12])).encrypt(nonce[12:], plain, bound)

    def decrypt(self, nonce: bytes, sealed: bytes, bound: bytes) -> bytes:
        """Return the plain bytes, or raise `InvalidTag`."""
        return AESGCM(self._derived(nonce[:12])).decrypt(nonce[12:], sealed, bound)

    def _derived(self, half: bytes) -> bytes:
        blocks = _FIRST + half + _SECOND + half
        return self._encrypted((int.from_bytes(blocks) ^ int.from_bytes(self._mask)).to_bytes(2 * _BLOCK))

    def _encrypted(self, blocks: bytes) -> bytes:
        """Return whole blocks encrypted with AES-256, each by itself."""
        found: Any = getattr(self._blocks, "encryptor", None)
        if found is None:
            found = self._blocks.encryptor = Cipher(AES(self._key), ECB()).encryptor()
        encrypted: bytes = found.update(blocks)
        return encrypted
