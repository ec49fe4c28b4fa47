"""Plugins: how they are found, left out, told apart and called."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dray import PluginError, SettingError, Settings, UnknownPlugin, __version__, hookimpl
from dray.hookspecs import PLUGIN_API
from dray.plugin_loading import KINDS, PluginInfo, installed
from dray.plugins import Plugins


class Dist(NamedTuple):
    name: str
    version: str = "1.0"


class Point:
    """An entry point that has not been loaded."""

    def __init__(self, name: str, load: Any, dist: str | None = None) -> None:
        self.name = name
        self.dist = Dist(dist or f"dray-{name}")
        self._load = load
        self.loaded = 0

    def load(self) -> Any:
        self.loaded += 1
        return self._load() if isinstance(self._load, types.FunctionType) else self._load


class Brokers:
    """A plugin that registers brokers, given as name -> target."""

    def __init__(self, **targets: Any) -> None:
        self.targets = targets

    @hookimpl
    def register_brokers(self, register: Callable[[str, Any], None]) -> None:
        for name, target in self.targets.items():
            register(name, target)


def plugins_of(*points: Point, **conf: Any) -> Plugins:
    return Plugins(Settings(**conf), lambda: points)


def info(plugins: Plugins, name: str) -> PluginInfo:
    return next(found for found in plugins.report() if found.name == name)


# Built in


@pytest.mark.parametrize(
    ("kind", "name"), [("brokers", "memory"), ("brokers", "sqlite"), ("backends", "memory"), ("serializers", "json")]
)
def test_what_dray_comes_with_is_contributed_through_the_same_hooks(kind: str, name: str) -> None:
    plugins = plugins_of()
    assert name in plugins.names(kind)
    assert info(plugins, f"dray_{kind}").source == "built-in"
    assert info(plugins, f"dray_{kind}").distribution == "dray"


def test_built_in_plugins_are_there_when_all_others_are_shut_out() -> None:
    plugins = plugins_of(Point("nats", Brokers(nats="x:Y")), plugins=[], disabled_plugins=["all"])
    assert "memory" in plugins.names("brokers")
    assert "nats" not in plugins.names("brokers")


def test_every_kind_has_its_hook() -> None:
    from dray import hookspecs

    hooks = {name.removeprefix("register_") for name in vars(hookspecs) if name.startswith("register_")}
    assert hooks == set(KINDS)


# When things are imported


def test_importing_the_module_scans_and_imports_no_plugins() -> None:
    code = (
        "import sys, dray.plugins; from dray.settings import Settings; dray.plugins.Plugins(Settings()); "
        "print([m for m in sys.modules if m == 'importlib.metadata' or m.startswith(('dray_', 'sqlite3'))])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "[]"


def test_nothing_is_loaded_before_the_first_question_and_nothing_twice() -> None:
    point = Point("nats", Brokers(nats="x:Y"))
    plugins = plugins_of(point)
    assert point.loaded == 0
    plugins.names("brokers")
    plugins.report()
    assert point.loaded == 1


def test_many_threads_asking_first_load_once() -> None:
    point = Point("nats", Brokers(nats="x:Y"))
    plugins = plugins_of(point)
    together = threading.Barrier(8)
    answers: list[list[str]] = []

    def ask() -> None:
        together.wait()
        answers.append(plugins.names("brokers"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert point.loaded == 1
    assert len(answers) == 8 and all("nats" in answer for answer in answers)


def test_a_target_is_imported_when_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lazy_target.py").write_text("from __future__ import annotations\n\n\nclass Broker: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins = plugins_of(Point("lazy", Brokers(lazy="lazy_target:Broker")))
    assert "lazy" in plugins.names("brokers")
    assert "lazy_target" not in sys.modules
    found = plugins.find("brokers", "lazy")
    assert found.__name__ == "Broker"
    assert plugins.find("brokers", "lazy") is found


def test_a_target_may_be_the_thing_itself() -> None:
    assert plugins_of(Point("nats", Brokers(nats=Dist))).find("brokers", "nats") is Dist


# Broken plugins stop themselves only


class Misspelt:
    @hookimpl
    def register_broker(self, register: Callable[[str, Any], None]) -> None: ...


class UnknownArgument:
    @hookimpl
    def event(self, event: object, extra: object) -> None: ...


class Wrapping:
    @hookimpl(wrapper=True)
    def event(self) -> Iterator[None]:
        yield


class Failing:
    @hookimpl
    def register_brokers(self, register: Callable[[str, Any], None]) -> None:
        register("half", "half:Half")
        raise KeyError("amqp://u:hunter2@mq")


class Future:
    dray_api = (PLUGIN_API[0], PLUGIN_API[1] + 1)


class Past:
    dray_api = (PLUGIN_API[0] - 1, 9)


class Scribble:
    dray_api = "1.0"


def cannot_import() -> Any:
    return importlib.import_module("no_such_driver")


def exits() -> Any:
    raise SystemExit("amqp://u:hunter2@mq")


BROKEN = {
    "import": (cannot_import, "failed", "cannot be imported: ModuleNotFoundError: No module named 'no_such_driver'"),
    "exit": (exits, "failed", "cannot be imported: SystemExit: amqp://u:***@mq"),
    "none": (None, "failed", "is None, not a module or object with hooks"),
    "misspelt": (
        Misspelt(),
        "failed",
        "a hook 'register_broker' that does not exist; did you mean 'register_brokers'?",
    ),
    "argument": (UnknownArgument(), "failed", "cannot be registered: "),
    "wrapping": (Wrapping(), "failed", "use middleware to wrap"),
    "failing": (Failing(), "failed", "failed in register_brokers: KeyError"),
    "target": (Brokers(x="no colon"), "failed", "write 'package.module:Class'"),
    "name": (Brokers(**{"": "a:B"}), "failed", "'' is no name"),
    "future": (
        Future(),
        "incompatible",
        f"was built for plugin API 1.1, and this dray ({__version__}) speaks 1.0: upgrade dray",
    ),
    "past": (
        Past(),
        "incompatible",
        f"was built for plugin API 0.9, and this dray ({__version__}) speaks 1.0: upgrade dray-past",
    ),
    "scribble": (Scribble(), "incompatible", "it is written (major, minor)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_a_named_warning_and_the_others_work(name: str, caplog: pytest.LogCaptureFixture) -> None:
    load, state, reason = BROKEN[name]
    plugins = plugins_of(Point(name, load), Point("nats", Brokers(nats=Dist)))
    with caplog.at_level(logging.WARNING):
        assert plugins.find("brokers", "nats") is Dist
    found = info(plugins, name)
    assert found.state == state
    assert reason in found.reason
    assert found.provides == {} and found.hooks == []
    assert [record.getMessage() for record in caplog.records] == [
        f"plugin {name} (dray-{name} 1.0) is left out: it {found.reason}"
    ]
    assert "hunter2" not in caplog.text
    assert not plugins.has("event")


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_an_error_when_strict(name: str) -> None:
    plugins = plugins_of(Point(name, BROKEN[name][0]), strict=True)
    for _ in range(2):  # the second question finds the same, not a half-loaded rest
        with pytest.raises(PluginError) as caught:
            plugins.names("brokers")
        assert f"plugin {name} (dray-{name} 1.0) " in str(caught.value)
        assert BROKEN[name][2] in str(caught.value)


def test_a_plugin_without_a_declared_api_is_taken() -> None:
    assert info(plugins_of(Point("nats", Brokers(nats=Dist))), "nats").state == "loaded"


def test_a_plugin_that_uses_the_app_while_it_is_loaded_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    def load() -> Any:
        plugins.names("brokers")

    plugins = plugins_of(Point("eager", load))
    with caplog.at_level(logging.WARNING):
        assert "memory" in plugins.names("brokers")
    assert "do that in its hooks" in info(plugins, "eager").reason


# Allowed and disabled


@pytest.mark.parametrize("word", ["nats", "dray-nats", "Dray_NATS", "all"])
def test_a_plugin_is_disabled_by_name_or_distribution(word: str) -> None:
    point = Point("nats", cannot_import)
    plugins = plugins_of(point, disabled_plugins=[word])
    assert info(plugins, "nats").state == "disabled"
    assert info(plugins, "nats").reason == "named in disabled_plugins (code)"
    assert point.loaded == 0


@pytest.mark.parametrize("word", ["nats", "dray-nats", "dray.nats"])
def test_an_allow_list_keeps_all_others_out(word: str) -> None:
    other = Point("other", cannot_import)
    plugins = plugins_of(Point("nats", Brokers(nats=Dist)), other, plugins=[word])
    assert info(plugins, "nats").state == "loaded"
    assert (info(plugins, "other").state, other.loaded) == ("disabled", 0)
    assert info(plugins, "other").reason == "not named in plugins (code)"


def test_the_deny_list_wins_over_the_allow_list() -> None:
    plugins = plugins_of(Point("nats", cannot_import), plugins=["nats"], disabled_plugins=["nats"])
    assert info(plugins, "nats").state == "disabled"


def test_a_wanted_plugin_that_is_not_installed_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        plugins_of(Point("nats", Brokers()), plugins=["nat"]).report()
    assert "plugins (code) names 'nat', and no such plugin is installed; did you mean 'nats'?" in caplog.text
    with pytest.raises(PluginError, match="no such plugin is installed"):
        plugins_of(plugins=["nats"], strict=True).report()


# Names: unknown ones, and ones claimed twice


def test_an_unknown_name_is_answered_with_what_there_is() -> None:
    plugins = plugins_of(Point("broken", cannot_import), disabled_plugins=["broken"])
    with pytest.raises(UnknownPlugin) as caught:
        plugins.find("brokers", "memori")
    said = str(caught.value)
    assert said.startswith("no broker called 'memori' is installed; did you mean 'memory'? Installed: ")
    assert {"kombu+...", "memory", "redis", "sqlite"} <= set(
        said.partition("Installed: ")[2].partition(".  ")[0].split(", ")
    )
    assert "Not loaded: broken (dray-broken 1.0): named in disabled_plugins (code)." in said


def test_an_unknown_name_is_answered_with_the_extra_that_has_it() -> None:
    plugin = Brokers()
    plugin.extras = {"nats": "jetstream"}  # type: ignore[attr-defined]
    with pytest.raises(UnknownPlugin, match=r"pip install 'dray-messaging\[jetstream\]'"):
        plugins_of(Point("nats", plugin, "dray-messaging")).find("brokers", "nats")


def test_a_missing_driver_is_named_with_the_extra_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_driver.py").write_text("from __future__ import annotations\n\nimport no_such_driver\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugin = Brokers(nats="needs_driver:Broker", other="needs_driver:Broker", wrong="json:NoSuchClass")
    plugin.extras = {"nats": "jetstream"}  # type: ignore[attr-defined]
    plugins = plugins_of(Point("nats", plugin))
    with pytest.raises(PluginError) as caught:
        plugins.find("brokers", "nats")
    assert str(caught.value) == (
        "broker 'nats' of plugin nats (dray-nats 1.0) cannot be used: there is no module 'no_such_driver'; "
        "pip install 'dray-nats[jetstream]'"
    )
    with pytest.raises(PluginError, match="there is no module 'no_such_driver'$"):
        plugins.find("brokers", "other")
    with pytest.raises(PluginError, match="AttributeError in json:NoSuchClass"):
        plugins.find("brokers", "wrong")


def two_claimants(**conf: Any) -> Plugins:
    return plugins_of(
        Point("nats", Brokers(nats="json:dumps"), "acme-nats"),
        Point("nats", Brokers(nats="json:loads", fast="json:load", memory="json:loads"), "zeta.nats"),
        **conf,
    )


def test_two_claimants_of_a_name_are_an_error_that_says_how_to_choose() -> None:
    with pytest.raises(PluginError) as caught:
        two_claimants().find("brokers", "nats")
    assert str(caught.value) == (
        "2 plugins register a broker 'nats': nats (acme-nats 1.0), nats (zeta.nats 1.0); choose one in the settings, "
        "for example plugin_choices = {'brokers.nats': 'zeta.nats/nats'}"
    )
    assert two_claimants().find("brokers", "fast").__name__ == "load"


@pytest.mark.parametrize(
    ("choice", "winner"), [("acme-nats/nats", "dumps"), ("Zeta_NATS/nats", "loads"), ("zeta.nats/fast", "load")]
)
def test_a_choice_in_the_settings_settles_it(choice: str, winner: str) -> None:
    found = two_claimants(plugin_choices={"brokers.nats": choice}).find("brokers", "nats")
    assert found.__name__ == winner


def test_a_built_in_name_is_never_taken_over_silently() -> None:
    with pytest.raises(PluginError, match=r"dray_brokers \(dray .*\), nats \(zeta.nats 1.0\)"):
        two_claimants().find("brokers", "memory")
    kept = two_claimants(plugin_choices={"brokers.memory": "dray/memory"}).find("brokers", "memory")
    assert kept.__name__ == "MemoryBroker"
    taken = two_claimants(plugin_choices={"brokers.memory": "zeta.nats/memory"}).find("brokers", "memory")
    assert taken.__name__ == "loads"


def test_a_name_may_be_spelt_out_where_it_is_used() -> None:
    assert two_claimants().find("brokers", "acme-nats/nats").__name__ == "dumps"


@pytest.mark.parametrize(
    ("choices", "error", "said"),
    [
        ({"brokers.nats": "acme/nats"}, UnknownPlugin, "did you mean 'acme-nats/nats'"),
        ({"brokers.nats": "acme-nats/fast"}, UnknownPlugin, "there is no such broker"),
        ({"broker.nats": "acme-nats/nats"}, SettingError, "did you mean 'brokers'"),
    ],
)
def test_a_choice_that_names_nobody_is_an_error(choices: dict[str, str], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        two_claimants(plugin_choices=choices).find("brokers", "nats")


# Families: a name that ends in "+" answers for all that begin so


def family(*points: Point, **conf: Any) -> Plugins:
    return plugins_of(
        Point("sql", Brokers(**{"db+": "json:dump", "db+fast+": "json:dumps", "db+exact": "json:load"}), "acme-sql"),
        *points,
        **conf,
    )


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("db+postgresql", "dump"),
        ("db+mysql+pymysql", "dump"),
        ("db+exact", "load"),
        ("db+exactly", "dump"),
        ("db+fast+any", "dumps"),
        ("db+fast", "dump"),
        ("db+", "dump"),
        ("acme-sql/db+postgresql", "dump"),
    ],
)
def test_the_name_itself_comes_first_then_the_longest_family(name: str, found: str) -> None:
    assert family().find("brokers", name).__name__ == found


def test_a_family_is_one_name_among_the_others() -> None:
    assert {"db+", "db+fast+", "db+exact"} <= set(family().names("brokers"))


@pytest.mark.parametrize("name", ["db", "dbx+postgresql", "xdb+postgresql"])
def test_what_does_not_begin_like_the_family_is_not_of_it(name: str) -> None:
    with pytest.raises(UnknownPlugin, match=f"no broker called '{name.replace('+', '[+]')}' is installed"):
        family().find("brokers", name)


def test_a_misspelt_family_is_answered_with_the_name_that_was_meant() -> None:
    with pytest.raises(UnknownPlugin) as caught:
        plugins_of(Point("sql", Brokers(**{"longname+": "json:dump"}))).find("brokers", "longnam+postgresql")
    assert "; did you mean 'longname+postgresql'? Installed: " in str(caught.value)
    assert "longname+..." in str(caught.value)


def test_an_app_may_answer_for_a_family_in_the_place_of_others() -> None:
    plugins = family()
    assert plugins.find("brokers", "db+postgresql").__name__ == "dump"
    plugins.register(Brokers(**{"db+": Dist}), name="mine")
    assert plugins.find("brokers", "db+postgresql") is Dist
    assert plugins.find("brokers", "db+exact").__name__ == "load"
    plugins.register(Brokers(**{"db+postgresql": Point}), name="mine too")
    assert plugins.find("brokers", "db+postgresql") is Point


def test_two_claimants_of_a_family_are_settled_for_all_of_it_or_for_one_name() -> None:
    rival = Point("rival", Brokers(**{"db+": "json:loads"}), "zeta-sql")
    with pytest.raises(PluginError, match=r"2 plugins register a broker 'db[+]': .*: 'zeta-sql/db[+]'}"):
        family(rival).find("brokers", "db+postgresql")
    whole = family(rival, plugin_choices={"brokers.db+": "zeta-sql/db+"})
    assert whole.find("brokers", "db+postgresql").__name__ == "loads"
    single = family(rival, plugin_choices={"brokers.db+": "zeta-sql/db+", "brokers.db+mysql": "acme-sql/db+mysql"})
    assert single.find("brokers", "db+mysql").__name__ == "dump"
    assert single.find("brokers", "db+postgresql").__name__ == "loads"


def test_a_missing_driver_of_a_family_is_named_with_the_extra_that_brings_it() -> None:
    plugin = Brokers(**{"db+": "no_such_driver:Broker"})
    plugin.extras = {"db+": "sqlalchemy", "nats+": "jetstream"}  # type: ignore[attr-defined]
    plugins = plugins_of(Point("sql", plugin))
    with pytest.raises(PluginError, match=r"pip install 'dray-sql\[sqlalchemy\]'"):
        plugins.find("brokers", "db+postgresql")
    with pytest.raises(UnknownPlugin, match=r"pip install 'dray-sql\[jetstream\]'"):
        plugins.find("brokers", "nats+tls")


def test_a_plugin_may_not_register_a_name_twice() -> None:
    class Twice:
        @hookimpl
        def register_stores(self, register: Callable[[str, Any], None]) -> None:
            register("a", Dist)
            register("a", Point)

    assert "it registers 'a' twice" in info(plugins_of_quietly(Point("twice", Twice())), "twice").reason


def plugins_of_quietly(*points: Point) -> Plugins:
    logging.getLogger("dray.plugins").addFilter(drop := lambda record: False)
    try:
        plugins = plugins_of(*points)
        plugins.report()
    finally:
        logging.getLogger("dray.plugins").removeFilter(drop)
    return plugins


# By content type


class Yaml:
    content_type = "application/yaml"


class Serializers:
    @hookimpl
    def register_serializers(self, register: Callable[[str, Any], None]) -> None:
        register("aaa", "no_such_driver:Serializer")
        register("yml", Yaml)


def test_a_serializer_is_found_by_its_content_type_past_those_that_cannot_be_imported() -> None:
    plugins = plugins_of()
    plugins.register(Serializers())
    assert plugins.by_content_type("serializers", "application/yaml") is Yaml
    assert plugins.by_content_type("serializers", "application/yaml") is Yaml
    with pytest.raises(UnknownPlugin) as caught:
        plugins.by_content_type("serializers", "text/nothing")
    assert "no serializer for 'text/nothing' is installed. Installed: aaa, " in str(caught.value)
    assert "there is no module 'no_such_driver'" in str(caught.value)


# Without packaging


def test_what_an_app_registers_wins_over_everything_and_can_be_taken_back() -> None:
    plugins = two_claimants(plugin_choices={"brokers.nats": "acme-nats/nats"})
    assert plugins.find("brokers", "nats").__name__ == "dumps"
    mine = Brokers(nats=Dist, memory=Point)
    plugins.register(mine, name="mine")
    assert plugins.find("brokers", "nats") is Dist
    assert plugins.find("brokers", "memory") is Point
    assert info(plugins, "mine").source == "registered"
    plugins.unregister("mine")
    assert plugins.find("brokers", "nats").__name__ == "dumps"
    with pytest.raises(PluginError, match="was not given to register"):
        plugins.unregister(mine)


def test_registering_nonsense_is_an_error_at_once() -> None:
    plugins = plugins_of()
    with pytest.raises(PluginError, match="plugin Misspelt implements a hook 'register_broker'"):
        plugins.register(Misspelt())
    with pytest.raises(PluginError, match="plugin Future was built for plugin API"):
        plugins.register(Future())
    plugins.register(Yaml(), name="a")
    with pytest.raises(PluginError, match="'a' is registered already"):
        plugins.register(Brokers(), name="a")


def test_a_module_made_on_the_spot_can_be_registered() -> None:
    module = types.ModuleType("spot")
    module.__dict__["event"] = hookimpl(lambda event: None)
    plugins = plugins_of()
    plugins.register(module)
    assert info(plugins, "spot").hooks == ["event"]


# Behaviour


class Listener:
    def __init__(self, error: Exception | None = None) -> None:
        self.heard: list[Any] = []
        self.error = error

    @hookimpl
    def event(self, event: Any) -> None:
        self.heard.append(event)
        if self.error is not None:
            raise self.error


def test_has_follows_what_is_plugged_in() -> None:
    plugins = plugins_of()
    assert not plugins.has("event")
    listener = Listener()
    plugins.register(listener)
    assert plugins.has("event")
    plugins.unregister(listener)
    assert not plugins.has("event")


def test_an_observer_that_raises_is_logged_counted_and_named_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    bad, good = Listener(ValueError("amqp://u:hunter2@mq")), Listener()
    plugins = plugins_of(Point("bad", bad), Point("good", good))
    with caplog.at_level(logging.ERROR):
        for number in range(5):
            plugins.observe("event", event=number)
    assert bad.heard == good.heard == [0, 1, 2, 3, 4]
    assert plugins.failures == {"bad": 5}
    first = caplog.records[0].getMessage()
    assert first.startswith("plugin bad (dray-bad 1.0) failed in event (failures so far: 1)")
    assert "ValueError: amqp://u:***@mq" in first and "in event" in first
    assert [record.args[2] for record in caplog.records if isinstance(record.args, tuple)] == [1, 2, 4]


def test_an_implementation_may_take_fewer_arguments_than_the_hook_has() -> None:
    class Short:
        calls = 0

        @hookimpl
        def event(self) -> None:
            self.calls += 1

    short = Short()
    plugins = plugins_of()
    plugins.register(short)
    plugins.observe("event", event=object())
    assert short.calls == 1


class Opinion:
    def __init__(self, opinion: str | None) -> None:
        self.opinion = opinion
        self.asked = 0

    @hookimpl
    def classify_error(self, error: BaseException) -> str | None:
        self.asked += 1
        if self.opinion == "raise":
            raise error
        return self.opinion


def test_the_first_opinion_on_an_error_counts(caplog: pytest.LogCaptureFixture) -> None:
    none, broken, drop, late = Opinion(None), Opinion("raise"), Opinion("drop"), Opinion("fail")
    plugins = plugins_of(*[Point(f"p{n}", plugin) for n, plugin in enumerate([none, broken, drop, late])])
    with caplog.at_level(logging.CRITICAL):
        assert plugins.observe("classify_error", error=KeyError("x")) == "drop"
    assert (none.asked, broken.asked, drop.asked, late.asked) == (1, 1, 1, 0)
    assert plugins_of().observe("classify_error", error=KeyError("x")) is None


class Amender:
    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.configured: list[Any] = []

    @hookimpl
    def middleware(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    @hookimpl
    def configure(self, app: Any) -> None:
        self.configured.append(app)


class FirstAmender(Amender):
    @hookimpl(tryfirst=True)
    def middleware(self) -> Any:
        return self.answer


def test_amenders_are_called_in_the_order_of_registration_unless_they_ask_to_be_first() -> None:
    plugins = plugins_of(Point("a", Amender([1])), Point("b", Amender()), Point("c", FirstAmender([2])))
    plugins.register(Amender([3]), "d")
    assert plugins.amend("middleware", app=None) == [[2], [1], [3]]


def test_an_amender_that_raises_fails_loudly_and_by_name() -> None:
    plugins = plugins_of(Point("bad", Amender(ValueError("no"))))
    with pytest.raises(
        PluginError, match=r"plugin bad \(dray-bad 1.0\) failed in middleware: ValueError: no"
    ) as caught:
        plugins.amend("middleware", app=None)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_plugin_registered_late_is_still_told_to_configure_the_app() -> None:
    early, late = Amender(), Amender()
    plugins = plugins_of(Point("early", early))
    plugins.amend("configure", app="the app")
    plugins.register(late)
    assert early.configured == late.configured == ["the app"]


# Real entry points


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return a function that installs a distribution with one plugin, as pip would leave it."""

    def install(dist: str, name: str, source: str, version: str = "2.3") -> None:
        module = f"{dist.replace('-', '_')}_plugin"
        (tmp_path / f"{module}.py").write_text(f"from __future__ import annotations\n\nimport dray\n{source}")
        meta = tmp_path / f"{dist.replace('-', '_')}-{version}.dist-info"
        meta.mkdir()
        (meta / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n")
        (meta / "entry_points.txt").write_text(f"[dray]\n{name} = {module}\n")

    monkeypatch.syspath_prepend(tmp_path)
    installed.cache_clear()
    yield install
    installed.cache_clear()


REGISTERS = "\n@dray.hookimpl\ndef register_brokers(register):\n    register('{0}', 'json:dumps')\n"


def test_installed_plugins_are_found_through_their_entry_points(
    site: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    site("acme-nats", "nats", "dray_api = (1, 0)\n" + REGISTERS.format("nats"))
    site("acme-broken", "broken", "import no_such_driver\n")
    site("acme-old", "old", "dray_api = (0, 1)\n")
    site("acme-typo", "typo", REGISTERS.format("x").replace("register_brokers", "register_brokrs"))
    site("acme-rival", "rival", REGISTERS.format("nats"))
    site("acme-blocked", "blocked", "raise RuntimeError('never imported')\n")
    with caplog.at_level(logging.WARNING):
        plugins = Plugins(Settings(disabled_plugins=["acme-blocked"]))
        found = {one.name: one for one in plugins.report() if one.distribution.startswith("acme-")}
    assert {name: one.state for name, one in found.items()} == {
        "nats": "loaded",
        "broken": "failed",
        "old": "incompatible",
        "typo": "failed",
        "rival": "loaded",
        "blocked": "disabled",
    }
    assert (found["nats"].distribution, found["nats"].version) == ("acme-nats", "2.3")
    assert found["nats"].provides == {"brokers": ["nats"]}
    assert len(caplog.records) == 3
    with pytest.raises(PluginError, match=r"nats \(acme-nats 2.3\), rival \(acme-rival 2.3\)"):
        plugins.find("brokers", "nats")


def test_the_installed_distributions_are_scanned_once_per_process(
    site: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.metadata

    scans = []
    real = importlib.metadata.entry_points
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **by: scans.append(by) or real(**by))
    Plugins(Settings()).report()
    Plugins(Settings()).report()
    assert scans == [{"group": "dray"}]
