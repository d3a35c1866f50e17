"""The worked example of docs/backends.md: short, on open doors alone, right by the suite, and caught when it is not."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "array_api_backend.py"
OPEN = {f"tokenmerge.spec.shared.{room}" for room in ("arguments", "calls", "schedule", "merged", "initial")}
DOC = EXAMPLE.parents[1] / "backends.md"
SIZES = "return product(self.matrix(size), x)"
SORT = "sorted(even, key=lambda a: max(similarity[a][b] for b in targets), reverse=True)"
COMMAND = "from tokenmerge.cli import main; main()"  # what the script `tokenmerge` does, installed or not


def edited(folder: Path, old: str = "", new: str = "", more: str = "") -> str:
    """A copy of the example with a line edited and some added, in a package `mine` in a folder; its dotted name."""
    text = EXAMPLE.read_text()
    if old:
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "mine").mkdir()
    (folder / "mine" / "backend.py").write_text(text + more)
    return "mine.backend"


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python where the modules of a folder can be imported."""
    path = os.pathsep.join([str(folder), *(entry or os.getcwd() for entry in sys.path)])
    environment = os.environ | {"PYTHONPATH": path, "COLUMNS": "120"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


# What it is made of


def test_it_has_fewer_than_220_lines_of_code() -> None:
    source = EXAMPLE.read_text()
    words: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            words |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = enumerate(source.splitlines(), 1)
    assert sum(bool(text.strip()) and text.strip()[0] != "#" and at not in words for at, text in lines) < 220


def test_it_uses_the_open_rooms_of_the_spec_and_nothing_else_of_ours() -> None:
    used = set()
    for node in ast.walk(ast.parse(EXAMPLE.read_text())):
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            rooms = node.module == "tokenmerge.spec.shared"
            used |= {f"{node.module}.{alias.name}" if rooms else str(node.module) for alias in node.names}
    assert {name for name in used if name.partition(".")[0] == "tokenmerge"} == OPEN


def quoted() -> list[str]:
    """The blocks of Python in its section of the page."""
    section = DOC.read_text().partition("## 8. A complete backend")[2].partition("## 9.")[0]
    return re.findall(r"```python\n(.*?)\n```", section, re.DOTALL)


def code(text: str) -> str:
    """The lines without what depends on where they stand: indentation, and empty lines between them."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def test_the_page_quotes_what_is_there() -> None:
    *parts, compose = quoted()
    assert len(parts) == 2 and all(code(part) in code(EXAMPLE.read_text()) for part in parts)
    assert compose.startswith("def compose(")


# That it is right


def conformance(folder: Path, backend: str, *options: str) -> subprocess.CompletedProcess[str]:
    return python(folder, "-c", COMMAND, "conformance", "--backend", backend, "--level", "quick", *options)


def test_the_command_finds_nothing() -> None:
    run = conformance(EXAMPLE.parents[1], "examples.array_api_backend")
    assert run.returncode == 0, run.stdout + run.stderr


def test_it_runs_on_pytorch(tmp_path: Path) -> None:
    backend = edited(tmp_path, "import numpy as xp", "import array_api_compat.torch as xp")
    run = conformance(tmp_path, backend, "--dtype", "float32")
    assert run.returncode == 0, run.stdout + run.stderr


def test_it_needs_nothing_but_the_standard(tmp_path: Path) -> None:
    backend = edited(tmp_path, "import numpy as xp", "import array_api_strict as xp")
    skips = tmp_path / "strict.skips"
    mergers = ("tome", "ats", "patch_merger", "ltm")
    skips.write_text("".join(f"{merger}-strided: the standard's arrays have no swapaxes\n" for merger in mergers))
    run = conformance(tmp_path, backend, "--skips", str(skips))
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_room_is_added_as_the_page_says(tmp_path: Path) -> None:
    backend = edited(tmp_path, more=f"\n\n{quoted()[-1]}\n")
    run = conformance(tmp_path, backend, "--dtype", "float64")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "no compose" not in run.stdout and "no pooling" in run.stdout


def test_pytest_finds_nothing() -> None:
    # the command has judged the other dtypes
    options = ("--tokenmerge-backend", "examples.array_api_backend", "--tokenmerge-level", "quick")
    options += ("--tokenmerge-dtype", "float32")
    plugins = ("-p", "tokenmerge.conformance.plugin", "-p", "no:cacheprovider")
    run = python(EXAMPLE.parents[1], "-m", "pytest", "-q", *plugins, "--pyargs", "tokenmerge.conformance", *options)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout


# That it would be caught if it were not


@pytest.mark.parametrize(
    ("merger", "old", "new", "sentence"),
    [
        ("tome", SIZES, "return product(self.matrix(), x)", "PLAN-1  The merged tokens are y = W x;"),
        ("tome", SORT, SORT.replace(", reverse=True)", ")[::-1]"), "TOME-6  The r_eff tokens with the most similar"),
        ("ats", "eligible, cdf = score > 0,", "eligible, cdf = score >= 0,", "ATS-5  A sample point chooses the token"),
    ],
    ids=["sizes are no weights", "ties go to the higher index", "a token without a score can be chosen"],
)
def test_a_bug_is_found_named_and_repeated(merger: str, old: str, new: str, sentence: str, tmp_path: Path) -> None:
    run = conformance(tmp_path, edited(tmp_path, old, new), "--merger", merger, "--dtype", "float32")
    assert run.returncode == 1, run.stdout + run.stderr
    assert f"\n{sentence}" in run.stdout
    _, found, rest = run.stdout.partition("\nRepeat it with:\n\n")
    assert found
    program, _, _ = rest.partition("sep='\\n')")
    again = python(tmp_path, "-c", program + "sep='\\n')")
    assert again.returncode == 0, again.stderr
    assert "agrees with the spec" not in again.stdout
