"""Load plugins one by one, so that a broken one is a named warning and not the end of all the others.

    found -> allowed? -> imported -> built for this API? -> hooks spelt right? -> resources collected -> loaded

What stops a plugin on that way is kept as its state and reason, for `dray plugins`; with the setting `strict` it is
raised as `PluginError` instead.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Protocol

import msgspec
import pluggy

from . import __version__, hookspecs
from .errors import PluginError, SettingError
from .hookspecs import GROUP, PLUGIN_API
from .settings import Settings
from .urls import mask, nearest

logger = logging.getLogger("dray.plugins")

#: The kinds of resources, each with what one of them is called. The hook of a kind is `register_<kind>`.
KINDS: Mapping[str, str] = {
    "brokers": "broker",
    "backends": "result backend",
    "stores": "store",
    "serializers": "serializer",
    "codecs": "codec",
    "seals": "seal",
    "executors": "pool",
    "schedules": "kind of schedule",
    "commands": "command",
    "panels": "panel",
}
#: The modules that contribute what dray itself comes with, through the hooks that everybody uses.
BUILT_IN = (
    "dray_brokers.plugin",
    "dray_backends.plugin",
    "dray_serializers.plugin",
    "dray.executors.plugin",
    "dray.schedules",
)
#: The distribution that the built-in plugins belong to.
OWN = "dray"


class PluginInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One plugin as `dray plugins` shows it."""

    name: str
    #: The installed package it comes from, and its version; "" for what `app.plugins.register` was given.
    distribution: str
    version: str
    #: "built-in", "entry point" or "registered".
    source: str
    #: "loaded", "disabled", "failed" or "incompatible"; if not loaded, `reason` says why.
    state: str
    reason: str
    #: The names it registers, by kind ("brokers", "serializers" ...).
    provides: Mapping[str, Sequence[str]]
    #: The behaviour hooks it implements.
    hooks: Sequence[str]


class Plugin(msgspec.Struct, kw_only=True, eq=False):
    """One plugin while it is loaded, and after."""

    name: str
    distribution: str
    version: str
    source: str
    module: Any = None
    state: str = "loaded"
    reason: str = ""
    #: What it registered: kind -> name -> class, object or "module:Class".
    targets: dict[str, dict[str, Any]] = {}

    @property
    def title(self) -> str:
        """What it is called in messages: `name (distribution 1.0)`."""
        return f"{self.name} ({self.distribution} {self.version})" if self.distribution else self.name

    def answers_to(self, word: str) -> bool:
        """Return whether `word` is its name or its distribution."""
        return word == self.name or (bool(self.distribution) and canonical(word) == canonical(self.distribution))

    def info(self, hooks: Sequence[str]) -> PluginInfo:
        """Return what there is to show of it."""
        return PluginInfo(
            name=self.name,
            distribution=self.distribution,
            version=self.version,
            source=self.source,
            state=self.state,
            reason=self.reason,
            provides={kind: sorted(names) for kind, names in self.targets.items()},
            hooks=hooks,
        )


class EntryPoint(Protocol):
    """What is used of an `importlib.metadata.EntryPoint`."""

    @property
    def name(self) -> str: ...
    @property
    def dist(self) -> Any: ...
    def load(self) -> Any: ...


@cache
def installed() -> Sequence[EntryPoint]:
    """Return the entry points of the group `dray`. The scan takes milliseconds and is made once per process."""
    from importlib.metadata import entry_points  # not needed, and not cheap, where no plugin is looked for

    return tuple(sorted(entry_points(group=GROUP), key=lambda point: (canonical(_distribution(point)[0]), point.name)))


def canonical(distribution: str) -> str:
    """Return a distribution's name in the one spelling that package indexes compare by."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def new_manager() -> pluggy.PluginManager:
    """Return a manager that knows dray's hooks and no plugin."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    return manager


def load_all(
    manager: pluggy.PluginManager, conf: Settings, entry_points: Callable[[], Iterable[EntryPoint]]
) -> list[Plugin]:
    """Load the built-in plugins and those installed; return all of them, loaded or not.

    Raises `PluginError` for a broken built-in plugin always, and for any other with `conf.strict`.
    """
    plugins = []
    for path in BUILT_IN:
        plugin = Plugin(name=path.removesuffix(".plugin"), distribution=OWN, version=__version__, source="built-in")
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name is not None and path.startswith(error.name):
                continue  # left out by whoever packed this dray
            raise PluginError(f"plugin {plugin.title} cannot be imported: {error}") from error
        adopt(manager, plugin, module)
        plugins.append(plugin)
    plugins += [_load(manager, point, conf) for point in entry_points()]
    _check_wanted(conf, plugins)
    return plugins


def _load(manager: pluggy.PluginManager, point: EntryPoint, conf: Settings) -> Plugin:
    """Take one installed plugin the whole way, or to where it stops."""
    distribution, version = _distribution(point)
    plugin = Plugin(name=point.name, distribution=distribution, version=version, source="entry point")
    if reason := _barred(plugin, conf):
        plugin.state, plugin.reason = "disabled", reason
        return plugin
    try:
        try:
            module = point.load()
        # A plugin may raise anything while it is imported, sys.exit() included.
        except (Exception, SystemExit) as error:
            raise PluginError(f"cannot be imported: {type(error).__name__}: {mask(str(error))}") from error
        adopt(manager, plugin, module)
    except PluginError as error:
        if plugin.state == "loaded":
            plugin.state = "failed"
        plugin.reason = str(error)
        if conf.strict:
            raise PluginError(f"plugin {plugin.title} {error}") from error
        logger.warning("plugin %s is left out: it %s", plugin.title, error, extra={"action": "plugin-left-out"})
    return plugin


