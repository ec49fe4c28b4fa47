"""The seal port: bytes made safe with a key against those who can read or write what lies in a broker or a backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar


class Seal(ABC):
    """Signs or encrypts bytes with one key. One instance serves all threads, before and after a fork.

    Registered through the hook `register_seals` under its `name`. It is made with one argument, the secret that the
    setting `message_keys` gives or points to, as text. A secret that it cannot use raises `SettingError`, in words that
    do not repeat it.
    """

    #: The name used in settings (`message_security = "hmac"`), which also travels with what was sealed.
    name: ClassVar[str]
    #: False: this key opens what others sealed and cannot seal anything itself (a public key).
    can_seal: bool = True

    @abstractmethod
    def __init__(self, secret: str) -> None: ...

    @abstractmethod
    def seal(self, content: bytes, bound: bytes) -> bytes:
        """Return `content` sealed. Any bytes are legal, none at all included.

        `bound` is sealed in as well and is no part of what is returned: it opens only with the same `bound` again.
        """

    @abstractmethod
    def open(self, sealed: bytes, bound: bytes) -> bytes:
        """Return what `seal` was given, or raise `DecodeError`.

        Refused is everything that was not made by `seal` with this key and this `bound`: one bit that is different
        in either, bytes cut off or added, bytes from anywhere else. Nothing but `DecodeError` is raised.
        """
