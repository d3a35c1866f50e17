"""The table of docs/guides/deploy.md, a sample of it: `python tools/export_table.py --write` makes the whole."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("matplotlib")
pytest.importorskip("timm")
pytest.importorskip("transformers")


def test_a_sample_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "tools")
    import export_table

    assert export_table.tried("timm SigLIP", "ats").refused.startswith("patch: `model` must have a class token")
    found = export_table.tried("timm DeiT", "ats")  # with a token in front that is kept and not scored
    assert not found.wrong
    assert 0 < found.nodes <= 45
    shown = export_table.table({("a model", name): found for name in export_table.PATCHED})
    assert "WRONG" not in shown
    wrong = found._replace(wrong="2 in a call")
    assert "WRONG" in export_table.table({("a model", name): wrong for name in export_table.PATCHED})
