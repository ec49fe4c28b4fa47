"""The compressor port: payload bytes to fewer bytes and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar


class Compressor(ABC):
    """Packs payloads and unpacks them again. One instance serves all threads.

    Registered through the hook `register_codecs` under its `name`. A compressor whose library is missing raises
    `ConfigurationError`, naming what to install, when it is constructed.
    """

    #: The name used in settings (`task_compression = "gzip"`), which also travels as the content encoding.
    name: ClassVar[str]

    @abstractmethod
    def compress(self, data: bytes) -> bytes:
        """Return `data` packed. Any bytes are legal, none at all included."""

    @abstractmethod
    def decompress(self, data: bytes, limit: int) -> bytes:
        """Return what `compress` was given, or raise `DecodeError`.

        `limit` is the largest size in bytes that may come out; larger data is refused without ever holding more than
        about `limit` bytes of it, whatever the packed bytes claim. Damaged or truncated data, and data followed by
        anything else, are refused. Nothing but `DecodeError` is raised.
        """
