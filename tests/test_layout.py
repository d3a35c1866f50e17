"""The checkout, the installation and the links agree, and every wing has the same rooms."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("spec", "backends", "conformance")
ALGORITHMS = {"plan", "tome", "ats", "patch_merger", "ltm"}
SMALL_ROOMS = {
    "attention",
    "check",
    "information_bottleneck",
    "matching",
    "merger",
    "pooling",
    "precision",
    "ties",
    "vit",
}
BACKENDS = sorted(p.parent.name for p in (ROOT / "backends").glob("*/__init__.py"))
BACKEND_FILES = sorted(p for name in BACKENDS for p in (ROOT / "backends" / name).rglob("*.py"))
ROOMS = [ROOT / "spec", *(ROOT / "backends" / name for name in BACKENDS), ROOT / "conformance", ROOT / "docs"]
# what is framework-free: argument checks, shapes, the named tuple that comes back, first values of parameters
OPEN_TO_BACKENDS = ("tokenmerge.spec.shared",)
SOURCES = sorted(path for part in (*PARTS, "src", "tests") for path in (ROOT / part).rglob("*.py"))

links = [ROOT / "src" / "tokenmerge" / part for part in PARTS]
in_checkout = pytest.mark.skipif(not all(os.path.lexists(p) for p in links), reason="no links: not a checkout")


# The installation


@in_checkout
@pytest.mark.parametrize("part", PARTS)
def test_link_is_the_root_folder(part: str) -> None:
    assert os.path.samefile(ROOT / "src" / "tokenmerge" / part, ROOT / part)


@in_checkout
@pytest.mark.parametrize("part", PARTS)
def test_link_is_relative(part: str) -> None:
    assert Path(os.readlink(ROOT / "src" / "tokenmerge" / part)) == Path("..", "..", part)


@pytest.mark.parametrize("part", PARTS)
def test_root_folder_is_not_importable_as_a_second_copy(part: str) -> None:
    run = subprocess.run([sys.executable, "-c", f"import {part}"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode != 0
    assert f"import it as 'tokenmerge.{part}'" in run.stderr


def test_nothing_else_is_installed_at_top_level() -> None:
    try:
        files = metadata.files("tokenmerge") or []
    except metadata.PackageNotFoundError:
        pytest.skip("not installed")
    tops = {f.parts[0] for f in files if f.parts[0] != ".."}
    allowed = {"tokenmerge", "_tokenmerge.pth", "__pycache__"}
    assert {t for t in tops if not t.endswith(".dist-info")} <= allowed


@pytest.mark.parametrize("part", PARTS)
def test_package_holds_every_file_of_the_root_folder(part: str) -> None:
    (base,) = importlib.import_module(f"tokenmerge.{part}").__path__
    ours = {p.relative_to(ROOT / part) for p in _files(ROOT / part)}
    assert ours == {p.relative_to(base) for p in _files(Path(base))}


def _files(folder: Path) -> Iterator[Path]:
    return (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


# The same rooms in every wing


def test_our_backends_are_found() -> None:
    assert {"numpy", "torch", "jax"} <= set(BACKENDS)


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(ROOT)))
def test_room_has_a_file_for_every_algorithm(room: Path) -> None:
    suffix = ".md" if room.name == "docs" else ".py"
    assert ALGORITHMS - {p.stem for p in room.glob(f"*{suffix}")} == set()


@pytest.mark.parametrize("backend", BACKENDS)
def test_backend_has_the_small_rooms(backend: str) -> None:
    assert SMALL_ROOMS - {p.stem for p in (ROOT / "backends" / backend).glob("*.py")} == set()
    plan = importlib.import_module(f"tokenmerge.backends.{backend}.plan")
    assert callable(plan.compose) and callable(plan.compose_layers)
    ties = importlib.import_module(f"tokenmerge.backends.{backend}.ties")
    assert callable(ties.descending) and callable(ties.true_first) and callable(ties.inverse)


@pytest.mark.parametrize("module", ["tokenmerge.spec.batch", "tokenmerge.backends.numpy"])
def test_every_merger_is_an_algorithm_with_rooms(module: str) -> None:
    assert {"plan", *importlib.import_module(module).MERGERS} == ALGORITHMS


# Who may import whom


def imported(source: str) -> Iterator[str]:
    """Yield the dotted names a module imports, anywhere in it; a relative import keeps its dots."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def relative(source: str) -> list[str]:
    return [name for name in imported(source) if name.startswith(".")]


