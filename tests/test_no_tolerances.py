"""Tolerances live in conformance/rounding.py, where they are computed; nowhere else may one be written down."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for part in ("spec", "backends", "conformance", "src/tokenmerge", "tests", "tools", "docs")
    for path in (ROOT / part).rglob("*.py")
    if path != ROOT / "conformance" / "rounding.py" and not any(parent.is_symlink() for parent in path.parents)
)
KEYWORDS = {"rtol", "atol", "rel_tol", "abs_tol", "decimal", "significant"}
FUNCTIONS = {
    "assert_close",
    "approx",
    "allclose",
    "isclose",
    "assert_allclose",
    "assert_almost_equal",
    "assert_array_almost_equal",
}


def tolerances(source: str) -> Iterator[int]:
    """Lines with a comparison whose tolerance is written down, or left to a library's default."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in FUNCTIONS or any(keyword.arg in KEYWORDS for keyword in node.keywords):
                yield node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_tolerance_is_written_down(path: Path) -> None:
    assert list(tolerances(path.read_text())) == []


@pytest.mark.parametrize(
    "source", ["assert_close(a, b, atol=1e-3)", "np.allclose(a, b)", "assert x == pytest.approx(2)", "isclose(a, b)"]
)
def test_the_lint_can_fail(source: str) -> None:
    assert list(tolerances(source)) == [1]
