"""The page of patched models is that of today's families; `python tools/patch_table.py --write` makes it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")
timm = pytest.importorskip("timm")
hf = pytest.importorskip("transformers")

import hf_models  # noqa: E402
import other_models  # noqa: E402
import timm_models  # noqa: E402

from tokenmerge.backends.torch.patching import hf_families  # noqa: E402

PAGE = (Path(__file__).parents[1] / "docs" / "guides" / "patched-models.md").read_text()


def outcomes(heading: str) -> dict[str, str]:
    """By name, what came out, in one part of the page."""
    part = PAGE.split(f"## {heading}")[1].split("\n## ")[0]
    rows = [line.split(" | ") for line in part.splitlines() if line.startswith("| ")][1:]
    return {row[0].removeprefix("| "): row[1] for row in rows}


def test_every_case_is_on_the_page() -> None:
    assert list(outcomes("Hugging Face")) == list(hf_models.CASES)
    assert list(outcomes("torchvision")) == list(other_models.CASES)
    assert set(timm_models.names()) <= set(re.findall(r"[\w.]+", PAGE.split("## timm")[1]))


def test_every_family_has_a_case() -> None:
    families = {name.rsplit(".", 2)[0] for name in hf_families.KNOWN.networks}
    assert families <= {hf_models.class_of(name).__module__ for name in hf_models.CASES}


def test_nothing_on_the_page_is_unchecked() -> None:
    tables = "\n".join(line for line in PAGE.splitlines() if line.startswith("| "))
    assert "WRONG" not in tables
    for heading in ("Hugging Face", "torchvision"):
        assert set(outcomes(heading).values()) <= {"accepted", "restored", "around", "refused"}
    good = [each for each in outcomes("Hugging Face").values() if each != "refused"]
    assert len(good) >= 60
    names = re.findall(r"\| (\d+) \| accepted \|", PAGE.split("## timm")[1])
    assert sum(map(int, names)) >= 250
