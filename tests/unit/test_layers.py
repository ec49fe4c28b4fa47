"""The floors of core/dray hold: a module imports its own floor and those below, adapters only what is public."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import dray

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core" / "dray"

FLOORS = {
    "vocabulary": "errors clock urls message states outcome capabilities",
    "ports": "interrupts broker relay backend store serializer compressor seal middleware hookspecs executors signals",
    "machinery": "plugin_loading plugins settings setting_values celery_settings configuration "
    "lanes queues routers ids idempotency retries codec foreign sealing arguments labels sub_queues assisted "
    "assisted_consumer failover transactions processors revocations rates grouping holds webhook_signatures "
    "webhook_options webhook_post task_hooks schedules",
    "sending": "options routes context redaction canvas report epitaphs lineage result dead_letters task connections "
    "signalling event_ring recorder events presence sender followups endings fan_results fan_records fan_retries fans "
    "flows eager_flows group_result batches builtin_tasks webhooks alerts job tracebacks telling class_hooks execution "
    "shared limits locks unique schedule_entries schedule_book schedule_control registry app",
    "running": "garbage credit triage deadlines crew processes greenlets source autoscale recognition trimming holding "
    "heart entry outage result_writer settle leases sweeper gate ticking scheduler worker",
    "doors": "cli testing __main__",
}
ORDER = list(FLOORS)
FLOOR_OF = {module: floor for floor, modules in FLOORS.items() for module in modules.split()}

#: The imports that go up: made inside a function, when the floor above is asked for by name.
STAIRS = {("app", "worker"), ("app", "scheduler")}


def modules() -> list[Path]:
    return [path for path in sorted(CORE.rglob("*.py")) if path != CORE / "__init__.py"]


def top(path: Path) -> str:
    """Return the name under which a file stands in the table: the module, or its package's."""
    return path.relative_to(CORE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Return the modules of core/dray that a file imports at run time (not only for type checkers)."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    depth = len(path.relative_to(CORE).parts)
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom):
            if node.level == depth:
                names = [node.module] if node.module else [alias.name for alias in node.names]
                found.update(name.split(".")[0] for name in names)
            elif node.level == 0 and node.module and node.module.startswith("dray."):
                found.add(node.module.split(".")[1])
            elif node.level == 0 and node.module == "dray":
                found.update(dray._MODULE_OF.get(alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("dray."))
    return found - {"__version__"}


def test_every_module_stands_on_a_floor() -> None:
    assert {top(path) for path in modules()} == set(FLOOR_OF)


def test_floors_import_downward_only() -> None:
    upward = [
        f"{path.relative_to(ROOT)} imports {name}: {FLOOR_OF[name]} is above {FLOOR_OF[top(path)]}"
        for path in modules()
        for name in sorted(imported(path))
        if ORDER.index(FLOOR_OF[name]) > ORDER.index(FLOOR_OF[top(path)]) and (top(path), name) not in STAIRS
    ]
    assert upward == []


def test_the_adapters_use_public_names_only() -> None:
    private = []
    for package in ("brokers/dray_brokers", "backends/dray_backends", "serializers/dray_serializers"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dray":
                    names = {alias.name for alias in node.names}
                    if node.module != "dray" or not names <= set(dray.__all__):
                        private.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
                elif isinstance(node, ast.Import) and any(alias.name.startswith("dray.") for alias in node.names):
                    private.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
    assert private == []


#: What one adapter package may use of another: how to talk to a server that is both broker and backend
#: (docs/decisions/0009-one-connection-file-per-server.md).
SHARED = {
    ("backends", "dray_brokers.sqlite_file"),
    ("backends", "dray_brokers.postgres_advice"),
    ("backends", "dray_brokers.postgres_connection"),
    ("backends", "dray_brokers.postgres_schema"),
    ("backends", "dray_brokers.redis_connection"),
    ("backends", "dray_brokers.redis_held_line"),
    ("backends", "dray_brokers.rabbitmq_channel"),
    ("backends", "dray_brokers.rabbitmq_connection"),
    ("backends", "dray_brokers.rabbitmq_frames"),
    ("backends", "dray_brokers.rabbitmq_publisher"),
    ("backends", "dray_brokers.rabbitmq_wire"),
}


def test_the_adapter_packages_share_connections_and_nothing_else() -> None:
    packages = {"brokers": "dray_brokers", "backends": "dray_backends", "serializers": "dray_serializers"}
    crossing = [
        f"{path.relative_to(ROOT)}: {line}"
        for folder, own in packages.items()
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in re.findall(r"^\s*(?:from|import) (dray_\w+[\w.]*)", path.read_text(), re.M)
        if not line.startswith(own) and (folder, line) not in SHARED
    ]
    assert crossing == []


def test_the_engine_names_no_adapter_and_no_driver() -> None:
    named = re.compile(
        r"\b(sqlite3?|redis|pika|rabbitmq|amqp|boto3|sqs|kombu|psycopg|SqliteBroker|MemoryBroker)\b", re.I
    )
    #: Where an embedded default is chosen, where doors show examples, and where Celery's words are explained.
    allowed = {"connections", "cli", "testing", "celery_settings"}
    found = []
    for path in modules():
        if top(path) in allowed:
            continue
        tree = ast.parse(path.read_text())
        words = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
        words += [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        words += [
            text.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Compare)
            for text in ast.walk(node)
            if isinstance(text, ast.Constant) and isinstance(text.value, str)
        ]
        found += [f"{path.relative_to(ROOT)}: {word}" for word in words if named.search(word)]
    assert found == []


def test_every_file_says_in_its_first_line_what_it_is_for() -> None:
    silent = []
    for folder in ("core", "brokers", "backends", "serializers"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            first = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
            if len(first) < 15:
                silent.append(str(path.relative_to(ROOT)))
    assert silent == []


def test_no_time_but_the_clock_in_the_engine() -> None:
    asking = re.compile(r"\btime\.(time|monotonic|sleep)\(")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in modules()
        if FLOOR_OF[top(path)] != "doors" and top(path) not in ("clock", "executors")
        for number, line in enumerate(path.read_text().split("\n"), 1)
        if asking.search(line)
    ]
    assert found == []
