"""The built-in serializers against the contract."""

from __future__ import annotations

from dray.testing import SerializerContract
from dray_serializers.json import JsonSerializer
from dray_serializers.msgpack import MsgpackSerializer
from dray_serializers.pickle import PickleSerializer
from dray_serializers.yaml import YamlSerializer


class TestJsonSerializer(SerializerContract):
    depth_bomb = b"[" * 100_000

    def make_serializer(self) -> JsonSerializer:
        return JsonSerializer()


class TestMsgpackSerializer(SerializerContract):
    keeps_bytes = True
    depth_bomb = b"\x91" * 100_000

    def make_serializer(self) -> MsgpackSerializer:
        return MsgpackSerializer()


class TestPickleSerializer(SerializerContract):
    keeps_bytes = True

    def make_serializer(self) -> PickleSerializer:
        return PickleSerializer()


class TestYamlSerializer(SerializerContract):
    keeps_bytes = True
    depth_bomb = b"[" * 100_000

    def make_serializer(self) -> YamlSerializer:
        return YamlSerializer()
