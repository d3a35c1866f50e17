"""Tables of the docs that a command measured are what it wrote."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from tokenmerge.cli import main

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("bench_tables", ROOT / "tools" / "bench_tables.py")
assert SPEC and SPEC.loader
tables = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tables)


def test_pages_show_what_the_commands_wrote() -> None:
    assert tables.stale() == []


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with a table of what the command itself writes."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "data").mkdir()
    out = folder / "data" / "plan.json"
    command = ["bench", "plan", "--backend", "numpy", "--shape", "B=1,N=16,D=8,C=8,r=2", "--seconds", "0.1"]
    sys.argv = ["tokenmerge", *command, "--json", str(out)]
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    page = folder / "page.md"
    page.write_text("# Page\n\n<!-- bench: plan -->\n<!-- /bench -->\n")
    page.write_text(tables.filled(page.read_text(), folder / "data"))
    return folder


def test_a_table_is_what_the_file_says(docs: Path) -> None:
    rows = json.loads((docs / "data" / "plan.json").read_text())["rows"]
    text = (docs / "page.md").read_text()
    assert text.count("\n| plan | ") == len(rows) > 0 and f"{rows[0]['ratio']:.2f}" in text
    assert tables.stale(docs) == []


def test_a_changed_number_is_found(docs: Path) -> None:
    page = docs / "page.md"
    before = page.read_text()
    page.write_text(before.replace("| plan |", "| plans |"))
    assert tables.stale(docs) == ["page.md"]
    page.write_text(before)


def test_a_file_that_no_page_shows_is_found(docs: Path) -> None:
    other = docs / "data" / "other.json"
    other.write_text('{"rows": []}')
    assert tables.stale(docs) == ["other.json"]
    other.unlink()
