"""A vision transformer of ours run the textbook way: the same parameters, explicit attention, textbook mergers."""

from __future__ import annotations

from typing import Any

import torch

from tokenmerge.bench import textbook

Tensor = torch.Tensor


def run(model: Any, images: Tensor) -> Tensor:
    """Logits of `tokenmerge.backends.torch.vit.ViT`: ToMe, ATS, PatchMerger or nothing in each block."""
    x = model.patch_embed(images)
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], dim=1) + model.pos_embed
    size = torch.ones_like(x[:, :, 0])
    for block in model.blocks:
        x, size = _block(block, x, size)
    return model.head(_pooled(model, model.norm(x)))


def _pooled(model: Any, x: Tensor) -> Tensor:
    return x[:, 0] if model.config.pool == "class" else x[:, model.pooled].mean(dim=1)


def _block(block: Any, x: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    place, proportional = block.step.place, block.step.proportional
    b, n, _ = x.shape
    qkv = block.attn.qkv(block.norm1(x)).reshape(b, n, 3, block.attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)
    if place == "attention":
        seen, x, _ = textbook.ats_block(query, key, value, x, block.merger.max_tokens)
    else:
        seen = textbook.attention(query, key, value, size if proportional else None)
    x = x + block.attn.proj(seen.transpose(1, 2).flatten(2))
    if place == "mlp":
        x, size = textbook.tome(key.mean(dim=1), x, size, block.merger.r)
    x = x + block.mlp(block.norm2(x))
    if place == "block":
        own = block.merger
        x = textbook.patch_merger(x, own.queries, own.scale, own.bias)
        size = torch.ones_like(x[:, :, 0])
    return x, size
