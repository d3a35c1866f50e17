"""What the tests of patched models share: small models, images, and what "the same" means."""

from __future__ import annotations

from typing import Any

import pytest

from tokenmerge import ATSMerging, LTMMerging, PatchMergerMerging, ToMeMerging

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
    "ltm": ("ltm", {"compression_ratio": 0.6, "around": None}, LTMMerging(0.6)),
    "patch_merger": ("patch_merger", {"num_tokens_out": 4}, PatchMergerMerging(num_tokens_out=4)),
}
EPS = float(torch.finfo(torch.float64).eps)


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


def near(got: Any, expected: Any) -> bool:
    return bool(got.shape == expected.shape and (got - expected).abs().max() <= 2**10 * EPS * expected.abs().max())
