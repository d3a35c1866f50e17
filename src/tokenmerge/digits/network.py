"""The network that is trained on the digits, and the same one with a merger in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenmerge.digits.data import SIDE
from tokenmerge.spec.shared.description import Merging
from tokenmerge.spec.shared.vit_config import ViTConfig

CHECKPOINT = Path(__file__).with_name("digits.safetensors")


def digits_config(merging: Merging | None = None, **options: Any) -> ViTConfig:
    """A ViT with 64 patches, six blocks and 0.2 million parameters.

    PatchMerger leaves no class token, so with it the head reads the mean of the tokens; the parameters stay the same.

    >>> digits_config().num_tokens
    65
    """
    needs = {"pool": "class", "fc_norm": False, **(merging.NETWORK if merging else {})}
    sizes: dict[str, Any] = {"image_size": SIDE, "patch_size": 4, "channels": 1, "num_classes": 10}
    widths: dict[str, Any] = {"dim": 64, "depth": 6, "heads": 4, "mlp_dim": 128}
    return ViTConfig(**sizes, **widths, **needs, merging=merging, **options)
