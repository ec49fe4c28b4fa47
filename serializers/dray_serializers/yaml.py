"""YAML, for payloads that people read and write by hand. Needs `pip install 'dray[yaml]'`.

Takes the types that json takes and reads them back the same way, by annotation; bytes, NaN, integers of any size and
keys other than text come back without one. Only plain tags are read, so reading runs no code. Aliases (`*name`) are
neither written nor read: a few lines of them can stand for a value that fills the memory.

PyYAML's Python code is used and not its C code, whose recursion is not guarded: this is the slowest serializer here.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import msgspec

from dray import ConfigurationError, DecodeError, Serializer

from .conversion import convert, plain
from .refusal import refusal


class YamlSerializer(Serializer):
    """Writes and reads YAML. The module's docstring says what becomes of each type."""

    name = "yaml"
    content_type = "application/x-yaml"

    def __init__(self) -> None:
        try:
            import yaml
        except ImportError:
            raise ConfigurationError(
                "the yaml serializer needs PyYAML, which is not installed: pip install 'dray[yaml]'"
            ) from None
        self._yaml = yaml
        self._dumper, self._loader = _dialect()

    def dumps(self, value: Any) -> bytes:
        try:
            return self._write(value)
        except Exception as error:
            raise refusal(self.name, value, self._write) from error

    def loads(self, data: bytes | memoryview, type: Any = None) -> Any:
        try:
            value = self._yaml.load(bytes(data).decode(), self._loader)
        except RecursionError:
            raise DecodeError("not readable as YAML: nested too deeply") from None
        except Exception as error:
            raise DecodeError(f"not readable as YAML: {' '.join(str(error).split())}") from None
        return value if type is None else convert(value, type, text_keys=False)

    def convert(self, value: Any, type: Any) -> Any:
        return convert(value, type, text_keys=False)

    def _write(self, value: Any) -> bytes:
        tree = msgspec.to_builtins(value, builtin_types=(bytes,), enc_hook=plain)
        text: str = self._yaml.dump(tree, Dumper=self._dumper, allow_unicode=True, sort_keys=False)
        return text.encode()


#: Line ends and marks that PyYAML gets wrong in text it shows as it is.
_FRAGILE = re.compile("[\x85\u2028\u2029\ufeff]")


@cache
def _dialect() -> tuple[Any, Any]:
    """Return PyYAML's safe dumper and loader, both without aliases."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

        def represent_text(self, text: str) -> Any:
            style = '"' if _FRAGILE.search(text) else None
            return self.represent_scalar("tag:yaml.org,2002:str", text, style)

    Dumper.add_representer(str, Dumper.represent_text)

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases are not read, and there is one")
            return super().compose_node(parent, index)

    return Dumper, Loader
