"""Contribute the built-in serializers, compressions and seals to dray."""

from __future__ import annotations

from collections.abc import Callable

from dray import hookimpl

dray_api = (1, 0)
extras = {"ed25519": "crypto", "aes-gcm": "crypto"}


@hookimpl
def register_serializers(register: Callable[[str, str], None]) -> None:
    register("json", "dray_serializers.json:JsonSerializer")
    register("msgpack", "dray_serializers.msgpack:MsgpackSerializer")
    register("pickle", "dray_serializers.pickle:PickleSerializer")
    register("yaml", "dray_serializers.yaml:YamlSerializer")


@hookimpl
def register_codecs(register: Callable[[str, str], None]) -> None:
    register("gzip", "dray_serializers.compression:Gzip")
    register("zstd", "dray_serializers.compression:Zstd")
    register("brotli", "dray_serializers.compression:Brotli")


@hookimpl
def register_seals(register: Callable[[str, str], None]) -> None:
    register("hmac", "dray_serializers.signing:Hmac")
    register("ed25519", "dray_serializers.ed25519:Ed25519")
    register("aes-gcm", "dray_serializers.encryption:AesGcm")
