"""The skeleton that `dray plugins new broker NAME` writes: a working broker that passes the kit as it is."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dray import ConfigurationError, Settings
from dray.cli.scaffold import write_broker_plugin
from dray.plugins import Plugins


def test_the_skeleton_passes_its_own_conformance_test_unchanged(tmp_path: Path) -> None:
    write_broker_plugin("acme-mq", tmp_path)
    folder = tmp_path / "dray-acme-mq"
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        # Only what the skeleton asks for: no plugins of pytest that happen to be installed here.
        env={**os.environ, "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed is not None and int(passed[1]) >= 40


def test_the_skeleton_is_a_plugin_that_dray_finds_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_broker_plugin("acme-mq", tmp_path)
    folder = tmp_path / "dray-acme-mq"
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["name"] == "dray-acme-mq"
    [(scheme, module)] = project["project"]["entry-points"]["dray"].items()
    monkeypatch.syspath_prepend(folder)
    plugins = Plugins(Settings(strict=True, plugins=[]))
    plugins.register(importlib.import_module(module))
    assert scheme == "acme-mq"
    assert plugins.find("brokers", scheme).__name__ == "AcmeMqBroker"


def test_the_files_written_are_returned_and_say_the_name_everywhere(tmp_path: Path) -> None:
    written = write_broker_plugin("nats", tmp_path / "new" / "place")
    folder = tmp_path / "new" / "place" / "dray-nats"
    assert [path.name for path in written] == ["pyproject.toml", "dray_nats.py", "test_dray_nats.py", "README.md"]
    assert sorted(written) == sorted(folder.iterdir())
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert "nats" in text and "$" not in text


@pytest.mark.parametrize(
    ("name", "module", "scheme"),
    [("nats", "dray_nats", "nats://"), ("acme_mq", "dray_acme_mq", "acme-mq://"), ("mq2", "dray_mq2", "mq2://")],
)
def test_a_name_becomes_a_module_and_a_scheme(name: str, module: str, scheme: str, tmp_path: Path) -> None:
    source = next(path for path in write_broker_plugin(name, tmp_path) if path.name == f"{module}.py")
    assert scheme in source.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["", "2mq", "Nats", "my mq", "a/b", "../up", "mq-", "-mq", "a--b", "é", "import.me"])
def test_what_cannot_be_a_name_is_refused_with_an_example(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="such as 'nats' or 'acme-mq'"):
        write_broker_plugin(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_would_hide_a_package_of_dray_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="dray_brokers is a package of dray itself"):
        write_broker_plugin("brokers", tmp_path)


def test_what_is_there_already_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "dray-nats").mkdir()
    (tmp_path / "dray-nats" / "mine.py").write_text("mine")
    with pytest.raises(ConfigurationError, match="is there already"):
        write_broker_plugin("nats", tmp_path)
    assert [path.name for path in (tmp_path / "dray-nats").iterdir()] == ["mine.py"]
