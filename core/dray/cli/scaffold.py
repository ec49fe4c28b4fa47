"""Write the skeleton of a plugin: a package that works, with the test that proves it."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from string import Template

from ..errors import ConfigurationError

#: What a plugin may be called: it becomes a URL scheme, a distribution and a module.
_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
#: Names whose module would hide one of dray's own packages.
_TAKEN = frozenset({"brokers", "backends", "serializers"})


def write_broker_plugin(name: str, directory: Path) -> list[Path]:
    """Write a package `dray-NAME` with a broker `NAME://` into `directory`; return the files written.

    The broker works, in memory, and its test - the conformance kit - passes as it is. Raises `ConfigurationError`
    for a name that cannot be one, or when `directory` holds a `dray-NAME` already.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} cannot be the name of a broker: it becomes a URL scheme and a module, so write small letters, "
            "digits and single hyphens, a letter first, such as 'nats' or 'acme-mq'"
        )
    scheme = name.replace("_", "-")
    if scheme in _TAKEN:
        raise ConfigurationError(f"{name!r} cannot be the name of a broker: dray_{name} is a package of dray itself")
    words = scheme.split("-")
    camel = "".join(word.capitalize() for word in words)
    fields = {
        "scheme": scheme,
        "dist": f"dray-{scheme}",
        "module": f"dray_{'_'.join(words)}",
        "broker": f"{camel}Broker",
        "consumer": f"{camel}Consumer",
    }
    folder = directory / fields["dist"]
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise ConfigurationError(f"{str(folder)!r} is there already, and is left as it is") from None
    except OSError as error:
        raise ConfigurationError(f"{str(folder)!r} cannot be made: {error.strerror}") from error
    return [
        _write(folder / target, template, fields)
        for target, template in [
            ("pyproject.toml", "pyproject.toml.txt"),
            (f"{fields['module']}.py", "broker.py.txt"),
            (f"test_{fields['module']}.py", "test_broker.py.txt"),
            ("README.md", "README.md.txt"),
        ]
    ]


def _write(path: Path, template: str, fields: dict[str, str]) -> Path:
    text = (files("dray.cli") / "templates" / "plugin" / template).read_text(encoding="utf-8")
    path.write_text(Template(text).substitute(fields), encoding="utf-8")
    return path
