"""One run of `dray`: what the options shared by all commands say, and the app they lead to."""

from __future__ import annotations

import os
import sys
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from ..app import Dray
    from ..plugin_loading import PluginInfo

#: What a command says that cannot do without -A.
NEEDS_APP = (
    "which app? Name its module: `dray -A shop.tasks {command}`, or set DRAY_APP. "
    "`shop.tasks:queue` takes the attribute `queue` of it."
)


class Session:
    """Handed to every command, those of plugins included, as click's `ctx.obj`: `@click.pass_obj`."""

    def __init__(self) -> None:
        #: What -A says; None: DRAY_APP.
        self.place: str | None = None
        self.url: str | None = None
        self.no_plugins: tuple[str, ...] = ()
        #: The directory in which the command was given; --workdir leads elsewhere.
        self.started_in = os.getcwd()

    def remember(self, option: str, value: Any) -> None:
        """Take what one of the shared options says."""
        if option == "workdir":
            self._go_to(value)
        elif option == "no_plugins":
            self.no_plugins += value
        else:
            setattr(self, option, value)

    @property
    def app_place(self) -> str:
        """Where the app is, as -A or DRAY_APP says; "" when neither does."""
        return (os.environ.get("DRAY_APP", "") if self.place is None else self.place).strip()

    @cached_property
    def app(self) -> Dray:
        """The app that -A names, or one without tasks that is configured by the environment and files alone.

        It is closed when the command ends. Raises `ConfigurationError` for an app that cannot be found.
        """
        if self.app_place:
            from .find_app import find_app

            _importable_from_here()
            app = find_app(self.app_place)
        else:
            from ..app import Dray

            app = Dray("dray", set_as_current=False)
        if self.url is not None:
            app.conf.update({"broker_url": self.url}, origin="--url")
        if self.no_plugins:
            self._leave_out(app)
        click.get_current_context().find_root().call_on_close(app.close)
        return app

    def app_with_tasks(self) -> Dray:
        """Return the app, with all the modules imported that it names, if -A names one."""
        app = self.app
        if self.app_place:
            from .find_app import importing

            _importable_from_here()
            with importing("the modules of the app's tasks"):
                app.load_tasks()
        return app

    def named_app(self, command: str) -> Dray:
        """Return the app that -A names, its tasks imported; raise `ConfigurationError` when it names none."""
        if not self.app_place:
            raise ConfigurationError(NEEDS_APP.format(command=command))
        return self.app_with_tasks()

    def _leave_out(self, app: Dray) -> None:
        conf = app.conf
        conf.update({"disabled_plugins": [*conf.disabled_plugins, *self.no_plugins]}, origin="--no-plugin")
        report = app.plugins.report()
        for name in self.no_plugins:
            if name == "all":
                named = [plugin for plugin in report if plugin.source == "entry point"]
            else:
                named = [plugin for plugin in report if name in (plugin.name, plugin.distribution)]
                _check_named(name, named, report)
            if any(plugin.source == "entry point" and plugin.state == "loaded" for plugin in named):
                raise ConfigurationError(
                    f"--no-plugin {name} comes too late: {self.app_place} uses its plugins while it is imported. "
                    f"Set DRAY_DISABLE_PLUGINS={name} instead."
                )

    def _go_to(self, directory: str) -> None:
        # Where we were is where whoever runs commands inside a process of their own expects to be afterwards.
        click.get_current_context().find_root().call_on_close(partial(os.chdir, os.getcwd()))
        os.chdir(directory)


def _check_named(name: str, named: list[PluginInfo], report: list[PluginInfo]) -> None:
    from ..urls import nearest

    installed = sorted({plugin.name for plugin in report if plugin.source == "entry point"})
    if not named:
        raise ConfigurationError(
            f"--no-plugin {name}: no such plugin is installed{nearest(name, installed) or '.'} "
            f"Installed: {', '.join(installed) or 'none'}."
        )
    if all(plugin.source == "built-in" for plugin in named):
        raise ConfigurationError(f"--no-plugin {name}: it is part of dray and cannot be left out")


def _importable_from_here() -> None:
    """Have modules of the working directory found, as `python -m` does; a console script does not do that."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
