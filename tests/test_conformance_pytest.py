"""The suite under pytest, in a project that is not ours."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("hypothesis")

from conformance_cases import BACKWARDS, backend

import tokenmerge
from tokenmerge.conformance.request import request
from tokenmerge.conformance.rules import rules

__all__ = ["backend"]


def under_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The suite in a project that is not ours."""
    line = [sys.executable, "-m", "pytest", "-p", "tokenmerge.conformance.plugin", "-p", "no:cacheprovider", "-q"]
    # where tokenmerge is installed the plugin is there already, and a second registration is an error
    installed = importlib.metadata.entry_points(group="pytest11", name="tokenmerge.conformance.plugin")
    line = line if not installed else [*line[:3], *line[5:]]
    options = ("--tokenmerge-level=quick", "--tokenmerge-merger=ltm", "--tokenmerge-dtype=float32", *options)
    line += ["--pyargs", "tokenmerge.conformance", *options]
    env = os.environ | {"PYTHONPATH": str(Path(tokenmerge.__file__).parents[1])}
    return subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True)


def test_pytest_runs_the_same_checks_with_the_same_skips(tmp_path: Path) -> None:
    (tmp_path / "my.skips").write_text("ltm-generic @ float32: not yet\n")
    run = under_pytest(tmp_path, "--tokenmerge-backend=numpy", "--tokenmerge-skips=my.skips", "-vv", "-rs")
    assert run.returncode == 0, run.stdout
    assert "[numpy-float32-ltm-padded] PASSED" in run.stdout
    assert re.search(r"SKIPPED \[1\].*: not yet", run.stdout)
    checks = request("numpy", dtypes=("float32",), mergers=("ltm",)).checks
    assert len(re.findall(r"\[numpy-float32-[\w-]+\] (?:PASSED|SKIPPED)", run.stdout)) == len(checks)


@pytest.mark.parametrize(
    ("options", "sentence", "status"),
    [
        (["--tokenmerge-backend=no.such.module"], "get_backend: `backend` must be a module that can be imported", 1),
        (["--tokenmerge-backend=numpy", "--tokenmerge-device=tpu"], "conformance: `device` must be one of 'cpu'", 2),
        (["--tokenmerge-backend=numpy", "--tokenmerge-skips=bad.skips"], "conformance: bad.skips line 1 must name", 2),
    ],
)
def test_mistakes_under_pytest(options: list[str], sentence: str, status: int, tmp_path: Path) -> None:
    (tmp_path / "bad.skips").write_text("ltm-generik: no")
    run = under_pytest(tmp_path, *options)
    assert run.returncode == status, run.stdout
    assert re.search(rf"^{re.escape(sentence)}", run.stdout, re.MULTILINE)
    assert "Traceback" not in run.stdout and "_caller.py" not in run.stdout


def test_a_failure_under_pytest(tmp_path: Path, backend: Callable[[str], str]) -> None:
    run = under_pytest(tmp_path, f"--tokenmerge-backend={backend(BACKWARDS)}", "-k", "ltm-generic")
    assert run.returncode == 1, run.stdout
    assert f"PLAN-1: {rules()['PLAN-1']}" in run.stdout and "Repeat it with:" in run.stdout
