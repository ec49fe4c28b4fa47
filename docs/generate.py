"""Write the pages of the documentation that are made from the code: `python docs/generate.py [--check]`.

With `--check` nothing is written; the exit code is 1 when a page is not what the code says.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

from dray.settings import Row, describe

HERE = Path(__file__).parent

SETTINGS_HEAD = """\
# Settings

This page is generated from the table of settings in `core/dray/settings.py`.

A setting's value comes from the first of these places that has one:

1. code: `Dray("shop", broker=...)`, `app.conf.update(task_acks_late=False)`, `app.conf.timezone = "Europe/Athens"`,
   `app.config_from_object("shop.config")`
2. the environment: `DRAY_` and the setting's name in upper case, such as `DRAY_TIMEZONE`. An empty variable counts as
   not set, but makes a list or table empty. `DRAY_BROKER_URL_FILE` and `DRAY_RESULT_BACKEND_FILE` name a file that
   holds the URL. `DRAY_DISABLE_PLUGINS` is another spelling of `DRAY_DISABLED_PLUGINS`.
3. a file: the one that `DRAY_CONFIG` names (empty: none), else the nearest from the working directory upwards, of
   `dray.toml` and a `pyproject.toml` with a table `[tool.dray]`. Of two in one directory it is `dray.toml`.
4. the default.

`dray settings` shows every value and where it comes from, passwords masked.

Seconds may be written as a number, a `timedelta`, or text: `"90"`, `"30s"`, `"5m"`, `"1h30m"`, `"250ms"`.
In the environment a list is written with commas (`json,msgpack`), a table in JSON, truth as `true`, `yes`, `on` or `1`.
An unknown name or a value that does not fit is an error that says what would: `SettingError`.

Names are Celery's where the meaning is Celery's. Settings marked *dray* have no counterpart there; for a setting of
Celery's that dray does not have, the error says what dray does instead.
"""


def settings_page() -> str:
    """Return docs/settings.md."""
    parts = [SETTINGS_HEAD]
    for group, rows in groupby(describe(), key=lambda row: row.group):
        parts.append(f"\n## {group}\n")
        parts.extend(_setting(row) for row in rows)
    return "".join(parts)


def _setting(row: Row) -> str:
    facts = [f"Takes: {row.type}", f"Default: `{row.default}`" + (f" {row.unit}" if _counts(row) else "")]
    if not row.celery:
        facts.append("*dray*")
    elif row.celery != row.name:
        facts.append(f"Celery: `{row.celery}`")
    return f"\n### `{row.name}`\n\n{row.help}\n\n{'. '.join(facts)}. Environment: `{row.environment}`.\n"


def _counts(row: Row) -> bool:
    return bool(row.unit) and row.default != "None"


#: The generated pages: file name -> function that returns its text.
PAGES: dict[str, Callable[[], str]] = {"settings.md": settings_page}


def stale() -> Iterator[str]:
    """Yield the names of pages that are not what the code says."""
    for name, page in PAGES.items():
        path = HERE / name
        if not path.exists() or path.read_text(encoding="utf-8") != page():
            yield name


def main(arguments: list[str]) -> int:
    """Write all pages, or with --check say which are out of date."""
    outdated = list(stale())
    if arguments == ["--check"]:
        for name in outdated:
            sys.stderr.write(f"docs/{name} is out of date: run `make docs`\n")
        return 1 if outdated else 0
    for name in outdated:
        (HERE / name).write_text(PAGES[name](), encoding="utf-8")
        sys.stdout.write(f"wrote docs/{name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
