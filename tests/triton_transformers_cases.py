"""Patched models of Hugging Face in half precision, with attention by the kernel; run like `triton_patch_cases.py`."""

from __future__ import annotations

from typing import Any

import pytest
import test_patch_transformers as hf_cases
import torch
from triton_patch_cases import DEVICE, Tensor, compiled, uses

from tokenmerge.backends.torch import patch

__all__ = ["uses"]


def theirs(name: str, dtype: torch.dtype, implementation: str = "sdpa") -> Any:
    return hf_cases.build(name, implementation).to(DEVICE, dtype)


def pixels() -> Tensor:
    picture: Tensor = hf_cases.pixels().to(DEVICE, torch.bfloat16)
    return picture


@pytest.mark.parametrize("name", ["vit", "deit", "dinov2, registers", "clip", "siglip, mean"])
def test_it_is_used(name: str, uses: list[Any]) -> None:
    model, x = theirs(name, torch.bfloat16), pixels()
    with torch.no_grad(), patch(model, "tome", r=3):
        assert hf_cases.result(model(pixel_values=x)).isfinite().all()
    assert len(uses) == 2


def test_padding_of_ats_uses_it(uses: list[Any]) -> None:
    model = theirs("vit", torch.bfloat16)
    with torch.no_grad(), patch(model, "ats", max_tokens=(9, 6)) as handle:
        model(pixel_values=pixels())
    assert len(uses) == 2 and all(size is None and mask is not None for *_, size, mask, _ in uses)
    assert [plan and plan.num_tokens_out for plan in handle.plans] == [10, 7, None]


def test_eager_attention_adds_it(uses: list[Any]) -> None:
    model, x = theirs("vit", torch.bfloat16, "eager"), pixels()
    with torch.no_grad(), patch(model, "tome", r=3):
        assert model(pixel_values=x).logits.isfinite().all()
    assert not uses


def takes_compiling_for_exporting() -> bool:
    """PyTorch 2.11 does, and so `transformers` makes a mask of its own, which no patched model takes."""
    asked = torch.compile(lambda x: x + torch.compiler.is_exporting(), fullgraph=True, backend="eager")
    return bool(asked(torch.zeros(())))


@pytest.mark.skipif(takes_compiling_for_exporting(), reason="needs a PyTorch that knows when it exports")
def test_it_compiles_as_one_graph(uses: list[Any]) -> None:
    model, x = theirs("vit", torch.bfloat16), pixels()
    seen: list[str] = []
    with torch.no_grad(), patch(model, "tome", r=3):
        want = model(pixel_values=x).logits
        assert torch.equal(compiled(model, seen)(pixel_values=x).logits, want)
    assert sum("attention_tokens" in target for target in seen) == 2, seen
