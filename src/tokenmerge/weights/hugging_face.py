"""Checkpoints of Hugging Face's ViT, DeiT and DINOv2 (with registers, too), by old and by new names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

WHOLE = re.compile(r"^(vit|deit|dinov2|dinov2_with_registers)\.")  # a model inside one with a head
LEFT_OUT = re.compile(r"(^|\.)(pooler\.|mask_token$|embeddings\.mask_token$)")  # of training, or of another task
NAMES = {
    r"embeddings\.cls_token": "cls_token",
    r"embeddings\.distillation_token": "dist_token",
    r"embeddings\.register_tokens": "reg_token",
    r"embeddings\.position_embeddings": "pos_embed",
    r"embeddings\.patch_embeddings\.projection": "patch_embed.proj",
    r"(?:encoder\.)?layers?\.(\d+)\.(?:layernorm_before|norm1)": r"blocks.\1.norm1",
    r"(?:encoder\.)?layers?\.(\d+)\.(?:layernorm_after|norm2)": r"blocks.\1.norm2",
    r"(?:encoder\.)?layers?\.(\d+)\.attention\.(?:output\.dense|o_proj)": r"blocks.\1.attn.proj",
    r"(?:encoder\.)?layers?\.(\d+)\.(?:intermediate\.dense|mlp\.fc1)": r"blocks.\1.mlp.fc1",
    r"(?:encoder\.)?layers?\.(\d+)\.(?:output\.dense|mlp\.fc2)": r"blocks.\1.mlp.fc2",
    r"(?:encoder\.)?layers?\.(\d+)\.layer_scale([12])\.lambda1": r"blocks.\1.ls\2.gamma",
    r"layernorm": "norm",
    r"(?:classifier|cls_classifier)": "head",
    r"distillation_classifier": "head_dist",
}
QKV = re.compile(
    r"(?:encoder\.)?layers?\.(\d+)\.attention\.(?:attention\.)?(query|key|value|q_proj|k_proj|v_proj)\.(weight|bias)"
)


def recognizes(names: Iterable[str]) -> bool:
    """Whether these are names of such a checkpoint."""
    return any(WHOLE.sub("", name) == "embeddings.patch_embeddings.projection.weight" for name in names)


def converts(params: dict[str, Array]) -> dict[str, Array]:
    """By the names of timm; what is not known keeps its name, and is refused when it is loaded."""
    found: dict[str, Array] = {}
    parts: dict[str, dict[str, Array]] = {}
    for whole, value in params.items():
        name = WHOLE.sub("", whole)
        if LEFT_OUT.search(name):
            continue
        if match := QKV.fullmatch(name):
            parts.setdefault(f"blocks.{match[1]}.attn.qkv.{match[3]}", {})[match[2][0]] = value
        else:
            found[_renamed(name)] = value
    for name, each in parts.items():
        found[name] = np.concatenate([each[part] for part in "qkv"])
    return found


def _renamed(name: str) -> str:
    place, _, last = name.rpartition(".")
    for pattern, target in NAMES.items():
        if match := re.fullmatch(pattern, name):  # a token or a scale, which is one array
            return match.expand(target)
        if match := re.fullmatch(pattern, place):
            return f"{match.expand(target)}.{last}"
    return name
