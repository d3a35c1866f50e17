"""Size-weighted mean pooling (docs/tome.md)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.backends.numpy.check import check
from tokenmerge.backends.numpy.precision import safe_divide, working_dtype

Array = np.ndarray[Any, Any]


def mean_pool(x: Array, *, size: Array | None = None, mask: Array | None = None) -> Array:
    """`sum_n size_n x_n / sum_n size_n` over the real tokens; zeros where nothing is real.

    Args:
        x: `(B,N,C)` floating point; size: `(B,N)` floating point; mask: `(B,N)` bool.

    Returns:
        `(B,C)`, in the dtype of `x`.

    >>> mean_pool(np.array([[[1.0], [4.0]]]), size=np.array([[2.0, 1.0]])).tolist()
    [[2.0]]
    """
    check.mean_pool(x, size, mask)
    work = working_dtype(x)
    weight = np.ones(x.shape[:2], work) if size is None else size.astype(work)
    if mask is not None:
        weight = np.where(mask, weight, 0)
    x = np.where((weight != 0)[:, :, None], x, np.zeros((), x.dtype))  # unused tokens may hold anything
    summed = (weight[:, None, :] @ x.astype(work, copy=False))[:, 0]
    return safe_divide(summed, weight.sum(axis=1, keepdims=True)).astype(x.dtype)
