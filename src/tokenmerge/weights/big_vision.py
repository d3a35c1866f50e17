"""Checkpoints of google-research/big_vision and vision_transformer: `.npz`, kernels `(in, out)`, heads apart."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

PREFIXES = ("", "params/", "opt/target/", "params/img/")
# name there -> name of timm; a number behind an underscore is the order in which Flax made the part
NAMES = {
    r"embedding": "patch_embed.proj",
    r"Transformer/encoder_norm": "norm",
    r"head": "head",
    r"Transformer/encoderblock_(\d+)/LayerNorm_0": r"blocks.\1.norm1",
    r"Transformer/encoderblock_(\d+)/LayerNorm_[12]": r"blocks.\1.norm2",
    r"Transformer/encoderblock_(\d+)/MultiHeadDotProductAttention_[01]/out": r"blocks.\1.attn.proj",
    r"Transformer/encoderblock_(\d+)/MlpBlock_[03]/Dense_0": r"blocks.\1.mlp.fc1",
    r"Transformer/encoderblock_(\d+)/MlpBlock_[03]/Dense_1": r"blocks.\1.mlp.fc2",
}
TOKENS = {
    "cls": "cls_token",
    "pos_embedding": "pos_embed",
    "Transformer/posembed_input/pos_embedding": "pos_embed",
}
QKV = re.compile(r"Transformer/encoderblock_(\d+)/MultiHeadDotProductAttention_[01]/(query|key|value)/(kernel|bias)")
STACKED = "Transformer/encoderblock/"  # all blocks in one array, as `scan` keeps them


def recognizes(names: Iterable[str]) -> bool:
    """Whether these are names of such a checkpoint."""
    found = set(names)
    return any(f"{prefix}embedding/kernel" in found for prefix in PREFIXES)


def converts(params: dict[str, Array]) -> dict[str, Array]:
    """By the names and in the shapes of timm; what is not known keeps its name, and is refused when it is loaded.

    A checkpoint of a training also holds the optimizer's numbers, which are left out.
    """
    prefix = next(each for each in PREFIXES if f"{each}embedding/kernel" in params)
    own = {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}
    own = _unstacked(own)
    found: dict[str, Array] = {}
    parts: dict[str, dict[str, Array]] = {}
    for name, value in own.items():
        if match := QKV.fullmatch(name):
            block, part, kind = match.groups()
            flat = value.reshape(value.shape[0], -1).T if kind == "kernel" else value.reshape(-1)
            parts.setdefault(f"blocks.{block}.attn.qkv.{_last(kind)}", {})[part] = flat
        elif name in TOKENS:
            found[TOKENS[name]] = value
        else:
            found.update([_renamed(name, value)])
    for name, each in parts.items():
        found[name] = np.concatenate([each[part] for part in ("query", "key", "value")])
    return found


def _last(kind: str) -> str:
    return "bias" if kind == "bias" else "weight"


def _renamed(name: str, value: Array) -> tuple[str, Array]:
    place, _, kind = name.rpartition("/")
    for pattern, target in NAMES.items():
        if match := re.fullmatch(pattern, place):
            target = f"{match.expand(target)}.{_last(kind)}"
            if kind != "kernel":
                return target, value
            if place == "embedding":
                return target, np.transpose(value, (3, 2, 0, 1))
            return target, value.reshape(-1, value.shape[-1]).T  # heads of the output side by side
    return name, value


def _unstacked(params: dict[str, Array]) -> dict[str, Array]:
    """A block's parameters each by its number."""
    found = {}
    for name, value in params.items():
        if not name.startswith(STACKED):
            found[name] = value
            continue
        for index, each in enumerate(value):
            found[name.replace("encoderblock/", f"encoderblock_{index}/", 1)] = each
    return found
