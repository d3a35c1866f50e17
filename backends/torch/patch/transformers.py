"""What is particular to Hugging Face: tokens in front, pooling, and the halves of its attentions for ATS."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tokenmerge.backends.torch.patch.families import Pooling, parent

Tensor = torch.Tensor

# heads that take a mean by themselves: the tokens they read, as a path from the network of the blocks, and whether the
# class token's features come first
_MEANS = {
    "Dinov2ForImageClassification": ("layernorm", True),
    "Dinov2WithRegistersForImageClassification": ("layernorm", True),
    "CLIPForImageClassification": ("encoder", False),
    "SiglipForImageClassification": ("post_layernorm", False),
}


def describe(model: nn.Module, path: str) -> dict[str, Any]:
    """The facts of `families.Network` for the network that holds the blocks."""
    network = parent(model, path, "embeddings")
    embeddings = network.embeddings
    class_token = hasattr(embeddings, "cls_token") or hasattr(embeddings, "class_embedding")
    registers = getattr(embeddings, "register_tokens", None)
    prefix = int(class_token) + int(hasattr(embeddings, "distillation_token"))
    prefix += 0 if registers is None else registers.shape[1]
    head = getattr(network, "head", None)
    return {
        "prefix": prefix,
        "class_token": class_token,
        "num_tokens": _num_patches(network) + prefix,
        "pooling": _pooling(model, network),
        "attention_pool": None if head is None else head.attention,
        "rotary": False,
    }


def metric(head_dim: int, keys: Tensor) -> Tensor:
    """Keys `(B,N,H*d)` averaged over heads."""
    return keys.unflatten(-1, (-1, head_dim)).mean(dim=2)


def heads(attention: Any, x: Tensor, rope: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values `(B,H,N,d)` as the attention makes them."""
    query, key, value = (
        layer(x).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    return query, key, value


def project(attention: Any, seen: Tensor, x: Tensor) -> Tensor:
    """What the queries of `x (B,P,C)` saw, `(B,H,P,d)`, through the rest of the attention: `(B,P,C)`."""
    out = attention.o_proj if hasattr(attention, "o_proj") else attention.out_proj
    return out(seen.transpose(1, 2).flatten(2))


def dropout(attention: Any) -> float:
    """The rate at which attention weights are dropped now."""
    rate = getattr(attention, "attention_dropout", getattr(attention, "dropout", 0.0))
    return float(rate) if attention.training else 0.0


def _num_patches(network: Any) -> int:
    side, patch = network.config.image_size, network.config.patch_size
    height, width = side if isinstance(side, list | tuple) else (side, side)
    return (height // patch) * (width // patch)


def _pooling(model: nn.Module, network: nn.Module) -> Pooling | None:
    for holder in model.modules():
        for cls in type(holder).__mro__:
            if cls.__name__ in _MEANS and any(module is network for module in holder.modules()):
                sequence, after_class = _MEANS[cls.__name__]
                return Pooling(network.get_submodule(sequence), holder.get_submodule("classifier"), after_class)
    return None
