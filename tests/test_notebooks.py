"""The notebooks run, cell by cell, in this process: a kernel of its own for each would import the frameworks again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NEEDS = {"torch": ("timm", "sklearn"), "jax": ("flax", "sklearn")}


def cells(name: str) -> list[dict[str, Any]]:
    """Those that hold code."""
    found = json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def test_every_notebook_is_run() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NEEDS)


@pytest.mark.parametrize("name", NEEDS)
def test_a_notebook_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for package in NEEDS[name]:
        pytest.importorskip(package)
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    space: dict[str, object] = {"__name__": "__main__"}
    try:
        for number, cell in enumerate(cells(name)):
            exec(compile("".join(cell["source"]), f"{name}.ipynb, code cell {number}", "exec"), space)
        assert plt.get_fignums(), "a notebook draws something"
    finally:
        plt.close("all")
    assert "right" in capsys.readouterr().out


@pytest.mark.parametrize("name", NEEDS)
def test_a_notebook_shows_what_came_out(name: str) -> None:
    outputs = [output for cell in cells(name) for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)
