"""The doors are typed: a merger that is asked for by a literal name is of its own class, under mypy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")
pytest.importorskip("torch")

from tokenmerge import Merger, get_merger
from tokenmerge.spec.mergers import MERGERS
from tokenmerge.spec.shared import options

ROOT = Path(__file__).parents[1]
PROGRAM = """
from typing import Any, assert_type

import torch

from tokenmerge import Merger, Plan, ToMeMerging, ViTConfig, get_merger, get_vit, patch
from tokenmerge.backends import jax, numpy
from tokenmerge.backends import torch as backend
from tokenmerge.backends.torch.patching.handle import Handle

assert_type(get_merger("tome", r=4), numpy.ToMe)
assert_type(get_merger("patch_merger", backend="torch", dim=4, num_tokens_out=2), backend.PatchMerger)
assert_type(get_merger("ltm", backend="jax", dim=4, compression_ratio=0.5), jax.LTM)
assert_type(get_vit(ViTConfig(merging=ToMeMerging(r=4)), backend="torch"), backend.ViT)
assert_type(get_vit(ViTConfig()), numpy.ViT)
assert_type(patch(torch.nn.Linear(2, 2), "tome", r=4), Handle)

torch.nn.Sequential(get_merger("ats", backend="torch", max_tokens=4))
mergers: list[Merger] = [get_merger("tome", r=1), get_merger("ats", backend="torch", max_tokens=4)]
mergers.append(get_merger("patch_merger", backend="jax", dim=4, num_tokens_out=2))



def of(plan: numpy.PartitionPlan, other: backend.DensePlan, third: jax.SelectionPlan) -> list[Plan]:
    return [plan, other, third]
"""
WRONG = """
from typing import assert_type

from tokenmerge import Plan, get_merger
from tokenmerge.backends import numpy

assert_type(get_merger("tome", r=4), numpy.ATS)
plan: Plan = 3
"""


def checked(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(program)
    config = ("--config-file", str(ROOT / "pyproject.toml"))
    line = [sys.executable, "-m", "mypy", *config, str(folder / "program.py")]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True)


def test_doors_have_types(tmp_path: Path) -> None:
    run = checked(PROGRAM, tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_wrong_type_is_found(tmp_path: Path) -> None:
    run = checked(WRONG, tmp_path)
    assert run.returncode == 1 and "Found 2 errors" in run.stdout, run.stdout + run.stderr


@pytest.mark.parametrize("backend", ["spec", "numpy", "torch"])
def test_a_merger_has_what_the_protocol_says(backend: str) -> None:
    merger = get_merger("tome", backend=backend, r=1)
    for name in ("plan", "params", "load_params", "__call__"):
        assert hasattr(Merger, name) and callable(getattr(merger, name))


@pytest.mark.parametrize("name", MERGERS)
def test_the_types_have_the_options_of_the_record(name: str) -> None:
    typed = {each.lower(): found for each, found in vars(options).items() if each.endswith("Options")}
    found = typed[f"{name.replace('_', '')}options"]
    assert tuple(found.__annotations__) == tuple(MERGERS[name].options)
    assert set(found.__required_keys__) == set(MERGERS[name].required)
