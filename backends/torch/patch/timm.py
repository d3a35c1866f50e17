"""What is particular to timm: tokens in front, pooling, and the halves of its attentions for ATS."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tokenmerge.backends.torch.patch.families import Pooling, origin, parent

Tensor = torch.Tensor


def describe(model: nn.Module, path: str) -> dict[str, Any]:
    """The facts of `families.Network` for the network that holds the blocks."""
    network = parent(model, path, "num_prefix_tokens")
    attention_pool = getattr(network, "attn_pool", None)
    kind = getattr(network, "global_pool", "")
    if attention_pool is not None:
        if origin(attention_pool)[1] != "AttentionPoolLatent" or attention_pool.pos_embed is not None:
            _refuse_pool(type(attention_pool).__name__)
    elif kind not in ("", "token", "avg"):
        _refuse_pool(kind)
    mean = attention_pool is None and kind == "avg"
    grid = getattr(network.patch_embed, "num_patches", None)
    return {
        "prefix": int(network.num_prefix_tokens),
        "class_token": getattr(network, "cls_token", None) is not None,
        "num_tokens": None if grid is None else int(grid) + int(network.num_prefix_tokens),
        "pooling": Pooling(network.norm, network.fc_norm) if mean else None,
        "attention_pool": attention_pool,
        "rotary": getattr(network, "rope", None) is not None,
    }


def metric(head_dim: int, keys: Tensor) -> Tensor:
    """Keys `(B,H,N,d)` averaged over heads."""
    return keys.mean(dim=1)


def heads(attention: Any, x: Tensor, rope: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values `(B,H,N,d)` as the attention makes them, rotated where it rotates."""
    b, n, _ = x.shape
    if attention.qkv is None:
        query, key, value = (
            layer(x).reshape(b, n, -1, attention.head_dim).transpose(1, 2)
            for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
    else:
        bias = attention.qkv.bias
        if getattr(attention, "q_bias", None) is not None:  # EVA: no bias for the keys
            bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
            bias = bias if attention.qkv.bias is None else bias + attention.qkv.bias
        qkv = nn.functional.linear(x, attention.qkv.weight, bias)
        query, key, value = qkv.reshape(b, n, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    query, key = attention.q_norm(query), attention.k_norm(key)
    if rope is not None:
        query, key = (_rotate(attention, each, rope).type_as(value) for each in (query, key))
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    return query, key, value


def project(attention: Any, seen: Tensor, x: Tensor) -> Tensor:
    """What the queries of `x (B,P,C)` saw, `(B,H,P,d)`, through the rest of the attention: `(B,P,C)`."""
    seen = attention.norm(seen.transpose(1, 2).flatten(2))
    if getattr(attention, "gate", None) is not None:
        seen = seen * attention.gate(x).sigmoid()
    return attention.proj_drop(attention.proj(seen))


def dropout(attention: Any) -> float:
    """The rate at which attention weights are dropped now."""
    return float(attention.attn_drop.p) if attention.training else 0.0


def _rotate(attention: Any, heads: Tensor, rope: Tensor) -> Tensor:
    from timm.layers.pos_embed_sincos import apply_rot_embed_cat

    first = attention.num_prefix_tokens
    half = getattr(attention, "rotate_half", False)
    return torch.cat([heads[:, :, :first], apply_rot_embed_cat(heads[:, :, first:], rope, half=half)], dim=2)


def _refuse_pool(kind: str) -> None:
    raise ValueError(f"patch: `model` must pool by class token, mean or latent attention, got {kind!r}")
