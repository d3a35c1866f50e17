"""Backends, fixtures and short words that the tests of `tokenmerge conformance` share."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("hypothesis")

from tokenmerge.cli import app
from tokenmerge.conformance import command
from tokenmerge.conformance.report import make_report
from tokenmerge.conformance.request import Request, request
from tokenmerge.conformance.runner import Result

ROOT = Path(__file__).parents[1]
FAST = ("--level", "quick", "--merger", "ltm", "--dtype", "float32")

# a copy of the NumPy backend that is wrong in one place
BACKWARDS = """
from tokenmerge.backends.numpy import *
from tokenmerge.backends.numpy import MERGERS as RIGHT, LTM

class Backwards(LTM):
    def __call__(self, x, **arguments):
        merged = super().__call__(x, **arguments)
        return merged._replace(tokens=merged.tokens[:, ::-1])

MERGERS = {"ltm": Backwards}
VERSION = "0.1 <b>"
"""
ODD_DEVICE = """
from tokenmerge.backends.numpy import from_numpy as here
SEEN = []
def devices():
    return ("cpu", "odd")
def from_numpy(array, dtype=None, device=None):
    SEEN.append(device)
    return here(array, dtype, None)
"""
CTRL_C = """
import os, signal
from tokenmerge.backends.numpy import *
from tokenmerge.backends.numpy import LTM

class Stopped(LTM):
    calls = 0
    def __call__(self, x, **arguments):
        Stopped.calls += 1
        if Stopped.calls > 30:
            os.kill(os.getpid(), signal.SIGINT)
        return super().__call__(x, **arguments)

MERGERS = {"ltm": Stopped}
"""


def invoke(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["conformance", *map(str, arguments)])


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a backend, return its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(source: str) -> str:
        package = f"adopter{abs(hash((tmp_path, source)))}"
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / "backend.py").write_text(source)
        return f"{package}.backend"

    return make


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a check ran")

    monkeypatch.setattr(Request, "run", forbidden)


def failing(backend: Callable[[str], str], *extra: str | Path) -> tuple[Any, str]:
    name = backend(BACKWARDS)
    return invoke("--backend", name, *FAST, *extra), name


def names_this_machine(text: str) -> bool:
    names = [name for name in (platform.node(), str(Path.home()), str(ROOT)) if len(name) > 1]
    return any(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) for name in names)


def result(status: str, *, check: str = "ltm-exact", rules: tuple[str, ...] = ("LTM-1",), **fields: Any) -> Result:
    return Result(check, 1, "A sentence.", rules, status, **{"dtype": "float32", "examples": 3} | fields)


@pytest.fixture(scope="module")
def reports() -> tuple[dict[str, Any], dict[str, Any]]:
    """A green report, and one of everything else."""
    asked = request("numpy", level="quick", dtypes=("float32", "float64"), mergers=("ltm",))
    green = command.run(asked)
    results = []
    for i, check in enumerate(asked.checks):
        for dtype in asked.dtypes:
            one = Result(check.id, check.tier, check.statement, check.rules, "passed", dtype, examples=5)
            if i % 4 == 1 and dtype == "float32":
                one = replace(one, status="failed", broken=check.rules[:2], message="tokens=<i>1</i>, but should be 2")
                one = replace(one, snippet="print('<&>')", repeat="again()", input="x (1,) =\n[1.]")
            elif i % 4 > 1:
                one = replace(one, status=("skipped", "not applicable")[i % 4 - 2], message="because <so>", examples=0)
            results.append(one)
    return green, make_report(replace(asked, backend="my.<b>"), results)
