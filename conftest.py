"""Collect spec/, backends/ and conformance/ under their import names.

The three root folders are the packages tokenmerge.spec, tokenmerge.backends and
tokenmerge.conformance. Python reaches them through the links in src/tokenmerge/. pytest names a
module after its path, so a path below a root folder is replaced by the path below src/tokenmerge/.
"""

from __future__ import annotations

import functools
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
PACKAGE = ROOT / "src" / "tokenmerge"
PARTS = ("spec", "backends", "conformance")

# Left out of the doctests where the package they need is missing. Any other failing import is an error.
NEEDS = {
    PACKAGE / "backends" / "torch": "torch",
    PACKAGE / "backends" / "torch" / "kernels": "triton",
    PACKAGE / "backends" / "jax": "flax",
    PACKAGE / "backends" / "jax" / "patching" / "keras.py": "keras_hub",
}

pytest_plugins = ["tokenmerge.conformance.plugin"]


def _below_package(arg: str, invoked_from: Path) -> str:
    path, sep, node = arg.partition("::")
    full = Path(invoked_from, path)
    if not full.is_relative_to(ROOT):
        return arg
    rel = full.relative_to(ROOT)
    if not rel.parts or rel.parts[0] not in PARTS:
        return arg
    if not (PACKAGE / rel.parts[0]).is_dir():
        link = Path("src", "tokenmerge", rel.parts[0])
        raise pytest.UsageError(f"{link} is not a link to {rel.parts[0]}/: see CONTRIBUTING.md")
    return f"{PACKAGE / rel}{sep}{node}"


def pytest_configure(config: pytest.Config) -> None:
    if not config.option.pyargs:
        here = config.invocation_params.dir
        config.args[:] = [_below_package(a, here) for a in config.args]


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    if collection_path in [*(ROOT / part for part in PARTS), ROOT / "tests" / "stride"]:  # a merger of another tree
        return True
    needed = NEEDS.get(collection_path)
    return True if needed and find_spec(needed) is None else None


@functools.cache
def _has_cuda() -> bool:
    if find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Programs that JAX compiled go with the file they were for: a process may not hold those of all files."""
    if "jax" in sys.modules and (nextitem is None or nextitem.path != item.path):
        sys.modules["jax"].clear_caches()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not _has_cuda():
        pytest.skip("needs a CUDA device")
