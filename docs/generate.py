"""Write the parts of the documentation that are made from the code: `python docs/generate.py [--check]`.

With `--check` nothing is written; the exit code is 1 when a page is not what the code says. Whole pages are in `PAGES`,
tables inside pages that people write in `TABLES`: each stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib import import_module
from itertools import groupby
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import click
import msgspec

import dray
from dray import Capabilities, options
from dray.capabilities import resolve
from dray.celery_settings import _INSTEAD
from dray.cli import COMMANDS, cli
from dray.cli.command import Helpful
from dray.plugin_loading import KINDS
from dray.settings import Row, describe
from dray.testing import BrokerContract, ResultBackendContract, SerializerContract, StoreContract

HERE = Path(__file__).parent
ROOT = Path(__file__).parents[1]
FOLDER_PLUGIN = ROOT / "examples" / "plugins" / "dray-folder" / "dray_folder.py"

SETTINGS_HEAD = """\
# Settings

This page is generated from the table of settings in `core/dray/settings.py`. How to set them, with examples:
[configuration.md](configuration.md).

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

CLI_HEAD = """\
# The command line

This page is generated from the commands themselves: `dray COMMAND --help` says the same.

`dray COMMAND ...`, or `python -m dray COMMAND ...`. Results and tables go to stdout; logs, warnings and errors to
stderr. What a worker does with its options is told in [workers.md](workers.md).
"""

API_HEAD = """\
# Public names

This page is generated. Every name here is imported from `dray`: `from dray import Dray`. Names that are not on this
page, and all that begin with an underscore, may change without notice. `import dray` is cheap: a name is loaded when it
is first used.
"""

#: Options of `@app.task` and `apply_async` that share a comment with their neighbour in core/dray/options.py.
WORDS = {
    "priority": "0 to 9; 9 is the most urgent.",
    "compression": 'How the arguments are packed: `"gzip"`, `"zstd"`, `"brotli"` or None.',
    "queue": "The queue it is sent to.",
    "routing_key": "What decides which of the queues that are bound to the exchange get it.",
    "serializer": 'How the arguments are written: `"json"`, `"msgpack"` ...',
    "max_retries": "Most retries after the first run; None: no limit.",
    "default_retry_delay": "Pause before a retry that says nothing else.",
    "autoretry_for": "Exceptions after which it is run again without being asked.",
    "dont_autoretry_for": "Exceptions that are left out of `autoretry_for`.",
    "retry_kwargs": "`max_retries` and `countdown` in one dict, as in Celery.",
    "retry_backoff": "True: 1, 2, 4 ... seconds. A number: that, doubled each time. A list: the pauses themselves, the "
    "last one repeated.",
    "retry_backoff_max": "Longest pause that doubling grows to (600 s).",
    "retry_jitter": "True (the default): the pause is drawn evenly between 0 and what the backoff says. Lists are not "
    "touched.",
    "retry_until": "Seconds after the first sending, or an instant, beyond which nothing is retried.",
    "eta": "The instant before which it is not started; one without a zone is in UTC (`enable_utc`).",
    "countdown": "Seconds from now before which it is not started.",
    "headers": "Your own; the task finds them in `self.request.headers`.",
    "ignore_result": "True: no state and no result are stored.",
    "retry": "Whether *sending* is tried again while the broker is away.",
    "retry_policy": "How: `max_retries`, `interval_start`, `interval_step`, `interval_max`.",
    "time_limit": 'How long a run may take (seconds, timedelta or `"5m"`); then it is ended and has failed.',
    "soft_time_limit": "How long a run may take before `SoftTimeLimitExceeded` is raised in it.",
    "link": "Signatures of tasks to send when it has succeeded; they get its result.",
    "link_error": "Signatures of tasks to send when it has failed for good; they get its id.",
    "before_start": "A function, also an `async def` one, called before each run: [hooks.md](hooks.md).",
    "on_success": "The same, called when it has returned.",
    "on_retry": "The same, called when it will be run again.",
    "on_failure": "The same, called when it has failed for good.",
    "after_return": "The same, called after each run, whatever it came to.",
    "root_id": "Id of the head of the tree of calls; set by itself inside tasks.",
    "parent_id": "Id of the task that sends this one; set by itself inside tasks.",
}