def forbidden_in_spec(source: str) -> list[str]:
    """The spec is NumPy, the standard library and itself."""
    allowed = ("tokenmerge.spec", "numpy", *sys.stdlib_module_names)
    return [name for name in imported(source) if not within(name, *allowed)]


def forbidden_in_backend(source: str, backend: str) -> list[str]:
    """A backend sees itself, no other backend, no proof, and of the spec only what is framework-free."""
    closed = {
        "tokenmerge.conformance": (),
        "tokenmerge.spec": OPEN_TO_BACKENDS,
        **{f"tokenmerge.backends.{other}": () for other in BACKENDS if other != backend},
    }
    return [
        name
        for name in imported(source)
        if any(within(name, room) and not within(name, *doors) for room, doors in closed.items())
    ]


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_imports_are_absolute(path: Path) -> None:
    assert relative(path.read_text()) == []


@pytest.mark.parametrize("path", sorted((ROOT / "spec").rglob("*.py")), ids=_id)
def test_spec_imports_nothing_of_ours(path: Path) -> None:
    assert forbidden_in_spec(path.read_text()) == []


@pytest.mark.parametrize("path", BACKEND_FILES, ids=_id)
def test_backend_imports_no_other_wing(path: Path) -> None:
    backend = path.relative_to(ROOT / "backends").parts[0]
    assert forbidden_in_backend(path.read_text(), backend) == []


# The checks above can fail


@pytest.mark.parametrize(
    "source",
    [
        "import tokenmerge",
        "import torch",
        "from tokenmerge import backends",
        "from tokenmerge.backends.numpy import tome",
        "def f():\n    import tokenmerge.conformance",
    ],
)
def test_spec_check_can_fail(source: str) -> None:
    assert forbidden_in_spec(source) != []


@pytest.mark.parametrize(
    "source",
    [
        "import tokenmerge.spec",
        "import tokenmerge.backends.jax",
        "from tokenmerge import spec",
        "from tokenmerge.spec import arguments, tome",
        "from tokenmerge.spec.tome import plan",
        "from tokenmerge.backends import jax",
        "from tokenmerge.backends.jax.tome import plan",
        "def f():\n    from tokenmerge import conformance",
    ],
)
def test_backend_check_can_fail(source: str) -> None:
    assert forbidden_in_backend(source, "torch") != []


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (forbidden_in_spec, "import math\nimport numpy as np\nfrom tokenmerge.spec import tome"),
        (
            lambda source: forbidden_in_backend(source, "torch"),
            "import torch\nfrom tokenmerge.backends.torch import tome\n"
            "from tokenmerge.spec.shared import schedule\nfrom tokenmerge.spec.shared.arguments import check",
        ),
    ],
)
def test_checks_let_good_imports_pass(check: Callable[[str], list[str]], source: str) -> None:
    assert check(source) == []


@pytest.mark.parametrize("source", ["from . import tome", "from ..spec.tome import plan"])
def test_relative_check_can_fail(source: str) -> None:
    assert relative(source) != []


def small_numbers(source: str) -> list[float]:
    """Floors and tolerances that a program writes down, outside of its docstrings."""
    constants = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return [value for value in constants if isinstance(value, float) and 0 < value < 1e-3]


@pytest.mark.parametrize("room", ["ats", "information_bottleneck"])
@pytest.mark.parametrize("wing", ["spec", *(f"backends/{name}" for name in BACKENDS)])
def test_a_constant_of_the_law_is_written_once(wing: str, room: str) -> None:
    assert small_numbers((ROOT / wing / f"{room}.py").read_text()) == []


def test_the_constants_of_the_law_are_where_they_should_be() -> None:
    assert small_numbers((ROOT / "spec/shared/constants.py").read_text()) == [1e-12, 1e-6]


def test_one_version_in_three_places() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    changed = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert cited is not None and changed is not None
    assert cited[1].strip('"') == changed[1].strip("[]") == declared
