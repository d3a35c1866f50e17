"""Sums in which a weight of zero keeps everything out, NaN and infinity too: padding may hold anything."""

from __future__ import annotations

from math import isfinite

import torch

from tokenmerge.backends.torch.precision import exporting, looks, matmul

Tensor = torch.Tensor


def product(weights: Tensor, values: Tensor) -> Tensor:
    """`weights @ values`, where 0 times NaN or infinity counts as 0, on the way back as well.

    Where the result can be looked at it costs nothing until something is infinite; a device or a compiler does the
    careful thing always.

    >>> product(torch.tensor([[1.0, 0.0], [1.0, 2.0]]), torch.tensor([[3.0, 3.0], [torch.nan, -torch.inf]])).tolist()
    [[3.0, 3.0], [nan, -inf]]
    """
    if exporting():  # few operators, for any runtime
        return matmul(weights, values)
    if looks(weights) and looks(values):
        out = matmul(weights, values)
        if all_finite(out):  # then nothing infinite was there, not even beside a zero
            return out
    odd = ~values.isfinite()
    out = matmul(weights, values.masked_fill(odd, 0))
    seen = values.detach()
    sign = torch.where(weights.detach().isnan(), 1, weights.detach().sign())
    used, infinite = sign.abs(), torch.where(seen.isinf(), seen.sign(), 0)
    balance, strange = matmul(sign, infinite), matmul(used, odd.to(used.dtype))  # +inf less -inf; both and NaN together
    unknown = strange > balance.abs()  # NaN, or infinities of both signs
    poison = torch.where(unknown, torch.nan, torch.where(strange > 0, balance * torch.inf, 0))
    return out + poison.to(out.dtype)


def all_finite(values: Tensor) -> bool:
    """Whether no entry is NaN or infinite, of values that can be looked at.

    A finite sum has only finite terms, and needs no memory; one that is not may have become too large.
    """
    values = values.detach()
    return isfinite(values.sum().item()) or bool(values.isfinite().all())


def without_unused(values: Tensor, weights: Tensor) -> Tensor:
    """Rows `(R,C)` with 0 for what is NaN or infinite in a row of weight 0; everything else keeps its gradient."""
    return values.masked_fill((weights == 0)[:, None] & ~values.isfinite(), 0)
