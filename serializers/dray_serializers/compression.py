"""Payload compression: gzip everywhere; zstd with Python 3.14 or `dray[zstd]`; brotli with `dray[brotli]`.

All refuse to unpack more than they are told, before the memory for it is taken, and carry a checksum.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any

from dray import Compressor, ConfigurationError, DecodeError

#: zlib's number for "deflate in a gzip frame".
_GZIP_FRAME = 16 + zlib.MAX_WBITS
#: The customary levels: most of the gain for a fraction of the time.
_GZIP_LEVEL, _ZSTD_LEVEL, _BROTLI_LEVEL = 6, 3, 5
#: Bytes of the checksum that stands before a brotli stream.
_CHECKSUM = 4


class Gzip(Compressor):
    """The gzip format, with no name and no time in its header: equal data gives equal bytes."""

    name = "gzip"

    def compress(self, data: bytes) -> bytes:
        return zlib.compress(data, _GZIP_LEVEL, _GZIP_FRAME)

    def decompress(self, data: bytes, limit: int) -> bytes:
        try:
            return _unpacked(zlib.decompressobj(_GZIP_FRAME), data, limit)
        except (zlib.error, _Unreadable) as error:
            raise DecodeError(f"not readable as gzip: {error}") from None


class Zstd(Compressor):
    """The Zstandard format, through the standard library where it has it, else through `zstandard`."""

    name = "zstd"

    def __init__(self) -> None:
        try:
            self._frames: _StandardLibrary | _Zstandard = _StandardLibrary(import_module("compression.zstd"))
        except ImportError:
            try:
                self._frames = _Zstandard(import_module("zstandard"))
            except ImportError:
                raise ConfigurationError(
                    "zstd compression needs Python 3.14 or the package zstandard, which is not installed: "
                    "pip install 'dray[zstd]'"
                ) from None

    def compress(self, data: bytes) -> bytes:
        return self._frames.compress(data)

    def decompress(self, data: bytes, limit: int) -> bytes:
        try:
            return self._frames.decompress(data, limit)
        except (self._frames.error, _Unreadable) as error:
            raise DecodeError(f"not readable as zstd: {error}") from None


class Brotli(Compressor):
    """A brotli stream, which has no checksum, after one: the CRC-32 of the data, four bytes, the lowest first."""

    name = "brotli"

    def __init__(self) -> None:
        try:
            self._brotli: Any = import_module("brotli")
            self._brotli.Decompressor().process(b"", output_buffer_limit=1)
        except (ImportError, TypeError):  # TypeError: one before 1.2, which unpacks whatever size comes
            raise ConfigurationError(
                "brotli compression needs the package brotli, 1.2 or newer, which is not installed: "
                "pip install 'dray[brotli]'"
            ) from None

    def compress(self, data: bytes) -> bytes:
        packed: bytes = self._brotli.compress(data, quality=_BROTLI_LEVEL)
        return zlib.crc32(data).to_bytes(_CHECKSUM, "little") + packed

    def decompress(self, data: bytes, limit: int) -> bytes:
        try:
            stream = self._brotli.Decompressor()
            # What comes out may be larger than this by a buffer.
            plain: bytes = stream.process(data[_CHECKSUM:], output_buffer_limit=limit + 1)
            if len(plain) > limit:
                raise _too_large(limit)
            if not stream.is_finished():
                raise _Unreadable("truncated")
            if zlib.crc32(plain) != int.from_bytes(data[:_CHECKSUM], "little"):
                raise _Unreadable("the checksum does not fit")
            return plain
        except (self._brotli.error, _Unreadable) as error:
            raise DecodeError(f"not readable as brotli: {error}") from None


class _Unreadable(Exception):
    """Packed data that ends too early, too late, or unpacks to too much."""


class _StandardLibrary:
    """Frames by `compression.zstd`."""

    def __init__(self, zstd: Any) -> None:
        self.error: type[Exception] = zstd.ZstdError
        self._zstd = zstd
        choice = zstd.CompressionParameter
        self._options = {choice.compression_level: _ZSTD_LEVEL, choice.checksum_flag: 1}

    def compress(self, data: bytes) -> bytes:
        packed: bytes = self._zstd.compress(data, options=self._options)
        return packed

    def decompress(self, data: bytes, limit: int) -> bytes:
        # The window is memory too: a frame may ask for 128 MB of it and hold one byte. It goes by powers of two.
        window = min(max(limit.bit_length(), 10), 27)
        options = {self._zstd.DecompressionParameter.window_log_max: window}
        return _unpacked(self._zstd.ZstdDecompressor(options=options), data, limit)


class _Zstandard:
    """Frames by the package `zstandard`. They must state the size of what is in them, as all one-shot writers do."""

    def __init__(self, zstandard: Any) -> None:
        self.error: type[Exception] = zstandard.ZstdError
        self._zstandard = zstandard
        # Its contexts are costly to make and not to be shared between threads.
        self._contexts = threading.local()

    def compress(self, data: bytes) -> bytes:
        packed: bytes = self._context("packing", self._packing).compress(data)
        return packed

    def decompress(self, data: bytes, limit: int) -> bytes:
        size = self._zstandard.frame_content_size(data)
        if size < 0:
            raise _Unreadable("the frame does not state the size of what is in it")
        if size > limit:
            raise _too_large(limit)
        if size == 0 and data != self.compress(b""):
            # The library looks no further than such a header.
            raise _Unreadable("the frame states that it is empty and is not")
        # Never writes more than the frame states: a frame that lies is an error.
        plain: bytes = self._context("unpacking", self._zstandard.ZstdDecompressor).decompress(
            data, allow_extra_data=False
        )
        return plain

    def _packing(self) -> Any:
        return self._zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True)

    def _context(self, name: str, make: Callable[[], Any]) -> Any:
        context = getattr(self._contexts, name, None)
        if context is None:
            context = make()
            setattr(self._contexts, name, context)
        return context


def _unpacked(stream: Any, data: bytes, limit: int) -> bytes:
    """Return what `stream`, one of the standard library's decompressors, makes of the whole of `data`."""
    # One byte of room more than the limit tells "too large" from "just fits".
    plain: bytes = stream.decompress(data, limit + 1)
    if len(plain) > limit:
        raise _too_large(limit)
    if not stream.eof:
        raise _Unreadable("truncated")
    if stream.unused_data:
        raise _Unreadable("something follows its end")
    return plain


def _too_large(limit: int) -> _Unreadable:
    return _Unreadable(f"it unpacks to more than the {limit:,} bytes that are allowed")
