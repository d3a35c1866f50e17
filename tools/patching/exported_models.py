"""The models that are exported with every merger (docs/guides/deploy.md): small, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
import transformers as hf
from torch import nn

from tokenmerge import ATSMerging, LTMMerging, PatchMergerMerging, ToMeMerging, ViTConfig, get_vit

DEPTH = 2
SMALL: dict[str, Any] = {"embed_dim": 24, "depth": DEPTH, "num_heads": 3, "num_classes": 5}
# PatchMerger leaves no class token
AVERAGED: dict[str, Any] = {"class_token": False, "global_pool": "avg"}
VIT: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
}
PATCHED: dict[str, dict[str, Any]] = {
    "tome": {"r": 4},
    "ats": {"max_tokens": (13, 9)},
    "patch_merger": {"num_tokens_out": 6},
    "ltm": {"compression_ratio": 0.7},
}
OURS: dict[str, dict[str, Any]] = {
    "none": {},
    "tome": {"merging": ToMeMerging(r=4)},
    "ats": {"merging": ATSMerging((13, 9))},
    "patch_merger": {"merging": PatchMergerMerging(num_tokens_out=6), "pool": "mean", "class_token": False},
    "ltm": {"merging": LTMMerging(0.7)},
}


def of_timm(name: str, side: int = 64, averaged: str | None = None) -> Callable[[str], nn.Module]:
    """A builder of a name; `averaged` is its relative that can be built without a class token."""

    def build(merger: str) -> nn.Module:
        if merger == "patch_merger" and averaged is not None:
            return timm.create_model(averaged, img_size=side, **SMALL, **AVERAGED)
        return timm.create_model(name, img_size=side, **SMALL)

    return build


def of_transformers(kind: str, config: Callable[[], Any], features: bool = False) -> Callable[[str], nn.Module]:
    """A builder of a class; `features`: PatchMerger is for its tokens, since its classifier reads the class token."""

    def build(merger: str) -> nn.Module:
        if merger == "patch_merger" and features:
            return getattr(hf, f"{kind}Model")(config(), add_pooling_layer=False)
        return getattr(hf, f"{kind}ForImageClassification")(config())

    return build


def ours(merger: str) -> nn.Module:
    config = ViTConfig(image_size=32, patch_size=8, dim=24, depth=DEPTH, heads=3, num_classes=5, **OURS[merger])
    return get_vit(config, backend="torch")


def _without_ratio() -> dict[str, Any]:
    return {name: value for name, value in VIT.items() if name != "intermediate_size"} | {"mlp_ratio": 2}


MODELS: dict[str, Callable[[str], nn.Module]] = {
    "timm ViT": of_timm("vit_tiny_patch16_224", averaged="vit_tiny_patch16_224"),
    "timm DeiT": of_timm("deit_tiny_distilled_patch16_224", averaged="deit_tiny_patch16_224"),
    "timm DINOv2 with registers": of_timm("vit_small_patch14_reg4_dinov2", 56, "vit_small_patch14_reg4_dinov2"),
    "timm SigLIP": of_timm("vit_base_patch16_siglip_224"),
    "timm EVA with rotary": of_timm("eva02_tiny_patch14_224", 56),
    "Hugging Face ViT": of_transformers("ViT", lambda: hf.ViTConfig(**VIT), features=True),
    "Hugging Face DINOv2": of_transformers("Dinov2", lambda: hf.Dinov2Config(**_without_ratio())),
    "Hugging Face CLIP": of_transformers("CLIP", lambda: hf.CLIPConfig(vision_config=VIT, num_labels=5)),
    "Hugging Face SigLIP": of_transformers("Siglip", lambda: hf.SiglipConfig(vision_config=VIT, num_labels=5)),
    "our ViT": ours,
}


def model(name: str, merger: str) -> nn.Module:
    """A model, in evaluation mode and with the merger in it.

    Parameters are drawn wide, so that what differs in a token is seen in the logits.

    Raises:
        ValueError: the merger does not fit the model.
    """
    torch.manual_seed(0)
    made = MODELS[name](merger).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    if merger != "none" and name != "our ViT":
        from tokenmerge import patch

        patch(made, merger, **PATCHED[merger])
    return made
