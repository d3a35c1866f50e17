"""The textbook formulations that ours are compared with, written down the way that papers and tutorials do.

The full matrix of similarities, arg-max, a full sort, gathers and `scatter_reduce` with expanded indices; attention
with its matrix in memory. None of the corner cases of `docs/` is looked after.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Tensor = torch.Tensor
Merge = Callable[[Tensor], Tensor]


def tome_matching(metric: Tensor, r: int, class_token: bool = True) -> Merge:
    """Which tokens merge, as a function that sums `(B,N,C)` over the groups."""
    unit = metric / metric.norm(dim=-1, keepdim=True)
    even, odd = unit[:, ::2], unit[:, 1::2]
    similarity = even @ odd.transpose(1, 2)
    if class_token:
        similarity[:, 0] = -torch.inf
    best, partner = similarity.max(dim=-1)
    ranking = best.argsort(dim=-1, descending=True)[..., None]
    unmerged, sources = ranking[:, r:].sort(dim=1).values, ranking[:, :r]
    targets = partner[..., None].gather(1, sources)

    def merge(x: Tensor) -> Tensor:
        even, odd, width = x[:, ::2], x[:, 1::2], x.shape[-1]
        kept = even.gather(1, unmerged.expand(-1, -1, width))
        moved = even.gather(1, sources.expand(-1, -1, width))
        summed = odd.scatter_reduce(1, targets.expand(-1, -1, width), moved, "sum")
        return torch.cat([kept, summed], dim=1)

    return merge


def tome_merge(merge: Merge, x: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """The mean weighted by `size (B,N)`, and the sizes afterwards."""
    total = merge(size[..., None])
    return merge(x * size[..., None]) / total, total[..., 0]


def tome(metric: Tensor, x: Tensor, size: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """ToMe of `x (B,N,C)` by `metric (B,N,D)`, with a class token."""
    return tome_merge(tome_matching(metric, r), x, size)


def attention_weights(query: Tensor, key: Tensor, size: Tensor | None = None) -> Tensor:
    """`(B,H,N,N)` after softmax; `log size` is added to the logits."""
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if size is not None:
        logits = logits + size.log()[:, None, None, :]
    return logits.softmax(dim=-1)


def attention(query: Tensor, key: Tensor, value: Tensor, size: Tensor | None = None) -> Tensor:
    """Attention of all heads."""
    return attention_weights(query, key, size).to(value.dtype) @ value


def ats_block(query: Tensor, key: Tensor, value: Tensor, x: Tensor, max_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Attention and adaptive token sampling: all rows of attention first, then those of the chosen tokens.

    Returns:
        What the chosen tokens see `(B,H,P,d)`, their residual `(B,P,C)`, and which of them are real `(B,P)`.
    """
    weights = attention_weights(query, key)
    score = (weights[:, :, 0, 1:] * value[:, :, 1:].norm(dim=-1)).sum(dim=1)
    cdf = (score / score.sum(dim=1, keepdim=True)).cumsum(dim=1)
    points = torch.arange(1, 2 * max_tokens, 2, device=x.device, dtype=cdf.dtype) / (2 * max_tokens)
    nearest = (cdf[:, None, :] - points[None, :, None]).abs().argmin(dim=2)
    order = nearest.sort(dim=1).values
    again = torch.cat([torch.zeros_like(order[:, :1], dtype=torch.bool), order[:, 1:] == order[:, :-1]], dim=1)
    order = torch.where(again, cdf.shape[1], order).sort(dim=1).values  # repeated ones go to the end
    real = torch.cat([torch.ones_like(again[:, :1]), order < cdf.shape[1]], dim=1)
    chosen = torch.where(real, torch.cat([torch.zeros_like(order[:, :1]), order + 1], dim=1), 0)
    rows = weights.gather(2, chosen[:, None, :, None].expand(-1, weights.shape[1], -1, weights.shape[3]))
    kept = x.gather(1, chosen[:, :, None].expand(-1, -1, x.shape[2]))
    return rows @ value, kept * real[:, :, None], real


def patch_merger(x: Tensor, queries: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """PatchMerger with its LayerNorm."""
    x = torch.nn.functional.layer_norm(x, x.shape[-1:], scale, bias)
    weights = (queries @ x.transpose(1, 2) * x.shape[-1] ** -0.5).softmax(dim=-1)
    return weights @ x


def ltm(x: Tensor, weight: Tensor, prior: Tensor) -> Tensor:
    """LTM with its prior `(N,P)` written out."""
    targets = prior.t() @ x
    step = targets @ (x * weight).transpose(1, 2) * x.shape[-1] ** -0.5
    return (prior.t().log() + step).softmax(dim=-1) @ x
