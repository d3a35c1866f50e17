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
    page.write_text(tables.filled(page, folder / "data"))
    return folder


def test_a_table_is_what_the_file_says(docs: Path) -> None:
    rows = json.loads((docs / "data" / "plan.json").read_text())["rows"]
    text = (docs / "page.md").read_text()
    assert text.count("\n| 1, 16, 8, 8, 2 | ") == len(rows) > 0 and f" | {rows[0]['ratio']:.2f} (" in text
    assert "(data/plan.json): " in text and "Python 3" in text
    assert tables.stale(docs) == []


def test_a_call_is_a_line_and_what_is_held_against_it_a_column() -> None:
    row = {
        "operation": "tome",
        "backend": "torch",
        "shape": {"B": 1, "N": 9},
        "against": "textbook",
        "ours": 0.002,
        "ratio": 2.0,
    }
    assert tables.table([row]).splitlines() == [
        "| shape (B, N) | ours, ms | against | ratio |",
        "|---|---|---|---|",
        "| 1, 9 | 2 | textbook | 2.00 |",
    ]
    rows = [row, row | {"against": "tomesd", "ratio": 0.011}, row | {"dtype": "float16", "low": 1.0, "high": 3.0}]
    assert tables.table(rows).splitlines() == [
        "| dtype | shape (B, N) | ours, ms | ratio to textbook (quartiles) | ratio to tomesd |",
        "|---|---|---|---|---|",
        "|  | 1, 9 | 2 | 2.00 | 0.011 |",
        "| float16 | 1, 9 | 2 | 2.00 (1.00 to 3.00) |  |",
    ]


def test_below_a_table_stand_means_over_shapes_and_where_it_is_from() -> None:
    row = {"operation": "tome", "shape": {"B": 1}, "against": "textbook", "ratio": 1.0}
    rows = [row, row | {"ratio": 8.0}, row | {"ratio": 27.0}, row | {"against": "tomesd"}]
    below = tables.source({"rows": rows, "note": "by hand"}, "data/x.json")
    assert below == "Geometric means: against textbook 6.00. [`x.json`](data/x.json): by hand."


def test_what_was_copied_says_so() -> None:
    """A file in which a row lacks what the command always writes is no file of the command."""
    for path in (ROOT / "docs" / "data").glob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        measured = "machine" in found and all("rounds" in row for row in found["rows"])
        assert measured != ("copied from the table" in found.get("note", "")), path.name


def test_a_changed_number_is_found(docs: Path) -> None:
    page = docs / "page.md"
    before = page.read_text()
    page.write_text(before.replace("| 1, 16, 8, 8, 2 |", "| 1, 16, 8, 8, 3 |"))
    assert tables.stale(docs) == ["page.md"]
    page.write_text(before)


def test_a_file_that_no_page_shows_is_found(docs: Path) -> None:
    other = docs / "data" / "other.json"
    other.write_text('{"rows": []}')
    assert tables.stale(docs) == ["other.json"]
    other.unlink()
