"""JAX as its users compile it: XLA's own choice of options, where this run takes others to be done sooner."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("jax")
COMMAND = "from tokenmerge.cli import main; main()"  # what the script `tokenmerge` does, installed or not


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("XLA_FLAGS"), reason="every test of this run has XLA's own options")
def test_a_quick_look_is_green() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"COLUMNS": "120"}
    look = ("conformance", "--backend", "jax", "--level", "quick", "--dtype", "float32")
    run = subprocess.run([sys.executable, "-c", COMMAND, *look], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "are green" in run.stdout
