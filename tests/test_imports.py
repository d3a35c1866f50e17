"""No circle of imports, and no arrow up between the wings: both are computed from the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "tokenmerge"

# Who may import whom at the top of a file: a wing sees itself and those in front of it.
SEES = {
    "spec": (),
    "backends": ("spec",),
    "conformance": ("backends", "spec"),
    "front": ("conformance", "backends", "spec"),  # src/tokenmerge: the command line, the demo, the doors
}
# What stands on nothing of ours, and may be used from everywhere but the spec.
GROUND = {"tokenmerge.clusters", "tokenmerge.files"}


def modules() -> dict[str, str]:
    """The dotted name of every module of ours, and its source."""
    found = {}
    for folder in (PACKAGE, *(PACKAGE / part for part in ("spec", "backends", "conformance"))):
        for path in folder.resolve().rglob("*.py"):
            if folder == PACKAGE and any(parent.is_symlink() for parent in path.parents):
                continue
            prefix = "tokenmerge" if folder == PACKAGE else f"tokenmerge.{folder.name}"
            parts = path.relative_to(folder.resolve()).with_suffix("").parts
            name = ".".join([prefix, *(parts[:-1] if parts[-1] == "__init__" else parts)])
            found[name] = path.read_text()
    return found


def at_the_top(tree: ast.AST) -> Iterator[ast.stmt]:
    """Imports that run when the module does: not in functions, not for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_the_top(node)


def needs(source: str, known: Mapping[str, object]) -> set[str]:
    """The modules of ours that a module imports at the top; a package whose name is all that is used does not count."""
    names = set[str]()
    for node in at_the_top(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inside & known.keys() or {node.module}
            if not inside <= known.keys():
                names.add(node.module)
    return names & known.keys()


def circle(sources: Mapping[str, str]) -> list[str]:
    """One circle of imports, or none."""
    graph = {name: needs(source, sources) - {name} for name, source in sources.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def wing(module: str) -> str:
    part = module.split(".")[1] if "." in module else ""
    return part if part in SEES else "front"


def arrows_up(sources: Mapping[str, str]) -> list[str]:
    """Imports of a wing that comes later."""
    return [
        f"{name} -> {needed}"
        for name, source in sources.items()
        for needed in sorted(needs(source, sources))
        if wing(needed) not in (wing(name), *SEES[wing(name)]) and (needed not in GROUND or wing(name) == "spec")
    ]


def test_modules_are_found() -> None:
    found = modules()
    assert {"tokenmerge", "tokenmerge.spec.tome", "tokenmerge.backends.torch.plan", "tokenmerge.cli"} <= found.keys()


def test_no_circle_of_imports() -> None:
    assert circle(modules()) == []


@pytest.mark.parametrize("name", sorted(GROUND))
def test_the_ground_stands_on_the_wall_alone(name: str) -> None:
    sources = modules()
    assert all(needed.startswith("tokenmerge.spec.shared.") for needed in needs(sources[name], sources))


def test_no_arrow_up_between_wings() -> None:
    assert arrows_up(modules()) == []


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("from tokenmerge.b import x", "import tokenmerge.a"),
        ("from tokenmerge import b", "class A:\n    from tokenmerge.a import x"),
    ],
)
def test_a_circle_is_found(a: str, b: str) -> None:
    assert set(circle({"tokenmerge.a": a, "tokenmerge.b": b})) == {"tokenmerge.a", "tokenmerge.b"}


@pytest.mark.parametrize("b", ["def f():\n    import tokenmerge.a", "if TYPE_CHECKING:\n    import tokenmerge.a"])
def test_what_does_not_run_is_no_circle(b: str) -> None:
    assert circle({"tokenmerge.a": "import tokenmerge.b", "tokenmerge.b": b}) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("tokenmerge.spec.x", "import tokenmerge.backends.y"),
        ("tokenmerge.backends.y", "from tokenmerge.conformance import z"),
        ("tokenmerge.conformance.z", "from tokenmerge.cli import main"),
    ],
)
def test_an_arrow_up_is_found(name: str, source: str) -> None:
    known = dict.fromkeys(("tokenmerge.backends.y", "tokenmerge.conformance.z", "tokenmerge.cli"), "")
    assert len(arrows_up(known | {name: source})) == 1