#: What to say of public names that are neither classes nor functions.
CONSTANTS = {
    "Check": "What a change of a store asks for before it is made: the union of `Absent`, `Present` and `Equals`.",
    "FOREVER": "Longer than any delay a broker with unlimited delays is asked for, in seconds.",
    "Outcome": "What became of one execution, as data: the union of `Done`, `Again`, `Failed`, `Rejected` ...",
    "Write": "What a change of a store does: the union of `Put`, `Add`, `Delete`, `Index` and `Unindex`.",
    "__version__": "The version of dray, as text.",
    "hookimpl": "Marks a function of a plugin as the implementation of the hook of that name.",
}


# Whole pages


def settings_page() -> str:
    """Return docs/settings.md."""
    parts = [SETTINGS_HEAD]
    for group, rows in groupby(describe(), key=lambda row: row.group):
        parts.append(f"\n## {group}\n")
        parts.extend(_setting(row) for row in rows)
    return "".join(parts)


def cli_page() -> str:
    """Return docs/cli.md."""
    parts = [CLI_HEAD, "\n## Options of every command\n\nBefore or after the command's name.\n\n"]
    parts.append(_options(cli.shared))
    parts.extend(_command(f"dray {name}", command) for name, command in commands())
    return "".join(parts)


def api_page() -> str:
    """Return docs/api.md."""
    parts = [API_HEAD]
    for heading, names in _by_kind():
        parts.append(f"\n## {heading}\n")
        parts.extend(_public(name) for name in names)
    return "".join(parts)


def commands() -> Iterator[tuple[str, Helpful]]:
    """Yield every command of the command line, sub-commands under both names: ("dead list", ...)."""
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert isinstance(command, Helpful)
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {sub}", inner) for sub, inner in _below(command))


def _below(group: click.Group) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {sub}", inner) for sub, inner in _below(command))


def _setting(row: Row) -> str:
    facts = [f"Takes: {row.type}", f"Default: `{row.default}`" + (f" {row.unit}" if _counts(row) else "")]
    if not row.celery:
        facts.append("*dray*")
    elif row.celery != row.name:
        facts.append(f"Celery: `{row.celery}`")
    return f"\n### `{row.name}`\n\n{row.help}\n\n{'. '.join(facts)}. Environment: `{row.environment}`.\n"


def _counts(row: Row) -> bool:
    return bool(row.unit) and row.default != "None"


def _command(path: str, command: Helpful) -> str:
    context = click.Context(command, info_name=path)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    parts = [f"\n## {path}\n\n    {usage}\n\n{inspect.cleandoc(command.help or '')}\n"]
    own = [param for param in command.params if isinstance(param, click.Option) and param not in command.shared]
    if shown := _options(own):
        parts.append(f"\n{shown}")
    if command.examples:
        lines = [f"# {meaning}\n{line}" for line, meaning in command.examples]
        parts.append("\n```sh\n{}\n```\n".format("\n".join(lines)))
    if command.codes:
        rows = [(f"`{int(code)}`", meaning) for code, meaning in command.codes.items()]
        parts.append("\n" + table(("exit code", "meaning"), rows))
    return "".join(parts)


def _options(params: Sequence[click.Option]) -> str:
    context = click.Context(click.Command("dray"))
    records = [record for param in params if (record := param.get_help_record(context)) is not None]
    return table(("option", "meaning"), [(f"`{spec}`", help) for spec, help in records]) if records else ""


def _by_kind() -> Iterator[tuple[str, list[str]]]:
    """Yield the public names under headings, in the order a reader needs them."""
    headings = {
        "For everybody": "app shared task canvas result group_result lineage endings followups context arguments "
        "dead_letters limits locks grouping batches events alerts schedules schedule_control",
        "Running": "worker scheduler",
        "Errors, and what tasks raise": "errors",
        "Settings and URLs": "settings urls",
        "For plugins: hooks": "hookspecs middleware",
        "For plugins: the ports": "broker backend store serializer compressor seal executors capabilities clock",
        "What travels": "message outcome",
    }
    homes = {home: heading for heading, modules in headings.items() for home in modules.split()}
    grouped: dict[str, list[str]] = {heading: [] for heading in headings}
    for name in dray.__all__:
        grouped[homes[_HOME_OF.get(name, "settings")]].append(name)
    yield from grouped.items()


_HOME_OF = dict(dray._MODULE_OF)


