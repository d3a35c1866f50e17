"""The attentions of Hugging Face's vision and audio models: what is the key, and the steps of each `forward`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from tokenmerge.backends.torch.patching.ats import attend
from tokenmerge.backends.torch.patching.families import Attention
from tokenmerge.backends.torch.patching.tome import mean_key
from tokenmerge.backends.torch.plan import SelectionPlan

Tensor = torch.Tensor
Heads = tuple[Tensor, Tensor, Tensor]


def width(attention: Any) -> int:
    """d, the width of a head."""
    return int(attention.head_dim if hasattr(attention, "head_dim") else attention.attention_head_size)


def keys(attention: Any, output: Tensor) -> Tensor:
    """Keys `(B,N,H d)`, averaged over heads."""
    return mean_key(output.unflatten(2, (-1, width(attention))), 2)


def keys_of_fused(attention: Any, output: Tensor) -> Tensor:
    """Keys in the middle third of `(B,N,3 H d)`, averaged over heads."""
    return keys(attention, output.chunk(3, dim=-1)[1])


def split(attention: Any, x: Tensor) -> Tensor:
    """`(B,N,H d)` to `(B,H,N,d)`."""
    return x.unflatten(2, (-1, width(attention))).transpose(1, 2)


def heads(attention: Any, x: Tensor, kwargs: dict[str, Any], names: tuple[str, str, str]) -> Heads:
    """Queries, keys and values `(B,H,N,d)`, of three projections."""
    q, k, v = (split(attention, getattr(attention, name)(x)) for name in names)
    return q, k, v


def normed_heads(attention: Any, x: Tensor, kwargs: dict[str, Any]) -> Heads:
    """The same, with norms of all heads of the queries and keys together."""
    q, k = attention.q_norm(attention.q_proj(x)), attention.k_norm(attention.k_proj(x))
    return split(attention, q), split(attention, k), split(attention, attention.v_proj(x))


def fused_heads(attention: Any, x: Tensor, kwargs: dict[str, Any]) -> Heads:
    """The same, of one projection."""
    q, k, v = (split(attention, part) for part in attention.qkv(x).chunk(3, dim=-1))
    return q, k, v


def turned_heads(attention: Any, x: Tensor, kwargs: dict[str, Any]) -> Heads:
    """The same, turned by their positions by the library's own function; tokens in front of the table stay."""
    q, k, v = heads(attention, x, kwargs, PROJECTIONS)
    cos, sin = kwargs["position_embeddings"]
    q, k = _function(attention, "apply_rotary_pos_emb")(q, k, cos, sin)
    return q, k, v


def turned_tokens(attention: Any, x: Tensor, kwargs: dict[str, Any]) -> Heads:
    """The same, of a library function for tokens before heads `(B,N,H,d)`, with a table of all tokens."""
    q, k, v = (part.transpose(1, 2) for part in heads(attention, x, kwargs, PROJECTIONS))
    cos, sin = (each[:, 0] if each.ndim == 4 else each[None] for each in kwargs["position_embeddings"])
    q, k = _function(attention, "apply_rotary_pos_emb_vision")(q, k, cos.float(), sin.float())
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _function(attention: Any, name: str) -> Callable[..., Any]:
    """A function of the file that an attention comes from."""
    function: Callable[..., Any] = getattr(sys.modules[type(attention).__module__], name)
    return function


def attend_chosen(
    attention: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    x: Tensor,
    plan: SelectionPlan | None,
    kwargs: dict[str, Any],
    last: Callable[[Any, Tensor], Tensor],
) -> tuple[Tensor, Tensor | None]:
    """The rest of the module, for the chosen queries: `(B,P,C)`, and the weights where its attention gives them."""
    rate = next(getattr(attention, name) for name in RATES if hasattr(attention, name))
    rate = rate.p if isinstance(rate, nn.Dropout) else rate
    bias, dropout = kwargs.get("attention_mask"), rate if attention.training else 0.0
    if attention.config._attn_implementation != "eager":
        return last(attention, attend(q, k, v, bias, dropout, None)), None
    logits = (q @ k.transpose(2, 3)) * (attention.scaling if hasattr(attention, "scaling") else attention.scale)
    weights = (logits if bias is None else logits + bias).softmax(dim=-1, dtype=torch.float32).to(q.dtype)
    weights = nn.functional.dropout(weights, dropout)
    return last(attention, (weights @ v).transpose(1, 2).flatten(2)), weights


def attend_written(
    attention: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    x: Tensor,
    plan: SelectionPlan | None,
    kwargs: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """The same of BLIP's first attention, which writes its softmax out."""
    bias = kwargs.get("attention_mask")
    logits = torch.matmul(q, k.transpose(2, 3)) * attention.scale
    weights = attention.dropout((logits if bias is None else logits + bias).softmax(dim=-1))
    return attention.projection((weights @ v).transpose(1, 2).flatten(2)), weights


def o_proj(attention: Any, x: Tensor) -> Tensor:
    """The projection at the end."""
    out: Tensor = (attention.o_proj if hasattr(attention, "o_proj") else attention.out_proj)(x)
    return out


def projection(attention: Any, x: Tensor) -> Tensor:
    """The same under another name."""
    out: Tensor = attention.projection(x)
    return out


def projection_layer(attention: Any, x: Tensor) -> Tensor:
    """The same with dropout."""
    out: Tensor = attention.projection_dropout(attention.projection_layer(x))
    return out


def nothing(attention: Any, x: Tensor) -> Tensor:
    """Of an attention whose projection is in the module around it."""
    return x


RATES = ("attention_dropout", "dropout_prob", "dropout")
PROJECTIONS = ("q_proj", "k_proj", "v_proj")
ARGUMENTS = ("hidden_states", "attention_mask")


def _attention(keys_from: str, metric: Any, of_heads: Any, last: Any, written_out: bool = False) -> Attention:
    rest = partial(attend_chosen, last=last)
    at = None if written_out else 1
    return Attention(keys_from, metric, of_heads, rest, "attention_mask", at, ARGUMENTS, written_out=written_out)


PROJECTED = _attention("k_proj", keys, partial(heads, names=PROJECTIONS), o_proj)
NORMED = _attention("k_norm", keys, normed_heads, projection_layer)
# these take no mask, or none that they use
FUSED = _attention("qkv", keys_of_fused, fused_heads, projection, written_out=True)
WRITTEN = replace(FUSED, attend=attend_written)
NAMED = _attention("key", keys, partial(heads, names=("query", "key", "value")), nothing, written_out=True)
TURNED = replace(_attention("k_proj", keys, turned_heads, o_proj), rotary="position_embeddings")
TURNED_TOKENS = replace(
    _attention("k_proj", keys, turned_tokens, o_proj, written_out=True), rotary="position_embeddings"
)
