"""The pages of the documentation that are made from the code say what the code says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from dray.settings import describe

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_generated_page_is_out_of_date(generate: ModuleType) -> None:
    assert list(generate.stale()) == [], "run `make docs`"


def test_every_setting_has_a_heading_in_the_settings_page() -> None:
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    missing = [row.name for row in describe() if f"\n### `{row.name}`\n" not in page]
    assert missing == []


def test_a_stale_page_is_told_by_check_and_written_without_it(
    generate: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate.HERE = tmp_path
    assert generate.main(["--check"]) == 1
    assert "docs/settings.md is out of date" in capsys.readouterr().err
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    assert (tmp_path / "settings.md").read_text(encoding="utf-8") == generate.settings_page()