def _public(name: str) -> str:
    found = getattr(dray, name)
    if name in CONSTANTS:
        return f"\n### `{name}`\n\n{CONSTANTS[name]}\n"
    lines = [f"\n### `{name}`\n\n{first_line(found)}\n"]
    if inspect.isclass(found) and not issubclass(found, BaseException):
        members = [(key, doc) for key, value in vars(found).items() if (doc := _member(key, value))]
        if members:
            lines.append("\n" + "".join(f"- `{key}`: {doc}\n" for key, doc in members))
    return "".join(lines)


def _member(name: str, value: Any) -> str:
    if name.startswith("_") or not (inspect.isfunction(value) or hasattr(value, "__doc__")):
        return ""
    if inspect.isfunction(value) or isinstance(value, property | classmethod) or hasattr(value, "func"):
        return first_line(value) if value.__doc__ else ""
    return ""


def first_line(found: Any) -> str:
    """Return the first sentence-paragraph of a docstring on one line."""
    paragraph = (inspect.getdoc(found) or "").partition("\n\n")[0]
    return " ".join(paragraph.split())


# Tables inside pages


def task_options() -> str:
    """Return the options of `@app.task`."""
    return _typed_words("TaskOptions")


def send_options() -> str:
    """Return the options of `apply_async`."""
    return _typed_words("SendOptions")


#: Where the grade cards of the last whole run of the kits are: `make grades` writes them.
GRADES = ROOT / "docs" / "grades.json"

#: The columns of the table of brokers, and whose card says what such a broker declares.
COLUMNS = {
    "memory": "TestMemoryBroker",
    "sqlite": "TestSqliteBroker",
    "redis, valkey": "TestRedis",
    "rabbitmq, classic": "TestRabbitClassic",
    "rabbitmq, quorum": "TestRabbitQuorum",
    "sqs": "TestSqsOnMoto",
    "sqs, fifo": "TestFifoSqsOnMiniStack",
    "postgresql": "TestPostgresBroker",
    "kombu+redis": "TestKombuRedis",
    "kombu+amqp": "TestKombuAmqp",
    "kombu+filesystem": "TestKombuFilesystem",
}

#: Every subclass of a kit in tests/contracts, as the table of grade cards calls it, in the order of that table.
CARDS = {
    "TestMemoryBroker": "memory",
    "TestSqliteBroker": "sqlite",
    "TestRedis": "redis",
    "TestValkey": "redis, on Valkey",
    "TestRedisWithTlsAndNarrowRights": "redis, with TLS and narrow rights",
    "TestRedisSentinel": "redis+sentinel",
    "TestRedisCluster": "redis+cluster",
    "TestRabbitClassic": "rabbitmq, classic queues",
    "TestRabbitQuorum": "rabbitmq, quorum queues",
    "TestSqsOnMoto": "sqs, on moto",
    "TestSqsOnMiniStack": "sqs, on MiniStack",
    "TestFifoSqsOnMiniStack": "sqs, FIFO queues, on MiniStack",
    "TestPostgresBroker": "postgresql",
    "TestKombuMemory": "kombu+memory",
    "TestKombuFilesystem": "kombu+filesystem",
    "TestKombuSqlalchemy": "kombu+sqla",
    "TestKombuRedis": "kombu+redis",
    "TestKombuAmqp": "kombu+amqp",
    "TestCountingWithLeases": "engine, over what counts and lends",
    "TestCountingWithLeasesAndAStore": "engine, the same with a store",
    "TestHeldUntilTheConnectionEnds": "engine, over what holds until the connection ends",
    "TestNothingAtAll": "engine, over what can do nothing",
    "TestNothingAtAllButAStore": "engine, the same with a store",
    "TestMemoryBackend": "memory",
    "TestSqliteBackend": "sqlite",
    "TestRedisBackend": "redis",
    "TestValkeyBackend": "redis, on Valkey",
    "TestRedisWithTlsAndNarrowRightsBackend": "redis, with TLS and narrow rights",
    "TestRedisSentinelBackend": "redis+sentinel",
    "TestRedisClusterBackend": "redis+cluster",
    "TestPostgresBackend": "postgresql",
    "TestSqlBackendOnPostgres": "db+postgresql",
    "TestSqlBackendOnMariaDb": "db+mariadb",
    "TestSqlBackendOnSqlite": "db+sqlite",
    "TestSqlBackendWithoutUpsert": "db+, a dialect without upsert",
    "TestRpcBackend": "rpc",
    "TestMemcachedBackend": "cache+memcached",
    "TestMongoBackend": "mongodb, on mongomock",
    "TestS3Backend": "s3, on moto",
    "TestFileBackend": "file",
    "TestMemoryStore": "memory",
    "TestSqliteStore": "sqlite",
    "TestRedisStore": "redis",
    "TestRedisInThreeShardsStore": "redis, in three shards",
    "TestValkeyStore": "redis, on Valkey",
    "TestRedisWithTlsAndNarrowRightsStore": "redis, with TLS and narrow rights",
    "TestRedisSentinelStore": "redis+sentinel",
    "TestRedisClusterStore": "redis+cluster",
    "TestPostgresStore": "postgresql",
    "TestDynamoStore": "dynamodb, on MiniStack",
    "TestJsonSerializer": "json",
    "TestMsgpackSerializer": "msgpack",
    "TestPickleSerializer": "pickle",
    "TestYamlSerializer": "yaml",
}


