"""Importing the package loads no framework and none of the optional packages."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

HEAVY = {"torch", "jax", "flax", "matplotlib", "hypothesis"}


def heavy_modules_loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return HEAVY & set(run.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "tokenmerge",
        "tokenmerge.cli",
        "tokenmerge.spec",
        "tokenmerge.backends",
        "tokenmerge.backends.numpy",
        # pytest loads the plugin wherever tokenmerge is installed, also where Hypothesis is not.
        "tokenmerge.conformance.plugin",
    ],
)
def test_import_loads_nothing_heavy(module: str) -> None:
    assert heavy_modules_loaded_by(module) == set()


@pytest.mark.parametrize(
    ("module", "loaded"),
    [
        ("tokenmerge.backends.torch", "torch"),
        ("tokenmerge.backends.jax", "jax"),
        ("hypothesis", "hypothesis"),
    ],
)
def test_check_can_fail(module: str, loaded: str) -> None:
    if find_spec(loaded) is None:
        pytest.skip(f"needs {loaded}")
    assert loaded in heavy_modules_loaded_by(module)
