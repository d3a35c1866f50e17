"""A short slice of every fuzzer of `tools/fuzz/`; docs/reliability.md says how to run an hour."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "tools" / "fuzz"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"), [("hostile", 3000), ("differential", 300), ("parsers", 1500), ("together", 1000), ("patch", 30)]
)
def test_a_slice_finds_nothing(name: str, count: int) -> None:
    for needed in ("jax", "torch", "PIL", "hypothesis"):
        pytest.importorskip(needed)
    command = [sys.executable, str(FUZZ / f"{name}.py"), "--seed", "1", "--count", str(count), "--seconds", "25"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr[-4000:]
    assert f"{name}: seed 1, tried " in run.stdout and "tried 0," not in run.stdout