class CardsMissing(Exception):
    """The grade cards are not those of a whole run; the text says what is wrong and what to do."""


def grades() -> dict[str, Any]:
    """Return the grade cards of the last whole run of the kits, in the order of `CARDS`."""
    if not GRADES.exists():
        raise CardsMissing(f"{GRADES.name} is missing: run `make grades`, which runs the kits against every adapter")
    found: dict[str, Any] = json.loads(GRADES.read_text(encoding="utf-8"))
    if missing := [name for name in CARDS if name not in found]:
        raise CardsMissing(
            f"{GRADES.name} has no card of {', '.join(missing)}: run `make grades` where every server is to be had, or "
            "take what is gone out of CARDS in docs/generate.py"
        )
    if unnamed := [name for name in found if name not in CARDS]:
        raise CardsMissing(
            f"{GRADES.name} has cards that CARDS in docs/generate.py does not name: {', '.join(unnamed)}"
        )
    return {name: found[name] for name in CARDS}


def _declared() -> dict[str, Capabilities]:
    cards = grades()
    if idle := [card for card in COLUMNS.values() if not cards[card]["capabilities"]]:
        raise CardsMissing(f"{GRADES.name}: the server of {', '.join(idle)} was not there; `make servers` installs it")
    known = {name: msgspec.convert(cards[card]["capabilities"], Capabilities) for name, card in COLUMNS.items()}
    return {**known, "folder (example)": _load_folder().FolderBroker.capabilities}


def brokers() -> str:
    """Return how each feature is had on each broker: natively, by the engine, with a store only, or not at all."""
    known, store = _declared(), Capabilities()
    rows: dict[str, list[str]] = {}
    for can in known.values():
        for alone, helped in zip(resolve(can), resolve(can, store), strict=True):
            cell = {"native": "native", "emulated": "*emulated*"}.get(alone.how, "refused")
            if alone.how == "refused" and helped.how == "emulated":
                cell = "*with a store*"
            rows.setdefault(alone.feature, []).append(cell)
    return table(("feature", *known), [(feature, *cells) for feature, cells in rows.items()])


def broker_notes() -> str:
    """Return what each word of the table above means, broker by broker where they differ."""
    said: dict[tuple[str, str, str], list[str]] = {}
    for name, can in _declared().items():
        for alone, helped in zip(resolve(can), resolve(can, Capabilities()), strict=True):
            rows = [(alone.feature, alone.how, alone.note.partition("; with a store")[0])]
            if helped.how == "emulated" and helped != alone:
                rows.append((helped.feature, "*with a store*", helped.note))
            for feature, how, note in rows:
                if note:
                    word = "*emulated*" if how == "emulated" else how
                    said.setdefault((feature, word, note), []).append(name)
    order = {row.feature: n for n, row in enumerate(resolve(Capabilities()))}
    rows_in_order = sorted(said.items(), key=lambda pair: order[pair[0][0]])
    return table(
        ("feature", "how", "what that means", "where"),
        [(feature, how, note, "; ".join(names)) for (feature, how, note), names in rows_in_order],
    )


def grade_cards() -> str:
    """Return what the kits said of each adapter."""
    rows = []
    for name, card in grades().items():
        skipped = "; ".join(f"{why} ({n})" for why, n in card["skipped"].items())
        kit = card["kit"].removesuffix("Contract")
        rows.append((CARDS[name], kit, str(card["passed"]), str(card["failed"]), skipped))
    return table(("adapter", "kit", "passed", "failed", "skipped, and why"), rows)


