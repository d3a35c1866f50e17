"""ToMe in a vision transformer of timm the textbook way: its own parts, attention written out, textbook merging."""

from __future__ import annotations

from typing import Any

import torch

from tokenmerge.bench import textbook

Tensor = torch.Tensor


def run(model: Any, images: Tensor, r: int) -> Tensor:
    """Logits of `timm.models.vision_transformer.VisionTransformer` with a class token, `r` tokens fewer per block."""
    x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
    size = None
    for block in model.blocks:
        x, size = _block(block, x, size, r)
    logits: Tensor = model.forward_head(model.norm(x))
    return logits


def _block(block: Any, x: Tensor, size: Tensor | None, r: int) -> tuple[Tensor, Tensor | None]:
    own, (b, n, _) = block.attn, x.shape
    qkv = own.qkv(block.norm1(x)).reshape(b, n, 3, own.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)
    seen = textbook.attention(own.q_norm(query), own.k_norm(key), value, size).transpose(1, 2).flatten(2)
    x = x + block.drop_path1(block.ls1(own.proj_drop(own.proj(own.norm(seen)))))
    removed = min(r, (n - 1) // 2)
    if removed:
        size = torch.ones_like(x[:, :, 0]) if size is None else size
        x, size = textbook.tome(own.k_norm(key).mean(dim=1), x, size, removed)
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))), size
