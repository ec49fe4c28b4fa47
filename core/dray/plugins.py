"""The plugins of one app: resources looked up by name, hooks called one implementation at a time.

Nothing is imported or scanned before the first question is asked. Resources are imported when they are asked for.
"""

from __future__ import annotations

import importlib
import logging
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from .errors import PluginError, UnknownPlugin
from .plugin_loading import (
    KINDS,
    EntryPoint,
    Plugin,
    PluginInfo,
    adopt,
    hook_names,
    installed,
    load_all,
    new_manager,
)
from .settings import Settings
from .urls import mask, nearest

logger = logging.getLogger(__name__)


class _Call(NamedTuple):
    """One implementation of a hook, ready to be called."""

    plugin: Plugin
    function: Callable[..., Any]
    arguments: tuple[str, ...]


class Plugins:
    """What is plugged into one app. Thread-safe; the first question loads all plugins that the settings allow.

    A resource is looked up among what `register` was given, then among the built-in and installed plugins. Two of
    those with one name are an error that `plugin_choices` settles.

    A name that ends in "+" is a *family*: `register("db+", ...)` answers for `db+postgresql`, `db+mysql+pymysql` and
    every other name that begins so. What is registered under the very name asked for comes before a family, and a
    longer family before a shorter one.
    """

    def __init__(self, conf: Settings, entry_points: Callable[[], Iterable[EntryPoint]] = installed) -> None:
        #: How often observers of each plugin have raised, by the plugin's name.
        self.failures: Counter[str] = Counter()
        self._conf = conf
        self._entry_points = entry_points
        self._lock = threading.RLock()
        self._loading = False
        self._manager = new_manager()
        self._loaded: list[Plugin] | None = None
        self._registered: list[Plugin] = []
        # What the hooks and lookups below have found out; emptied when a plugin comes or goes.
        self._calls: dict[str, tuple[_Call, ...]] = {}
        self._found: dict[tuple[str, str], Any] = {}
        self._by_content_type: dict[tuple[str, str], Any] = {}
        #: What `configure` was called with: plugins registered later are called with it at once.
        self._configured: Mapping[str, Any] | None = None

    # Without packaging

    def register(self, plugin: Any, name: str | None = None) -> None:
        """Plug in a module or object with `@hookimpl` functions. Its resources win over all others of that name.

        Raises `PluginError` when it is not a sound plugin, or is plugged in already.
        """
        title = name or getattr(plugin, "__name__", None) or type(plugin).__name__
        with self._lock:
            plugins = self._all()
            if any(other.name == title and other.source == "registered" for other in plugins):
                raise PluginError(f"a plugin called {title!r} is registered already; give this one another name=")
            made = Plugin(name=title, distribution="", version="", source="registered")
            try:
                adopt(self._manager, made, plugin)
            except PluginError as error:
                raise PluginError(f"plugin {title} {error}") from error
            self._registered.append(made)
            self._forget()
            configured = self._configured
        # Plugins' own code runs outside the lock.
        for call in self._calls_of("configure") if configured is not None else ():
            if call.plugin is made:
                self._amend("configure", call, configured or {})

    def unregister(self, plugin: Any) -> None:
        """Unplug what was given to `register`: the object, or its name. Raises `PluginError` if it was not."""
        with self._lock:
            for made in self._registered:
                if made.module is plugin or (isinstance(plugin, str) and made.name == plugin):
                    self._manager.unregister(made.module)
                    self._registered.remove(made)
                    self._forget()
                    return
        raise PluginError(f"{plugin!r} was not given to register(), so it cannot be taken back")

    # Resources

    def find(self, kind: str, name: str) -> Any:
        """Return the class or object registered as `name`, importing it if need be.

        `kind` is a key of `KINDS`, such as "brokers". `name` may be spelt "distribution/name". Raises `UnknownPlugin`
        when nobody registers it or a family it is of, `PluginError` when two do or when it cannot be imported.
        """
        # Taken once: what is found now must not land in the dict of a later set of plugins.
        known = self._found
        found = known.get((kind, name))
        if found is None:
            plugin, registered_as = self._choose(kind, name)
            found = known[kind, name] = _imported(plugin, kind, registered_as)
        return found

    def knows(self, kind: str, name: str) -> bool:
        """Tell whether anybody answers for `name`. Imports nothing."""
        return bool(_match(name, self.names(kind)))

    def names(self, kind: str) -> list[str]:
        """Return the names registered for `kind`, sorted; families among them end in "+". Imports none of them."""
        return sorted({name for plugin in self._all() for name in plugin.targets.get(kind, ())})

    def by_content_type(self, kind: str, content_type: str) -> Any:
        """Return the class of `kind` whose `content_type` is this; those that cannot be imported are passed over.

        Raises `UnknownPlugin` when there is none.
        """
        cache = self._by_content_type
        if (kind, content_type) in cache:
            return cache[kind, content_type]
        passed_over = []
        for name in self.names(kind):
            try:
                candidate = self.find(kind, name)
            except PluginError as error:
                passed_over.append(str(error))
                continue
            if getattr(candidate, "content_type", None) == content_type:
                cache[kind, content_type] = candidate
                return candidate
        known = ", ".join(self.names(kind)) or "none"
        raise UnknownPlugin(
            " ".join([f"no {KINDS[kind]} for {content_type!r} is installed. Installed: {known}.", *passed_over])
        )

    # Behaviour

    def has(self, hook: str) -> bool:
        """Return whether any plugin implements `hook`. Cheap enough to ask for every message."""
        calls = self._calls.get(hook)
        return bool(self._calls_of(hook) if calls is None else calls)

    def observe(self, hook: str, **arguments: Any) -> Any:
        """Call every implementation of `hook`; one that raises is logged and counted, and stops nobody.

        Of a hook whose first result counts, return that result or None; the rest is then not called.
        """
        calls = self._calls_of(hook)
        if not calls:
            return None
        first_counts = getattr(self._manager.hook, hook).spec.opts.get("firstresult", False)
        for call in calls:
            try:
                result = call.function(*[arguments[name] for name in call.arguments])
            except Exception as error:
                self._count_failure(hook, call, error)
                continue
            if first_counts and result is not None:
                return result
        return None

    def amend(self, hook: str, **arguments: Any) -> list[Any]:
        """Call every implementation of `hook`, in the order of registration; return their results that are not None.

        Raises `PluginError` naming the plugin as soon as one raises.
        """
        calls = self._calls_of(hook)
        if hook == "configure":
            self._configured = arguments
        results = [self._amend(hook, call, arguments) for call in calls]
        return [result for result in results if result is not None]

    # For people

    def report(self) -> list[PluginInfo]:
        """Return every plugin there is - loaded, disabled or failed - with what it provides."""
        return [plugin.info(self._behaviour_of(plugin)) for plugin in self._all()]

    def _behaviour_of(self, plugin: Plugin) -> list[str]:
        if plugin.state != "loaded":
            return []
        return [name for name in hook_names(self._manager, plugin.module) if not name.startswith("register_")]

    # Inside

    def _all(self) -> list[Plugin]:
        """Return all plugins; load them if that has not been done."""
        if self._loaded is None:
            with self._lock:
                if self._loading:
                    raise PluginError("a plugin uses app.plugins while it is being loaded; do that in its hooks")
                if self._loaded is None:
                    self._loading = True
                    # A new manager each time: after an error under `strict` the next try starts from nothing.
                    self._manager = new_manager()
                    try:
                        self._loaded = load_all(self._manager, self._conf, self._entry_points)
                    finally:
                        self._loading = False
        return [*self._loaded, *self._registered]

    def _forget(self) -> None:
        self._calls = {}
        self._found = {}
        self._by_content_type = {}

    def _calls_of(self, hook: str) -> tuple[_Call, ...]:
        calls = self._calls.get(hook)
        if calls is None:
            with self._lock:
                owners = {id(plugin.module): plugin for plugin in self._all()}
                implementations = getattr(self._manager.hook, hook).get_hookimpls()
                # Sorting keeps the order of registration among equals.
                calls = self._calls[hook] = tuple(
                    _Call(owners[id(impl.plugin)], impl.function, tuple(impl.argnames))
                    for impl in sorted(implementations, key=lambda impl: (not impl.tryfirst, impl.trylast))
                )
        return calls

    def _amend(self, hook: str, call: _Call, arguments: Mapping[str, Any]) -> Any:
        try:
            return call.function(*[arguments[name] for name in call.arguments])
        except Exception as error:
            raise PluginError(
                f"plugin {call.plugin.title} failed in {hook}: {type(error).__name__}: {mask(str(error))}"
            ) from error

    def _count_failure(self, hook: str, call: _Call, error: Exception) -> None:
        with self._lock:
            self.failures[call.plugin.name] += 1
            times = self.failures[call.plugin.name]
        # The 1st, 2nd, 4th, 8th ... time: a plugin that fails on every message must not fill the log.
        if times & (times - 1) == 0:
            logger.error(
                "plugin %s failed in %s (failures so far: %d)\n%s",
                call.plugin.title,
                hook,
                times,
                # Not exc_info: what the exception says may hold a password.
                mask("".join(traceback.format_exception(error))),
                extra={"action": "plugin-failed"},
            )

    def _choose(self, kind: str, name: str) -> tuple[Plugin, str]:
        """Return the plugin that `name` is taken from, and the name it is registered under there."""
        plugins = [plugin for plugin in self._all() if plugin.state == "loaded"]
        match = _match(name, {own for plugin in plugins for own in plugin.targets.get(kind, ())})
        claimants = [plugin for plugin in plugins if match in plugin.targets.get(kind, ())]
        own = [plugin for plugin in claimants if plugin.source == "registered"]
        if own:
            return own[-1], match
        if "/" in name and not claimants:
            return self._spelt_out(kind, name, plugins, f"{KINDS[kind]} {name!r}")
        for asked in dict.fromkeys((name, match)):
            if (choice := self._conf.plugin_choices.get(f"{kind}.{asked}")) is not None:
                return self._spelt_out(kind, choice, plugins, f"plugin_choices[{kind + '.' + asked!r}] = {choice!r}")
        if len(claimants) > 1:
            raise PluginError(
                f"{len(claimants)} plugins register a {KINDS[kind]} {match!r}: "
                f"{', '.join(plugin.title for plugin in claimants)}; choose one in the settings, for example "
                f"plugin_choices = {{{kind + '.' + match!r}: {claimants[-1].distribution + '/' + match!r}}}"
            )
        if not claimants:
            raise UnknownPlugin(self._unknown(kind, name))
        return claimants[0], match

    def _spelt_out(self, kind: str, spelling: str, plugins: Iterable[Plugin], asked: str) -> tuple[Plugin, str]:
        owner, _, name = spelling.partition("/")
        for plugin in plugins:
            match = _match(name, plugin.targets.get(kind, ()))
            if match and plugin.answers_to(owner):
                return plugin, match
        known = [f"{p.distribution or p.name}/{own}" for p in plugins for own in p.targets.get(kind, ())]
        raise UnknownPlugin(
            f"{asked}: there is no such {KINDS[kind]}{nearest(spelling, known) or '.'} Installed: {', '.join(known)}."
        )

    def _unknown(self, kind: str, name: str) -> str:
        known = self.names(kind)
        # "komb+redis" is meant for the family "kombu+", whatever comes behind the plus.
        rest = name.partition("+")[2]
        meant = [family + rest if rest and family.endswith("+") else family for family in known]
        said = [f"no {KINDS[kind]} called {name!r} is installed{nearest(name, meant) or '.'}"]
        said.append(f"Installed: {', '.join(one + '...' if one.endswith('+') else one for one in known) or 'none'}.")
        said += [f"{hint}." for plugin in self._all() if (hint := _extra_hint(plugin, name))]
        absent = [f"{p.title}: {p.reason}" for p in self._all() if p.state != "loaded"]
        if absent:
            said.append(f"Not loaded: {'; '.join(absent)}.")
        return " ".join(said)