#: What the last whole run of the fault suite found (`make faults`).
FAULTS = HERE / "faults.json"


def faults() -> str:
    """Return what came of each fault on each broker."""
    if not FAULTS.exists():
        raise CardsMissing(f"{FAULTS.name} is missing: run `make faults`, which tries every fault on every broker")
    found = json.loads(FAULTS.read_text(encoding="utf-8"))
    brokers = ("sqlite", "redis", "rabbitmq", "postgresql", "sqs")
    rows = []
    for row in found:
        title = f"{row['title']} ({row['variant']})" if row["variant"] else row["title"]
        rows.append((row["code"], title, *(_verdict(row["cells"].get(broker)) for broker in brokers)))
    return table(("", "fault", *brokers), rows)


def _verdict(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "-"
    told = f"{cell['lost']} / {cell['duplicated']} / {cell['hung']}"
    if cell["seconds"]:
        told += f", {cell['seconds']:.1f} s"
    told += f" ({cell['runs']}x)"
    return f"**failed {cell['failed']} of {cell['runs']}**: {told}" if cell["failed"] else told


#: The tables of URL options: name -> where the Struct is that reads them.
OPTIONS = {
    "sqlite": "dray_brokers.sqlite_file:SqliteOptions",
    "redis": "dray_brokers.redis_connection:RedisOptions",
    "rabbitmq": "dray_brokers.rabbitmq_connection:RabbitOptions",
    "sqs": "dray_brokers.sqs_client:SqsOptions",
    "postgresql": "dray_brokers.postgres_connection:PostgresOptions",
    "kombu": "dray_brokers.kombu_place:KombuOptions",
    "db": "dray_backends.sql:SqlOptions",
    "memcached": "dray_backends.memcached:MemcachedOptions",
    "mongodb": "dray_backends.mongodb:MongoOptions",
    "s3": "dray_backends.s3:S3Options",
    "file": "dray_backends.filesystem:FileOptions",
    "dynamodb": "dray_backends.dynamodb_table:DynamoOptions",
}


def url_options(name: str) -> str:
    """Return the options that one kind of URL takes. Neighbours that share a comment in the code share a row."""
    module, _, struct = OPTIONS[name].partition(":")
    kind = getattr(import_module(module), struct)
    known = {field.name: field for field in msgspec.structs.fields(kind)}
    rows: list[list[str]] = []
    for word, _, _, comment in fields(inspect.getsource(kind)):
        field = known[word]
        cells = [f"`{word}`", _taken(field.type), _shown(field.default)]
        if comment:
            rows.append([*cells, comment])
        elif rows:
            rows[-1][:3] = [f"{before}, {cell}" for before, cell in zip(rows[-1][:3], cells, strict=True)]
        else:
            raise ValueError(f"the first option of {OPTIONS[name]} has no comment")
    return table(("option", "takes", "default", "meaning"), [_merged(row) for row in rows])


def _merged(row: Sequence[str]) -> list[str]:
    """Return a row in which what all options of it have in common stands once."""
    return [row[0], *(", ".join(dict.fromkeys(cell.split(", "))) for cell in row[1:3]), row[3]]


def _taken(kind: Any) -> str:
    """Return in words what may be written for an option of this type."""
    choices = [part for part in get_args(kind) or (kind,) if part is not NoneType]
    if get_origin(kind) is Literal:
        return " or ".join(f"`{choice}`" for choice in choices)
    words = {int: "whole number", float: "number", bool: "`true` or `false`", str: "text"}
    return words[choices[0]]


def _shown(default: Any) -> str:
    if default is None or default == "":
        return "-"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def capabilities() -> str:
    """Return every field of `Capabilities` with its default and what it says."""
    source = inspect.getsource(Capabilities)
    rows = [(f"`{name}`", f"`{default}`", comment) for name, _, default, comment in fields(source)]
    return table(("field", "default", "meaning"), rows)


def kits() -> str:
    """Return the sections of the conformance kits, with how many tests each has."""
    rows = []
    for kit in (BrokerContract, ResultBackendContract, StoreContract, SerializerContract):
        for section in reversed(kit.__mro__):
            tests = [name for name in vars(section) if name.startswith("test_")]
            if tests:
                rows.append((kit.__name__, first_line(section).rstrip("."), str(len(tests))))
    return table(("kit", "section", "sentences"), rows)


def resources() -> str:
    """Return the kinds of resources a plugin may register."""
    return table(("hook", "what is registered"), [(f"`register_{kind}`", one) for kind, one in KINDS.items()])


def celery_settings() -> str:
    """Return what dray does instead of each of Celery's settings that it does not have."""
    said: dict[str, list[str]] = {}
    for name, instead in _INSTEAD.items():
        said.setdefault(instead, []).append(f"`{name}`")
    return table(("Celery's setting", "dray"), [(", ".join(names), instead) for instead, names in said.items()])


def errors() -> str:
    """Return the tree of errors as it stands in core/dray/errors.py."""
    from dray import errors

    drawn = inspect.getdoc(errors) or ""
    start = drawn.index("DrayError")
    return f"```text\n{drawn[start : drawn.index('Raised *by tasks*')].rstrip()}\n```\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    cells = ([" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in lines)
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def fields(source: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield (name, type, default, comment) for the annotated names of a class; the comment is the `#:` lines above."""
    lines = source.splitlines()
    (kind,) = ast.parse(source).body
    assert isinstance(kind, ast.ClassDef)
    for node in kind.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            comment: list[str] = []
            above = node.lineno - 2
            while lines[above].strip().startswith("#:"):
                comment.insert(0, lines[above].strip().removeprefix("#:").strip())
                above -= 1
            default = ast.unparse(node.value) if node.value is not None else ""
            yield node.target.id, ast.unparse(node.annotation), default, " ".join(comment)


def _typed_words(name: str) -> str:
    rows = []
    for word, kind, _, comment in fields(inspect.getsource(getattr(options, name))):
        said = WORDS.get(word, comment)
        if not said:
            raise ValueError(f"the option {word!r} has no comment in core/dray/options.py and no sentence in WORDS")
        rows.append((f"`{word}`", kind.replace(" | ", " or "), said))
    return table(("option", "type", "meaning"), rows)


def _load_folder() -> Any:
    spec = importlib.util.spec_from_file_location("dray_folder", FOLDER_PLUGIN)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _tables_of_options(*names: str) -> dict[str, Callable[[], str]]:
    return {f"options: {name}": partial(url_options, name) for name in names}


#: The generated pages: file name -> function that returns its text.
PAGES: dict[str, Callable[[], str]] = {"settings.md": settings_page, "cli.md": cli_page, "api.md": api_page}

#: The generated tables: page -> name -> function that returns its text.
TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "tasks.md": {"task options": task_options, "send options": send_options},
    "brokers.md": {
        "brokers": brokers,
        "notes": broker_notes,
        **_tables_of_options("sqlite", "redis", "rabbitmq", "sqs", "postgresql", "kombu"),
        "kits": kits,
        "grades": grade_cards,
    },
    "results.md": _tables_of_options("db", "memcached", "mongodb", "s3", "file"),
    "stores.md": _tables_of_options("dynamodb"),
    "write-a-broker.md": {"capabilities": capabilities},
    "plugins.md": {"resources": resources},
    "errors.md": {"errors": errors},
    "celery.md": {"celery settings": celery_settings},
    "reliability.md": {"faults": faults},
}


def filled(page: str, text: str) -> str:
    """Return the text of a page with its generated tables as the code says."""
    for name, made in TABLES[page].items():
        mark = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", re.S)
        if not mark.search(text):
            raise ValueError(f"docs/{page} has no <!-- generated: {name} --> with an <!-- end --> after it")
        content = made()
        text = mark.sub(lambda found, content=content: f"{found[1]}\n{content}\n{found[2]}", text)
    return text


def written() -> Iterator[tuple[str, str]]:
    """Yield (file name, text) of every page that is generated, wholly or in part."""
    for name, page in PAGES.items():
        yield name, page()
    for name in TABLES:
        yield name, filled(name, (HERE / name).read_text(encoding="utf-8"))


def stale() -> Iterator[tuple[str, str]]:
    """Yield those pages that are not what the code says, with what they should be."""
    for name, text in written():
        path = HERE / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            yield name, text


def main(arguments: list[str]) -> int:
    """Write all pages, or with --check say which are out of date."""
    try:
        outdated = list(stale())
    except CardsMissing as problem:
        sys.stderr.write(f"docs/{problem}\n")
        return 1
    if arguments == ["--check"]:
        for name, _ in outdated:
            sys.stderr.write(f"docs/{name} is out of date: run `make docs`\n")
        return 1 if outdated else 0
    for name, text in outdated:
        (HERE / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote docs/{name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
