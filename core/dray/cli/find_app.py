"""Find the app that `-A` names: `shop.tasks`, `shop.tasks:queue`, `shop` with its app in shop/app.py."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from ..app import Dray
from ..errors import ConfigurationError, DrayError
from ..urls import mask, nearest

#: How many names an error lists.
SHOWN = 8


def find_app(place: str) -> Dray:
    """Return the app at `place`, MODULE or MODULE:ATTRIBUTE; `ConfigurationError` says what is there instead.

    Without an attribute it is the module's `app`, else the only app in the module, else the same in MODULE.app.
    """
    path, colon, attribute = place.partition(":")
    path = path.strip()
    if not path or path.startswith(".") or "/" in path or path.endswith(".py"):
        raise ConfigurationError(_not_a_module(place, path))
    if not colon and "." in path and not _exists(path):
        # "shop.queue" may well mean the attribute `queue` of `shop`.
        parent, _, name = path.rpartition(".")
        if _exists(parent) and isinstance(found := getattr(import_module(parent), name, None), Dray):
            return found
    module = import_module(path)
    return _named(module, attribute.strip()) if colon else _only(module)


def import_module(path: str) -> ModuleType:
    """Import a module; `ConfigurationError` tells a module that is not there from one that fails, and where."""
    if not _exists(path):
        raise ConfigurationError(_missing(path))
    with importing(repr(path)):
        return importlib.import_module(path)


@contextmanager
def importing(what: str) -> Iterator[None]:
    """Turn what the user's modules raise while they are imported into a `ConfigurationError` with its place."""
    try:
        yield
    except DrayError as error:
        raise ConfigurationError(f"importing {what} fails at {_place(error)}: {error}") from error
    except (Exception, SystemExit) as error:
        said = traceback.format_exception_only(error)[-1].strip()
        raise ConfigurationError(f"importing {what} fails at {_place(error)}: {mask(said)}") from error


def apps_in(module: ModuleType) -> Mapping[str, Dray]:
    """Return the apps that are attributes of a module, by name; an app with two names under the first."""
    found: dict[str, Dray] = {}
    for name, value in vars(module).items():
        if isinstance(value, Dray) and value not in found.values():
            found[name] = value
    return found


def _named(module: ModuleType, attribute: str) -> Dray:
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(f"{module.__name__!r} has no {attribute!r}. {_what_is_there(module, attribute)}")
        found = getattr(found, part)
    if isinstance(found, Dray):
        return found
    raise ConfigurationError(
        f"{module.__name__}:{attribute} is not an app, it is {_kind(found)}. {_what_is_there(module, attribute)}"
    )


def _only(module: ModuleType) -> Dray:
    plain = getattr(module, "app", None)
    if isinstance(plain, Dray):
        return plain
    apps = apps_in(module)
    if len(apps) == 1:
        return next(iter(apps.values()))
    if not apps and hasattr(module, "__path__") and _exists(inner := f"{module.__name__}.app"):
        return _only(import_module(inner))
    raise ConfigurationError(f"which app of {module.__name__!r}? {_what_is_there(module, '')}")


def _exists(path: str) -> bool:
    """Return whether there is a module; its parents are imported for that, and what they raise is told."""
    if path in sys.modules:
        return True
    parent = path.rpartition(".")[0]
    if parent:
        if not _exists(parent):
            return False
        if not hasattr(import_module(parent), "__path__"):
            return False
    try:
        return find_spec(path) is not None
    except (ValueError, ImportError):
        return False


def _what_is_there(module: ModuleType, wanted: str) -> str:
    apps = apps_in(module)
    name = module.__name__
    if apps:
        choices = ", ".join(f"{name}:{app}" for app in apps)
        return f"Its apps: {choices}{nearest(wanted, apps) if wanted else '; say which one'}"
    public = [
        key for key, value in vars(module).items() if not key.startswith("_") and not isinstance(value, ModuleType)
    ]
    inside = [f"{name}.{info.name}" for info in pkgutil.iter_modules(getattr(module, "__path__", ()))]
    what = f"modules {_listed(inside)}" if inside else _listed(public) or "nothing"
    return f"No app is in it; what is: {what}. An app is made with `app = Dray({name.split('.')[0]!r})`."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")


def _kind(value: Any) -> str:
    return f"the module {value.__name__!r}" if isinstance(value, ModuleType) else f"a {type(value).__name__}"


def _not_a_module(place: str, path: str) -> str:
    said = f"-A takes a module, such as shop.tasks or shop.tasks:app; got {place!r}"
    dotted = path.removesuffix(".py").strip("./").replace("/", ".")
    return f"{said}; did you mean {dotted!r}?" if dotted and dotted != path else said


def _missing(path: str) -> str:
    """Say how far a path leads, and what is there."""
    parent, _, name = path.rpartition(".")
    while parent and not _exists(parent):
        parent, _, name = parent.rpartition(".")
    if parent:
        package = importlib.import_module(parent)
        if not hasattr(package, "__path__"):
            apps = apps_in(package)
            hint = f"; did you mean '{parent}:{next(iter(apps))}'?" if apps else "."
            return f"no module {path!r}: {parent!r} is a module and not a package{hint}"
        inside = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
        return (
            f"no module {path!r}. In the package {parent!r} are: {', '.join(inside) or 'none'}{nearest(name, inside)}"
        )
    here = sorted(info.name for info in pkgutil.iter_modules([os.getcwd()]))
    there = _listed(here) or "none"
    return (
        f"no module {path!r}{nearest(name, here) or '.'} Looked in {os.getcwd()} (modules there: {there}) "
        "and in what is installed; --workdir DIR looks elsewhere."
    )


def _place(error: BaseException) -> str:
    """Return file and line of what was raised: in the user's code, not in the machinery of imports or in dray."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}:{error.lineno}"
    frames = [
        (frame.filename, frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<frozen", _DRAY))
        and os.path.basename(os.path.dirname(frame.filename)) != "importlib"
    ]
    return f"{_short(frames[-1][0])}:{frames[-1][1]}" if frames else "an unknown place"


def _short(path: str) -> str:
    inside = os.path.relpath(path)
    return path if inside.startswith("..") else inside


_DRAY = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
