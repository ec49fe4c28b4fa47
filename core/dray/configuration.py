"""Where settings come from: code, over the environment, over a file, over the defaults.

    code          Dray("shop", broker=...), app.conf.update(...), app.config_from_object(...)
    environment   DRAY_<SETTING>; for URLs also DRAY_BROKER_URL_FILE, DRAY_RESULT_BACKEND_FILE: a file that holds it
    file          the one DRAY_CONFIG names ("" for none), else the nearest from the working directory upwards:
                  dray.toml, or pyproject.toml with a table [tool.dray]; of two in one directory, dray.toml

An empty variable counts as not set, except for lists and tables, which it makes empty. Nothing is read before an
app's settings are first used.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import re
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import inspect

from .celery_settings import instead
from .errors import SettingError
from .setting_values import Setting
from .settings import Settings, hint, settings_table

logger = logging.getLogger(__name__)

#: Variables that begin with DRAY_ and are not settings.
OTHER_VARIABLES = frozenset({"DRAY_CONFIG", "DRAY_APP"})
#: Other spellings of a setting's variable.
ALIASES = {"disabled_plugins": "DRAY_DISABLE_PLUGINS"}
#: Kubernetes sets these for a service called "dray" or "dray-...".
_SERVICE_LINK = re.compile(r".*_(PORT|PORT_\d+_.*|SERVICE_HOST|SERVICE_PORT(_.*)?)")
#: How alike a name must be to a setting's to be taken for a misspelling of it.
_ALIKE = 0.75
#: An attribute whose name begins so was meant as a setting.
_FAMILIES = ("task_", "worker_", "result_", "broker_")


def gather(
    overrides: Mapping[str, Any], *, environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Settings:
    """Return the settings that all places together come to; raise `SettingError` naming the place of each mistake."""
    environ = os.environ if environ is None else environ
    settings = Settings()
    values, origin = read_file(environ, cwd or Path.cwd())
    settings.update(values, origin=origin)
    for variable, name, text in read_environment(environ):
        settings.update({name: text}, origin=f"{variable} (environment)")
    settings.update(overrides)
    return settings


# The environment


def read_environment(environ: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return what the environment sets, as (variable, setting, text).

    An unknown variable DRAY_... that is nearly a setting's, or that is one of Celery's settings, raises
    `SettingError`. Any other is logged as a warning: the environment is shared with other programs.
    """
    known = set(OTHER_VARIABLES)
    found = []
    for setting in settings_table().values():
        spellings = _spellings(setting)
        known.update(spellings)
        variable = next((spelling for spelling in spellings if _says(environ, spelling, setting)), None)
        if variable is not None:
            text = environ[variable]
            is_file = variable == f"{setting.environment}_FILE"
            found.append((variable, setting.name, _secret(variable, text) if is_file else text))
    for variable in sorted(environ):
        ours = variable.startswith("DRAY_") and not variable.startswith("DRAY_TEST_")
        if ours and variable not in known and not _SERVICE_LINK.fullmatch(variable):
            _complain(variable)
    return found


def _spellings(setting: Setting) -> list[str]:
    """Return the variables that set `setting`, the one that wins first."""
    if setting.form in ("url", "urls"):
        return [setting.environment, f"{setting.environment}_FILE"]
    return [setting.environment, *([ALIASES[setting.name]] if setting.name in ALIASES else [])]


def _says(environ: Mapping[str, str], variable: str, setting: Setting) -> bool:
    text = environ.get(variable)
    return text is not None and (bool(text.strip()) or isinstance(setting.shape, inspect.ListType | inspect.DictType))


