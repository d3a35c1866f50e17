"""Size-weighted mean pooling (docs/tome.md)."""

from __future__ import annotations

import torch

from tokenmerge.backends.torch.check import check
from tokenmerge.backends.torch.precision import matmul, safe_divide, working_dtype

Tensor = torch.Tensor


def mean_pool(x: Tensor, *, size: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """`sum_n size_n x_n / sum_n size_n` over the real tokens; zeros where nothing is real.

    Args:
        x: `(B,N,C)` floating point; size: `(B,N)` floating point; mask: `(B,N)` bool.

    Returns:
        `(B,C)`, in the dtype of `x`.

    >>> mean_pool(torch.tensor([[[1.0], [4.0]]]), size=torch.tensor([[2.0, 1.0]])).tolist()
    [[2.0]]
    """
    check.mean_pool(x, size, mask)
    work = working_dtype(x)
    weight = x.new_ones(x.shape[:2], dtype=work) if size is None else size.to(work)
    if mask is not None:
        weight = torch.where(mask, weight, 0)
    x = torch.where((weight != 0)[:, :, None], x, 0)  # unused tokens may hold anything
    summed = matmul(weight[:, None, :], x.to(work))[:, 0]
    return safe_divide(summed, weight.sum(dim=1, keepdim=True)).to(x.dtype)