def adopt(manager: pluggy.PluginManager, plugin: Plugin, module: Any) -> None:
    """Check `module` and register its hooks and resources, all or none; `PluginError` says what it did wrong."""
    plugin.module = module
    _check_api(plugin, getattr(module, "dray_api", None))
    try:
        # The name is only pluggy's key; two distributions may well use one plugin name.
        if manager.register(module, f"{plugin.distribution}/{plugin.name}") is None:
            raise PluginError("is None, not a module or object with hooks")
    except (ValueError, pluggy.PluginValidationError) as error:
        # register() changes nothing when it refuses.
        raise PluginError(f"cannot be registered: {error}") from error
    try:
        _check_hooks(manager, module)
        plugin.targets = _collect(manager, module)
    except PluginError:
        manager.unregister(module)
        raise


def hook_names(manager: pluggy.PluginManager, module: Any) -> list[str]:
    """Return the names of the hooks that a registered plugin implements, sorted."""
    return sorted(caller.name for caller in manager.get_hookcallers(module) or ())


def _distribution(point: EntryPoint) -> tuple[str, str]:
    dist = point.dist
    return (dist.name, dist.version) if dist is not None else ("unknown", "")


def _barred(plugin: Plugin, conf: Settings) -> str:
    """Return why the settings keep a plugin out, or "" when they do not."""
    if any(word == "all" or plugin.answers_to(word) for word in conf.disabled_plugins):
        return f"named in disabled_plugins ({conf.origin('disabled_plugins')})"
    if conf.plugins is not None and not any(plugin.answers_to(word) for word in conf.plugins):
        return f"not named in plugins ({conf.origin('plugins')})"
    return ""


def _check_wanted(conf: Settings, plugins: Sequence[Plugin]) -> None:
    for word in conf.plugins or ():
        if not any(plugin.answers_to(word) for plugin in plugins):
            known = [plugin.name for plugin in plugins if plugin.source == "entry point"]
            said = f"plugins ({conf.origin('plugins')}) names {word!r}, and no such plugin is installed"
            if conf.strict:
                raise PluginError(f"{said}{nearest(word, known)}")
            logger.warning("%s%s", said, nearest(word, known), extra={"action": "plugin-missing"})
    for choice in conf.plugin_choices:
        kind = choice.partition(".")[0]
        if kind not in KINDS:
            raise SettingError(
                f"plugin_choices: {choice!r} begins with no kind of plugin{nearest(kind, KINDS) or '.'} "
                f"Kinds: {', '.join(KINDS)}."
            )


def _check_api(plugin: Plugin, api: Any) -> None:
    if api is None:
        return
    spoken = ".".join(map(str, PLUGIN_API))
    if not (isinstance(api, tuple | list) and len(api) == 2 and all(isinstance(part, int) for part in api)):
        plugin.state = "incompatible"
        raise PluginError(
            f"declares dray_api = {api!r}; it is written (major, minor), and this dray speaks {PLUGIN_API}"
        )
    if api[0] == PLUGIN_API[0] and api[1] <= PLUGIN_API[1]:
        return
    plugin.state = "incompatible"
    older = tuple(api) < PLUGIN_API
    raise PluginError(
        f"was built for plugin API {api[0]}.{api[1]}, and this dray ({__version__}) speaks {spoken}: "
        + (f"upgrade {plugin.distribution or plugin.name}" if older else "upgrade dray")
    )


def _check_hooks(manager: pluggy.PluginManager, module: Any) -> None:
    known = [caller.name for caller in vars(manager.hook).values() if getattr(caller, "spec", None)]
    for caller in manager.get_hookcallers(module) or ():
        for impl in caller.get_hookimpls():
            if impl.plugin is not module:
                continue
            if not caller.has_spec() and not impl.optionalhook:
                raise PluginError(f"implements a hook {caller.name!r} that does not exist{nearest(caller.name, known)}")
            if impl.wrapper or impl.hookwrapper:
                raise PluginError(
                    f"wraps the hook {caller.name!r}; hooks are called one by one: use middleware to wrap"
                )


def _collect(manager: pluggy.PluginManager, module: Any) -> dict[str, dict[str, Any]]:
    """Ask a plugin for its resources."""
    found: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        hook = f"register_{kind}"
        for impl in getattr(manager.hook, hook).get_hookimpls():
            if impl.plugin is not module:
                continue
            names: dict[str, Any] = {}
            try:
                impl.function(*[_register_into(names, hook)] * len(impl.argnames))
            except PluginError:
                raise
            except Exception as error:
                raise PluginError(f"failed in {hook}: {type(error).__name__}: {mask(str(error))}") from error
            if names:
                found[kind] = names
    return found


def _register_into(names: dict[str, Any], hook: str) -> hookspecs.Register:
    def register(name: str, target: Any) -> None:
        if not isinstance(name, str) or not name:
            raise PluginError(f"failed in {hook}: {name!r} is no name")
        if name in names:
            raise PluginError(f"failed in {hook}: it registers {name!r} twice")
        if isinstance(target, str) and not re.fullmatch(r"[\w.]+:[\w.]+", target):
            raise PluginError(f"failed in {hook}: the target of {name!r} is {target!r}; write 'package.module:Class'")
        names[name] = target

    return register
