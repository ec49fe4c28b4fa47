"""The documentation is true: its code runs, its links lead somewhere, and nothing of the program is left out of it."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import msgspec
import pytest

import dray
from dray import hookspecs
from dray.cli import cli
from dray.settings import describe

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RUN_PAGE = Path(__file__).with_name("run_page.py")

PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("examples/**/README.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ (?P<title>.+)$", re.M)
#: Files and folders that pages name in backticks.
PLACE = re.compile(r"`((?:core|brokers|backends|serializers|tests|docs|examples|benchmarks|\.ci)/[\w./-]+)`")
#: Places of one machine, and package indexes that only it can reach.
PRIVATE = re.compile(r"(?<![\w.~-])/(?:work|root|home|Users)/\w|--index-url|index-url *=")
TEXT_FILES = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".cfg", ".ini", ".sh", ""}


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def fenced(page: Path, *languages: str) -> Iterator[str]:
    for found in FENCE.finditer(read(page)):
        if found["language"] in languages:
            yield found["text"]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", read(page))
    found: set[str] = set()
    for heading in HEADING.finditer(text):
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading["title"]).lower()
        found.add(re.sub(r"[^\w\- ]", "", title).replace(" ", "-"))
    return found


def arguments(function: object) -> str:
    return ", ".join(inspect.signature(function).parameters)  # type: ignore[arg-type]


def hooks() -> dict[str, str]:
    """Return the hooks that plugins can implement, with their arguments."""
    return {
        name: arguments(value)
        for name, value in vars(hookspecs).items()
        if getattr(value, f"{hookspecs.GROUP}_spec", None)
    }


def command_lines(page: Path) -> Iterator[list[str]]:
    """Yield the words of every `dray ...` in the shell blocks of a page."""
    said = [line for text in fenced(page, "sh") for line in text.splitlines()]
    said += [line[2:] for text in fenced(page, "console") for line in text.splitlines() if line.startswith("$ ")]
    for line in said:
        words = shlex.split(line, comments=True)
        if words and words[0] == "dray":
            end = next((n for n, word in enumerate(words) if word in ("|", ">", "2>", "2>>", "&", "&&")), None)
            yield words[1:end]


def parse(command: click.Command, words: list[str]) -> None:
    """Raise a click.UsageError for words that the command, or the sub-command they name, does not take."""
    context = click.Context(command, info_name=command.name)
    _, rest, _ = command.make_parser(context).parse_args(list(words))
    if isinstance(command, click.Group) and rest:
        inner = command.get_command(context, rest[0])
        if inner is None:
            raise click.UsageError(f"no command {rest[0]!r}")
        parse(inner, rest[1:])


@pytest.fixture
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# What pages say


@pytest.mark.parametrize(
    "page", [pytest.param(page, id=name) for page, name in zip(PAGES, NAMES, strict=True) if "```python" in read(page)]
)
def test_the_python_of_every_page_runs(page: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DRAY_", "PYTEST_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(RUN_PAGE), str(page)],
        cwd=tmp_path,
        env=environment,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_line_can_be_given(page: Path) -> None:
    for words in command_lines(page):
        try:
            parse(cli, words)
        except click.UsageError as error:
            pytest.fail(f"{page.name}: dray {shlex.join(words)}: {error.format_message()}")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_toml_block_is_toml(page: Path) -> None:
    for text in fenced(page, "toml"):
        assert tomllib.loads(text)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for found in LINK.finditer(FENCE.sub("", read(page))):
        path, _, anchor = found["target"].partition("#")
        if "://" in path:
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(found["target"])
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_file_that_is_named_exists(page: Path) -> None:
    assert [place for place in PLACE.findall(read(page)) if not (ROOT / place).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_lines_that_people_write_are_at_most_120_characters_long(page: Path, generate: ModuleType) -> None:
    if page.name in {*generate.PAGES, "performance.md"}:
        return
    long = [line for line in read(page).splitlines() if len(line) > 120 and not line.startswith("|")]
    assert long == []


# What pages must not leave out


def test_no_generated_page_is_out_of_date(generate: ModuleType) -> None:
    assert [name for name, _ in generate.stale()] == [], "run `make docs`"


def test_a_stale_page_is_told_by_check_and_written_without_it(
    generate: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate.HERE = tmp_path
    for name in generate.TABLES:
        (tmp_path / name).write_text(read(DOCS / name).replace("| ---", "| --- old"), encoding="utf-8")
    assert generate.main(["--check"]) == 1
    assert "docs/settings.md is out of date" in capsys.readouterr().err
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    assert read(tmp_path / "settings.md") == generate.settings_page()
    assert read(tmp_path / "tasks.md") == read(DOCS / "tasks.md")


def test_every_url_option_is_in_the_docs(generate: ModuleType) -> None:
    struct = re.compile(r"^class (\w+Options)\(msgspec\.Struct", re.M)
    files = [*(ROOT / "brokers").rglob("*.py"), *(ROOT / "backends").rglob("*.py")]
    found = {f"{file.parent.name}.{file.stem}:{name}" for file in files for name in struct.findall(read(file))}
    assert found - {place for place in found if place.endswith(":_NoOptions")} == set(generate.OPTIONS.values())
    for name in generate.OPTIONS:
        assert "| `" in generate.url_options(name)


def test_grade_cards_that_are_missing_or_unknown_are_told_in_words(
    generate: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate.GRADES = tmp_path / "grades.json"
    assert generate.main(["--check"]) == 1
    assert "grades.json is missing: run `make grades`" in capsys.readouterr().err
    cards = {name: {"kit": "BrokerContract", "capabilities": None} for name in generate.CARDS}
    del cards["TestRedis"]
    generate.GRADES.write_text(json.dumps(cards))
    with pytest.raises(generate.CardsMissing, match="has no card of TestRedis"):
        generate.brokers()
    generate.GRADES.write_text(json.dumps({**cards, "TestRedis": {"capabilities": None}, "TestNew": {}}))
    with pytest.raises(generate.CardsMissing, match="does not name: TestNew"):
        generate.grade_cards()
    generate.GRADES.write_text(json.dumps({**cards, "TestRedis": {"capabilities": None}}))
    with pytest.raises(generate.CardsMissing, match="the server of .*TestRedis.* was not there"):
        generate.brokers()


def test_every_subclass_of_a_kit_has_a_name_in_the_table_of_grades(generate: ModuleType) -> None:
    contracts = (ROOT / "tests" / "contracts").glob("test_*.py")
    kits = re.compile(r"^class (Test\w+)\(", re.M)
    assert {name for file in contracts for name in kits.findall(read(file))} == set(generate.CARDS)


def test_every_page_of_the_docs_is_on_the_map() -> None:
    linked = {found["target"].partition("#")[0] for found in LINK.finditer(read(DOCS / "index.md"))}
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert pages - linked == {"index.md"}


def test_every_hook_has_a_heading_with_its_exact_arguments() -> None:
    page = read(DOCS / "plugins.md")
    found = hooks()
    assert len(found) > 10
    assert [name for name, given in found.items() if f"\n### `{name}({given})`\n" not in page] == []


def test_plugins_md_has_no_heading_for_a_hook_that_does_not_exist() -> None:
    headings = re.findall(r"^### `(\w+)\(", read(DOCS / "plugins.md"), re.M)
    assert [name for name in headings if name not in hooks()] == []


def test_every_setting_has_a_heading() -> None:
    page = read(DOCS / "settings.md")
    assert [row.name for row in describe() if f"\n### `{row.name}`\n" not in page] == []


def test_every_key_of_the_wire_format_is_in_envelope_md() -> None:
    page = read(DOCS / "envelope.md")
    keys = [field.encode_name for kind in (dray.Message, dray.Step) for field in msgspec.structs.fields(kind)]
    assert [key for key in keys if not key.startswith("-") and f"`{key}`" not in page] == []


def test_every_command_has_a_heading_and_every_option_a_line(generate: ModuleType) -> None:
    page = read(DOCS / "cli.md")
    found_sections = re.findall(r"^## (dray [^\n]+)\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    sections = {heading: text.splitlines() for heading, text in found_sections}
    found = list(generate.commands())
    assert len(found) > 10
    for name, command in found:
        shown = [param for param in command.params if isinstance(param, click.Option) and not param.hidden]
        own = [param.opts for param in shown if param not in command.shared]
        assert [opts for opts in own if not any(f"`{opts[0]}" in line for line in sections[f"dray {name}"])] == [], name


def test_every_public_name_has_a_docstring_and_is_in_the_docs() -> None:
    page = read(DOCS / "api.md")
    assert [name for name in dray.__all__ if f"\n### `{name}`\n" not in page] == []
    named = {name: getattr(dray, name) for name in dray.__all__}
    documented = {name: value for name, value in named.items() if inspect.isclass(value) or inspect.isfunction(value)}
    assert [name for name, value in documented.items() if not (value.__doc__ or "").strip()] == []


def test_decisions_are_numbered_without_a_gap() -> None:
    decisions = sorted((DOCS / "decisions").glob("*.md"))
    assert [int(page.name[:4]) for page in decisions] == list(range(1, len(decisions) + 1))
    for number, page in enumerate(decisions, 1):
        assert read(page).startswith(f"# {number}. "), page.name


def test_the_changelog_tells_of_this_version() -> None:
    assert re.search(rf"^## \[?{re.escape(dray.__version__)}\b", read(ROOT / "CHANGELOG.md"), re.M)


def test_no_file_names_a_place_of_one_machine() -> None:
    own = Path(__file__).resolve()
    folders = ["core", "brokers", "backends", "serializers", "tests", "docs", "examples", "benchmarks", ".ci"]
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    told = []
    for path in files:
        # Where the benchmark of the others has installed them, everything is theirs.
        if path.suffix in TEXT_FILES and not {"__pycache__", ".peers"} & {*path.parts} and path.resolve() != own:
            told += [f"{path.relative_to(ROOT)}: {found[0]}" for found in PRIVATE.finditer(read(path))]
    assert told == []
