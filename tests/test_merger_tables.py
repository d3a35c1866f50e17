"""Nobody lists the mergers or asks for one by its name where a description can be looked up (`spec/mergers.py`)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokenmerge.spec.mergers import MERGERS

ROOT = Path(__file__).parents[1]
PARTS = ("spec", "backends", "conformance", "src")
MOST_LITERALS = 14  # each wing's one table, the public names of the backends, what is measured
MOST_COMPARISONS = 10


def _is_name(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value in MERGERS


def literals(source: str) -> Iterator[int]:
    """Lines of tuples, lists, sets and dicts that name two or more mergers."""
    for node in ast.walk(ast.parse(source)):
        items: list[ast.expr | None] = []
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            items = list(node.elts)
        elif isinstance(node, ast.Dict):
            items = node.keys
        if len({item.value for item in items if isinstance(item, ast.Constant) and _is_name(item)}) > 1:
            yield node.lineno


def comparisons(source: str) -> Iterator[int]:
    """Lines of comparisons with the name of a merger, or with a collection that holds one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            inside = [item for side in sides for item in getattr(side, "elts", [])]
            if any(map(_is_name, (*sides, *inside))):
                yield node.lineno


def everywhere(find: object) -> list[str]:
    assert callable(find)
    files = sorted(path for part in PARTS for path in (ROOT / part).rglob("*.py"))
    # the links in src/tokenmerge lead to the other parts
    own = [path for path in files if not {"spec", "backends", "conformance"} & set(path.relative_to(ROOT).parts[1:3])]
    return [f"{path.relative_to(ROOT)}:{line}" for path in own for line in find(path.read_text())]


def test_few_literals_list_mergers() -> None:
    found = everywhere(literals)
    assert len(found) <= MOST_LITERALS, "\n".join(found)


def test_few_comparisons_name_a_merger() -> None:
    found = everywhere(comparisons)
    assert len(found) <= MOST_COMPARISONS, "\n".join(found)


@pytest.mark.parametrize("source", ['x = ("tome", "ats")', '{"tome": 1, "ltm": 2}', 'f(["ats", "patch_merger"])'])
def test_literals_are_found(source: str) -> None:
    assert list(literals(source))
    assert not list(literals(source.replace("tome", "tme").replace("ats", "at").replace("ltm", "lm")))


@pytest.mark.parametrize("source", ['x == "tome"', 'if x in ("ats", y): pass', '"ltm" != step.merger'])
def test_comparisons_are_found(source: str) -> None:
    assert list(comparisons(source))
    assert not list(comparisons(source.replace("tome", "tme").replace("ats", "at").replace("ltm", "lm")))