def _secret(variable: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{variable} (environment): cannot read {path!r}: {error}") from None


def _complain(variable: str) -> None:
    name = variable.removeprefix("DRAY_").lower()
    if said := instead(name):
        raise SettingError(f"{variable} (environment): dray has no such setting: {said}.")
    if close := _alike(name):
        raise SettingError(f"{variable} (environment): there is no such variable; did you mean DRAY_{close.upper()}?")
    logger.warning("%s in the environment is not a setting of dray and has no effect", variable)


def _alike(name: str) -> str | None:
    close = difflib.get_close_matches(name, settings_table(), n=1, cutoff=_ALIKE)
    return close[0] if close else None


# The file


def read_file(environ: Mapping[str, str], cwd: Path) -> tuple[dict[str, Any], str]:
    """Return what the file says, as (settings by name, where that is); an empty dict where there is no file."""
    named = environ.get("DRAY_CONFIG")
    if named == "":
        return {}, "no file"
    if named is not None:
        path = cwd / named
        if not path.is_file():
            raise SettingError(f"DRAY_CONFIG (environment): there is no file {str(path)!r}")
        return _table_of(path) or {}, _title(path, named)
    for directory in (cwd, *cwd.parents):
        for name in ("dray.toml", "pyproject.toml"):
            path = directory / name
            if path.is_file() and (table := _table_of(path)) is not None:
                return table, _title(path, name)
    return {}, "no file"


def _title(path: Path, shown: str) -> str:
    return f"{shown} [tool.dray]" if path.name == "pyproject.toml" else shown


def _table_of(path: Path) -> dict[str, Any] | None:
    """Return the settings in a TOML file; None for a pyproject.toml that says nothing of dray."""
    import tomllib  # only where there is a file to read

    try:
        table: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingError(f"{str(path)!r} cannot be read: {error}") from None
    if path.name == "pyproject.toml":
        tool = table.get("tool", {})
        if "dray" not in tool:
            return None
        table = tool["dray"]
        if not isinstance(table, dict):
            raise SettingError(f"{str(path)!r}: tool.dray must be a table, [tool.dray]; it is {table!r}")
    return {name.replace("-", "_"): value for name, value in table.items()}


# Objects of Python


def read_object(source: Any, namespace: str | None = None) -> dict[str, Any]:
    """Return the settings that `source` carries, by name: what `app.config_from_object` hands to `conf.update`.

    `source` is a mapping, a module, a class, an instance (dataclass, pydantic-settings ...), or text that names one:
    "package.module", "package.module:attribute". Names may be in upper case. With a namespace such as "CELERY" only
    names that begin with CELERY_ are looked at, without that beginning.

    Raises `SettingError` for names that were meant as settings and are none. In a mapping, and under a namespace,
    that is every name; elsewhere those that are nearly a setting's name or begin like one (task_, worker_ ...).
    What else a module or object holds (functions, classes, imports, names with an underscore) is left alone.
    """
    if isinstance(source, str):
        source = _imported(source)
    prefix = f"{namespace.rstrip('_').lower()}_" if namespace else ""
    certain = bool(prefix) or isinstance(source, Mapping)
    found: dict[str, Any] = {}
    wrong: list[str] = []
    for name in _names_in(source):
        if not name.lower().startswith(prefix):
            continue
        plain = name.lower().removeprefix(prefix)
        if plain not in settings_table() and not certain and not _was_meant(plain):
            continue
        value = _value_of(source, name)
        if _is_code(value) and not (plain == "task_routes" and callable(value)):
            continue
        if plain in settings_table():
            found[plain] = value
        else:
            wrong.append(f"{_shown(source)}: {name!r} is not a setting{_namespace_hint(plain) or hint(plain)}")
    if wrong:
        raise SettingError("\n".join(wrong))
    return found


def _imported(path: str) -> Any:
    """Import "package.module", "package.module:attribute" or "package.module.attribute"."""
    module, colon, attribute = path.partition(":")
    try:
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if colon or error.name != module or "." not in module:
                raise
            module, _, attribute = module.rpartition(".")
            found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise SettingError(f"cannot take settings from {path!r}: there is no module {error.name!r}") from error
    for part in filter(None, attribute.split(".")):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise SettingError(f"cannot take settings from {path!r}: {module!r} has no {part!r}") from None
    return found


def _names_in(source: Any) -> Iterator[str]:
    if isinstance(source, Mapping):
        yield from (name for name in source if isinstance(name, str))
    elif hasattr(type(source), "model_fields"):
        # A pydantic model: its fields and the properties written for it, not what pydantic adds to every model.
        yield from type(source).model_fields
        for kind in type(source).__mro__:
            if not kind.__module__.startswith("pydantic"):
                yield from (name for name, value in vars(kind).items() if isinstance(value, property))
    else:
        yield from (name for name in dir(source) if not name.startswith("_"))


def _value_of(source: Any, name: str) -> Any:
    return source[name] if isinstance(source, Mapping) else getattr(source, name)


def _was_meant(name: str) -> bool:
    """Return whether an attribute with this unknown name was probably written as a setting."""
    return bool(name.startswith(_FAMILIES) or _namespace_hint(name) or instead(name) or _alike(name))


def _namespace_hint(name: str) -> str:
    prefix, _, rest = name.partition("_")
    return f"; say namespace={prefix.upper()!r}" if rest in settings_table() else ""


def _is_code(value: Any) -> bool:
    return isinstance(value, types.ModuleType | type) or (callable(value) and hasattr(value, "__name__"))


def _shown(source: Any) -> str:
    return getattr(source, "__name__", None) or type(source).__name__
