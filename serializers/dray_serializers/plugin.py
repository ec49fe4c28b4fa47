"""Contribute the built-in serializers and compressions to dray."""

from __future__ import annotations

from collections.abc import Callable

from dray import hookimpl

dray_api = (1, 0)


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