def _match(name: str, registered: Collection[str]) -> str:
    """Return the registered name that answers for `name`: itself, else its longest family, else ""."""
    if name in registered:
        return name
    families = [family for family in registered if family.endswith("+") and name.startswith(family)]
    return max(families, key=len, default="")


def _imported(plugin: Plugin, kind: str, name: str) -> Any:
    """Return what a plugin registered as `name`, imported if it was given as "module:Class"."""
    target = plugin.targets[kind][name]
    if not isinstance(target, str):
        return target
    path, _, attributes = target.partition(":")
    asked = f"{KINDS[kind]} {name!r} of plugin {plugin.title} cannot be used"
    try:
        found: Any = importlib.import_module(path)
        for part in attributes.split("."):
            found = getattr(found, part)
    except ImportError as error:
        hint = _extra_hint(plugin, name)
        missing = f"there is no module {error.name!r}" if isinstance(error, ModuleNotFoundError) else mask(str(error))
        raise PluginError(f"{asked}: {missing}{'; ' + hint if hint else ''}") from error
    except Exception as error:
        raise PluginError(f"{asked}: {type(error).__name__} in {target}: {mask(str(error))}") from error
    return found


def _extra_hint(plugin: Plugin, name: str) -> str:
    """Say what to install for `name`, if the plugin says so: `extras = {"nats": "nats"}` maps names to extras."""
    extras = getattr(plugin.module, "extras", {})
    extra = extras.get(_match(name, extras))
    return f"pip install '{plugin.distribution}[{extra}]'" if extra and plugin.distribution else ""
