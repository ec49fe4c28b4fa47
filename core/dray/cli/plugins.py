"""`dray plugins`: what is plugged in and why something is not; and writing the skeleton of a new plugin."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..capabilities import resolve
from ..errors import DrayError
from ..plugin_loading import KINDS, PluginInfo
from .command import command, group, option
from .session import Session
from .tables import Cell, Styled, coloured, show_json, show_support, show_table

if TYPE_CHECKING:
    from ..app import Dray


@group(
    "plugins",
    invoke_without_command=True,
    examples=[
        ("dray plugins", "all of them, with what they provide"),
        (
            "dray plugins --json | jq '.plugins[] | select(.state != \"loaded\")'",
            "for scripts: what is left out, and why",
        ),
        ("dray plugins brokers", "compare what the installed brokers can do"),
        ("dray plugins new broker acme", "write a working broker plugin, with its test"),
    ],
)
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def plugins(ctx: click.Context, as_json: bool) -> None:
    """Show what is plugged in - brokers, serializers, hooks ... - and what is left out, and why.

    A plugin is an installed package with an entry point of the group `dray`. DRAY_PLUGINS names the only ones to
    load, DRAY_DISABLE_PLUGINS and --no-plugin those not to load.
    """
    if ctx.invoked_subcommand is not None:
        return
    session = ctx.find_object(Session)
    assert session is not None
    report = session.app.plugins.report()
    if as_json:
        show_json({"plugins": [_facts(plugin) for plugin in report]})
        return
    rows = [row for plugin in report for row in _rows(plugin, _claims(report))]
    with_reasons = any(row[-1] for row in rows)
    columns = ["kind", "name", "plugin", "distribution", "version", "state", "reason"]
    if not with_reasons:
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    show_table(columns, rows)


@command(
    "brokers",
    examples=[
        ("dray plugins brokers", "a feature per line, a broker per column"),
        ("dray --url sqlite:///shop.db plugins brokers", "connect to that one, and say what each answer means"),
    ],
)
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def brokers(session: Session, as_json: bool) -> None:
    """Compare what the installed brokers can do: native, emulated by dray, or refused.

    As they declare it. What a server's version, and a store beside it, decide is known once connected: with --url only
    that broker is shown, as it is.
    """
    if session.url is not None:
        _show_connected(session.app, as_json)
        return
    found, kinds, families = _declared(session.app)
    if as_json:
        show_json({"brokers": found})
        return
    features = dict.fromkeys(feature for table in found.values() for feature in table)
    tables = [found[names[0]] for names in kinds]
    show_table(
        ["feature", *(names[0] for names in kinds)],
        [[one, *(coloured(table[one]) for table in tables)] for one in features],
    )
    notes = [f"{name}: also {', '.join(others)}" for name, *others in kinds if others]
    notes += [f"{name}...: that depends on what follows; connect to one with --url" for name in families]
    for note in notes:
        click.echo(click.style(note, dim=True))


def _declared(app: Dray) -> tuple[dict[str, dict[str, str]], list[list[str]], list[str]]:
    """Return how each feature is had, by the broker's name; the names of each broker; and the families of brokers.

    Tells on stderr which brokers cannot be used.
    """
    found: dict[str, dict[str, str]] = {}
    kinds: dict[type, list[str]] = {}
    broken: dict[str, str] = {}
    families = []
    for name in app.plugins.names("brokers"):
        try:
            kind = app.plugins.find("brokers", name)
        except DrayError as error:
            # Several schemes of one broker lack the same driver.
            broken.setdefault(str(error).replace(repr(name), ""), f"{name}: {error}")
            continue
        if name.endswith("+"):
            families.append(name)
            continue
        found[name] = {row.feature: row.how for row in resolve(kind.capabilities)}
        kinds.setdefault(kind, []).append(name)
    for text in broken.values():
        click.echo(text, err=True)
    return found, sorted(_plainest_first(names) for names in kinds.values()), families


def _plainest_first(names: list[str]) -> list[str]:
    """Return schemes of one broker with the one in front that most of the others are made of."""
    plainest = max(names, key=lambda name: sum(other.startswith(name) for other in names))
    return [plainest, *(name for name in names if name != plainest)]


def _show_connected(app: Dray, as_json: bool) -> None:
    support = app.support()
    if as_json:
        show_json({"url": str(app.broker.url), "support": [row._asdict() for row in support]})
    else:
        show_support(support)


@group("new", examples=[("dray plugins new broker acme", "a package dray-acme, in a folder of its own")])
def new() -> None:
    """Write the skeleton of a plugin: it works, and its test passes, before you change a line."""


@command(
    "broker",
    examples=[
        ("dray plugins new broker acme", "./dray-acme, with a broker for acme:// URLs"),
        ("dray plugins new broker acme --dir ~/src", "somewhere else"),
    ],
)
@click.argument("name")
@option(
    "--dir",
    "directory",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("."),
    help="Where to put it.",
    default_text="here",
)
def broker(name: str, directory: Path) -> None:
    """Write a package dray-NAME with a broker for NAME:// URLs, and the conformance test that proves it."""
    from .scaffold import write_broker_plugin

    written = write_broker_plugin(name, directory)
    for path in written:
        click.echo(f"wrote {path}")
    folder = written[0].parent
    click.echo(f"\nNext:\n  pip install -e '{folder}[test]'\n  pytest {folder}\n  dray --url {name}:// doctor")


new.add_command(broker)
plugins.add_command(new)
plugins.add_command(brokers)


def _rows(plugin: PluginInfo, claims: Counter[tuple[str, str]]) -> list[list[Cell]]:
    tail: list[Cell] = [plugin.name, plugin.distribution, plugin.version, coloured(plugin.state)]
    provided = [(KINDS[kind], name) for kind, names in plugin.provides.items() for name in names]
    rows: list[list[Cell]] = []
    for kind, name in provided:
        clash = "another plugin provides it too: choose with plugin_choices" if claims[kind, name] > 1 else ""
        rows.append([kind, name, *tail, Styled(clash, "yellow") if clash else ""])
    rows += [["hook", hook, *tail, ""] for hook in plugin.hooks]
    return rows or [["plugin", plugin.name, *tail, plugin.reason or "it provides nothing"]]


def _claims(report: list[PluginInfo]) -> Counter[tuple[str, str]]:
    return Counter(
        (KINDS[kind], name) for plugin in report for kind, names in plugin.provides.items() for name in names
    )


def _facts(plugin: PluginInfo) -> dict[str, object]:
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "source": plugin.source,
        "state": plugin.state,
        "reason": plugin.reason,
        "provides": {kind: list(names) for kind, names in plugin.provides.items()},
        "hooks": list(plugin.hooks),
    }
