"""What the tests of patched models share: small models, images, and what "the same" means."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest

from tokenmerge import ATSMerging, LTMMerging, PatchMergerMerging, ToMeMerging
from tokenmerge.conformance.rounding import chain_budget

torch = pytest.importorskip("torch")

VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}
HF: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
}
# a merger, its options for `patch`, and the same in a network of ours
MERGINGS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "tome": ("tome", {"r": 3}, ToMeMerging(r=3)),
    "tome, schedule": ("tome", {"r": (3, -1.0), "prop_attn": False}, ToMeMerging(r=(3, -1.0), prop_attn=False)),
    "ats": ("ats", {"max_tokens": (9, 6, 4)}, ATSMerging((9, 6, 4))),
    "ltm": ("ltm", {"compression_ratio": 0.6, "around": None}, LTMMerging(0.6, around=None)),
    "patch_merger": ("patch_merger", {"num_tokens_out": 4}, PatchMergerMerging(num_tokens_out=4)),
}


def shaken(model: Any) -> Any:
    """In float64 and evaluation mode, with random parameters: zeros and ones would hide what is left out."""
    torch.manual_seed(0)
    model = model.double().eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn_like(value))
    return model


def vit(**options: Any) -> Any:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    return shaken(timm.models.vision_transformer.VisionTransformer(**VIT | options))


def images(batch: int = 2, side: int = 32) -> Any:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def terms(model: Any, tokens: int = 17) -> int:
    """The roundings on the way through a model: a sum has as many as it has terms, a norm is two sums, attention two.

    Branches are counted one after the other, as the residual stream passes them.
    """
    total = 0
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            total += 2 * math.prod(module.normalized_shape)
        elif isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            total += module.weight[0].numel()
        elif "attention" in type(module).__name__.lower():
            total += 2 * tokens
    return total


@functools.cache
def _terms_of_vit() -> int:
    return terms(vit())


def near(got: Any, expected: Any, model: Any = None, dtype: str = "float64") -> bool:
    """Whether two results differ by no more than the roundings of a model explain, `vit()` if none is given."""
    budget = chain_budget(terms(model) if model is not None else _terms_of_vit(), float(expected.abs().max()), dtype)
    return bool(got.shape == expected.shape and (got - expected).abs().max() <= budget)
