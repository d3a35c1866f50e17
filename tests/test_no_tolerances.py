"""Tolerances live in conformance/rounding.py, where they are computed; nowhere else may one be written down."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("spec", "backends", "conformance", "src/tokenmerge", "tests", "tools", "docs")
THEIR_PLACE = ROOT / "conformance" / "rounding.py"
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


def powers(source: str) -> Iterator[int]:
    """Lines that multiply the unit of a dtype by a number that somebody chose."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and _is_number(node.left):
            last = node.right.attr if isinstance(node.right, ast.Attribute) else getattr(node.right, "id", "")
            if last.lower() == "eps":
                yield node.lineno


def _is_number(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_number(node.left) and _is_number(node.right)
    return isinstance(node, ast.Constant)


def files(part: str) -> list[Path]:
    """What may hold no tolerance; files below a link are those of another part."""
    found = sorted((ROOT / part).rglob("*.py"))
    return [path for path in found if path != THEIR_PLACE and not any(parent.is_symlink() for parent in path.parents)]


@pytest.mark.parametrize("part", PARTS)
def test_no_tolerance_is_written_down(part: str) -> None:
    assert files(part)
    sources = {str(path.relative_to(ROOT)): path.read_text() for path in files(part)}
    lines = [f"{name}:{line}" for name, text in sources.items() for line in (*tolerances(text), *powers(text))]
    assert lines == []


@pytest.mark.parametrize(
    "source", ["assert_close(a, b, atol=1e-3)", "np.allclose(a, b)", "assert x == pytest.approx(2)", "isclose(a, b)"]
)
def test_the_lint_can_fail(source: str) -> None:
    assert list(tolerances(source)) == [1]


@pytest.mark.parametrize("source", ["a <= 2**10 * eps * b", "x = 64 * torch.finfo(d).eps", "y = 3 * EPS"])
def test_the_lint_finds_a_chosen_number_of_units(source: str) -> None:
    assert list(powers(source)) == [1]
