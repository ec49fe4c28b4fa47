"""gzip, zstd and brotli payloads: what goes in comes out, bombs do not go off, damage is seen."""

from __future__ import annotations

import gzip
import io
import struct
import sys
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dray import Compressor, ConfigurationError, DecodeError
from dray_serializers.compression import Brotli, Gzip, Zstd

GZIP, ZSTD, BROTLI = Gzip(), Zstd(), Brotli()
MB = 1_000_000

every = pytest.mark.parametrize("compressor", [GZIP, ZSTD, BROTLI], ids=lambda c: c.name)


@every
@settings(max_examples=60)
@given(data=st.binary(max_size=3000), spare=st.integers(0, 100))
def test_any_bytes_survive_within_any_limit_that_fits(compressor: Compressor, data: bytes, spare: int) -> None:
    assert compressor.decompress(compressor.compress(data), len(data) + spare) == data


@every
def test_a_megabyte_of_text_becomes_small_and_survives(compressor: Compressor) -> None:
    data = "कार्ट ".encode() * 60_000
    packed = compressor.compress(data)
    assert len(packed) < len(data) / 100
    assert compressor.decompress(packed, len(data)) == data


@every
def test_one_byte_over_the_limit_is_refused(compressor: Compressor) -> None:
    packed = compressor.compress(b"x" * 1001)
    with pytest.raises(DecodeError, match="more than the 1,000 bytes that are allowed"):
        compressor.decompress(packed, 1000)
    assert compressor.decompress(packed, 1001) == b"x" * 1001


@every
def test_a_limit_of_nothing_lets_nothing_through(compressor: Compressor) -> None:
    assert compressor.decompress(compressor.compress(b""), 0) == b""
    with pytest.raises(DecodeError):
        compressor.decompress(compressor.compress(b"x"), 0)


@every
def test_a_bomb_is_refused_without_taking_the_memory(compressor: Compressor) -> None:
    bomb = compressor.compress(bytes(200 * MB))
    assert len(bomb) < MB
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            compressor.decompress(bomb, MB)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * MB


@every
def test_a_frame_cut_anywhere_is_refused(compressor: Compressor) -> None:
    packed = compressor.compress(bytes(range(256)) + b"cart" * 20)
    for end in range(len(packed)):
        with pytest.raises(DecodeError):
            compressor.decompress(packed[:end], MB)


@every
def test_a_wrong_byte_never_goes_unnoticed(compressor: Compressor) -> None:
    data = b"the quick brown horse " * 10
    packed = compressor.compress(data)
    for place in range(len(packed)):
        bent = packed[:place] + bytes([packed[place] ^ 0x10]) + packed[place + 1 :]
        try:
            # A few bits of a header say nothing about the content.
            assert compressor.decompress(bent, MB) == data
        except DecodeError:
            pass


@every
@pytest.mark.parametrize("more", [b"x", b"\x00" * 8], ids=["text", "zeros"])
def test_what_follows_the_frame_is_refused(compressor: Compressor, more: bytes) -> None:
    with pytest.raises(DecodeError):
        compressor.decompress(compressor.compress(b"data") + more, MB)


@every
def test_two_frames_in_a_row_are_refused(compressor: Compressor) -> None:
    with pytest.raises(DecodeError):
        compressor.decompress(compressor.compress(b"one") + compressor.compress(b"two"), MB)


@every
@settings(max_examples=60)
@given(noise=st.binary(max_size=200), headed=st.booleans())
def test_noise_is_refused(compressor: Compressor, noise: bytes, headed: bool) -> None:
    head = compressor.compress(b"x")[:5] if headed else b"no frame"
    with pytest.raises(DecodeError):
        compressor.decompress(head + noise, MB)


@every
def test_equal_data_gives_equal_bytes(compressor: Compressor) -> None:
    assert compressor.compress(b"cart" * 50) == compressor.compress(b"cart" * 50)


@every
def test_eight_threads_share_one_instance(compressor: Compressor) -> None:
    def work(number: int) -> bool:
        data = str(number).encode() * 5000
        return all(compressor.decompress(compressor.compress(data), len(data)) == data for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_gzip_is_everybodys_gzip() -> None:
    assert gzip.decompress(GZIP.compress(b"cart")) == b"cart"
    assert GZIP.decompress(gzip.compress(b"cart"), 10) == b"cart"


def test_brotli_is_everybodys_brotli_after_its_checksum() -> None:
    brotli = pytest.importorskip("brotli")
    packed = BROTLI.compress(b"cart")
    assert brotli.decompress(packed[4:]) == b"cart"
    assert struct.unpack("<I", packed[:4]) == (zlib.crc32(b"cart"),)


def test_a_brotli_stream_whose_checksum_is_of_something_else_is_refused() -> None:
    with pytest.raises(DecodeError, match="the checksum does not fit"):
        BROTLI.decompress(BROTLI.compress(b"one")[:4] + BROTLI.compress(b"two")[4:], MB)


def test_a_zstd_frame_that_lies_about_its_size_is_refused() -> None:
    packed = bytearray(ZSTD.compress(bytes(10 * MB)))
    # A frame of this size: magic (4), descriptor (1), window (1), then the content size in 4 bytes.
    assert struct.unpack_from("<I", packed, 6) == (10 * MB,)
    struct.pack_into("<I", packed, 6, 1000)
    with pytest.raises(DecodeError):
        ZSTD.decompress(bytes(packed), MB)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="the standard library reads frames of unknown size")
def test_a_zstd_frame_that_does_not_state_its_size_is_refused() -> None:
    zstandard = pytest.importorskip("zstandard")
    written = io.BytesIO()
    with zstandard.ZstdCompressor().stream_writer(written, closefd=False) as writer:
        writer.write(b"cart")
    with pytest.raises(DecodeError, match="does not state the size"):
        ZSTD.decompress(written.getvalue(), MB)


def test_without_brotli_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "brotli", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'dray\[brotli\]'"):
        Brotli()


def test_a_brotli_that_unpacks_whatever_size_comes_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Decompressor:
        def process(self, data: bytes) -> bytes:
            return data

    monkeypatch.setitem(sys.modules, "brotli", SimpleNamespace(Decompressor=Decompressor))
    with pytest.raises(ConfigurationError, match=r"1\.2 or newer"):
        Brotli()


def test_without_a_zstd_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'dray\[zstd\]'"):
        Zstd()
