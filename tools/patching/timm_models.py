"""Every name of timm whose blocks look like a ViT's, as small as its options allow, with random weights."""

from __future__ import annotations

import re
from math import prod
from typing import Any

import timm
from other_models import Case, blocks_of, noise
from torch import nn

MODULES = (
    "vision_transformer",
    "deit",
    "eva",
    "vision_transformer_hybrid",
    "vision_transformer_sam",
    "beit",
    "vision_transformer_relpos",
    "naflexvit",
)
SMALL = {"embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}

__all__ = ["blocks_of", "case", "names"]


def names() -> list[str]:
    """All names of these modules, those first that come first in timm."""
    return [name for module in MODULES for name in timm.list_models(module=module)]


def case(name: str) -> Case:
    """A name as a case."""
    found = re.search(r"_r_s(\d+)_p(\d+)|(?:patch|_s)(\d+)|resnet", name)
    numbers = [int(each) for each in found.groups() if each] if found else [16]
    side = 4 * (prod(numbers) if numbers else 32)  # in front of a ResNet's last map

    def build() -> nn.Module:
        options: dict[str, Any] = SMALL | ({} if "naflex" in name else {"img_size": side})
        if "sapiens2" in name:
            options["num_kv_heads"] = 3
        if "mci" in name:  # whose stem gives no other width
            options |= {"embed_dim": 768, "num_heads": 12}
        return timm.create_model(name, **options)

    return Case(build, lambda: {"x": noise(2, 3, side, side)})
