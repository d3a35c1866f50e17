"""The notebooks run, cell by cell, in this process: a kernel of its own for each would import the frameworks again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NEEDS = {"torch": ("timm", "sklearn"), "jax": ("flax", "sklearn")}


def cells(notebook: Path) -> list[str]:
    """Its code."""
    found = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


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
        for number, source in enumerate(cells(FOLDER / f"{name}.ipynb")):
            exec(compile(source, f"{name}.ipynb, code cell {number}", "exec"), space)
        assert plt.get_fignums(), "a notebook draws something"
    finally:
        plt.close("all")
    assert "right" in capsys.readouterr().out


@pytest.mark.parametrize("name", NEEDS)
def test_a_notebook_shows_what_came_out(name: str) -> None:
    found = [
        cell for cell in json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"] if cell["cell_type"] == "code"
    ]
    pictures = [output for cell in found for output in cell["outputs"] if "image/png" in output.get("data", {})]
    assert pictures and all(output["output_type"] != "error" for cell in found for output in cell["outputs"])
