"""The grade card: printed for runs of a conformance kit, and for no others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ADAPTER = '''
from dray import Capabilities, Url
from dray.testing import BrokerContract, ResultBackendContract
from dray_backends.memory import MemoryBackend
from dray_brokers.memory import MemoryBroker


class ModestBroker(MemoryBroker):
    """Claims no cancelling, and is wrong about sizes."""

    capabilities = Capabilities(max_delay=1e9, lease=True, peek=True, size="exact", durable=False, shared=False)
    cancel = cancelled = None

    def sizes(self, queues):
        return {queue: {"ready": 7, "delayed": 7, "leased": 7, "dead": 7} for queue in queues}


class TestModestBroker(BrokerContract):
    def make_broker(self, tmp_path):
        return ModestBroker(Url.parse("memory://"))


class TestMemoryBackend(ResultBackendContract):
    def make_backend(self, tmp_path):
        return MemoryBackend(Url.parse("memory://"))
'''


def run_pytest(folder: Path, source: str, *arguments: str) -> str:
    (folder / "test_sample.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, "test_sample.py"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    return ended.stdout + ended.stderr


def test_the_card_tells_sections_missing_capabilities_and_what_dray_makes_of_them(tmp_path: Path) -> None:
    printed = run_pytest(tmp_path, ADAPTER, "-k", "sizes or peek or many_ids or racing_writers or forgotten")
    words = [" ".join(line.split()) for line in printed.splitlines()]
    assert any("BrokerContract: TestModestBroker" in line for line in words)
    assert any("ResultBackendContract: TestMemoryBackend" in line for line in words)
    assert "FAILED: 6 passed, 4 failed, 5 skipped" in words
    assert "FAILED looking 4/8" in words
    assert "- cancelling 0/0" in words
    assert "ok keeping 2/2" in words
    assert "needs cancel (2)" in words
    assert "needs priority_levels >= 2 (1)" in words
    assert any(line.startswith("native delay (countdown, eta), retry with delay, lease and renewal,") for line in words)
    assert any(line.startswith("emulated priority,") for line in words)


def test_a_failing_contract_shows_both_values(tmp_path: Path) -> None:
    printed = run_pytest(tmp_path, ADAPTER, "-k", "test_sizes_of_an_unknown_queue_are_nought")
    assert "{'ready': 7} != {'ready': 0}" in printed


def test_a_run_without_a_kit_prints_no_card_and_imports_no_engine(tmp_path: Path) -> None:
    source = "import sys\ndef test_it():\n    assert 'dray.capabilities' not in sys.modules\n"
    printed = run_pytest(tmp_path, source)
    assert "1 passed" in printed
    assert "Contract" not in printed


def test_importing_the_kits_package_does_not_import_pytest() -> None:
    check = "import sys, dray.testing; sys.exit('pytest' in sys.modules or 'dray.broker' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], timeout=60, check=False).returncode == 0
