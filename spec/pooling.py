"""Pooling at the end of a network: every original patch counts once, however the tokens were merged.

Rules:
    POOL-1: Pooling is the mean of the real tokens weighted by size, zeros where nothing is real.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.spec.precision import working_dtype
from tokenmerge.spec.shared.calls import Calls

Array = np.ndarray[Any, Any]
check = Calls(np.ndarray, batched=False)


def mean_pool(x: Array, *, size: Array | None = None, mask: Array | None = None) -> Array:
    """`sum_n size_n x_n / sum_n size_n` over the real tokens; zeros where nothing is real.

    Args:
        x: `(N,C)` floating point; size: `(N,)` floating point; mask: `(N,)` bool.

    Returns:
        `(C,)`, in the dtype of `x`.

    Raises:
        TypeError, ValueError: an argument of the wrong type or shape.

    Source: ToMe (arXiv 2210.09461), section 3; for a class-token model nothing is pooled.

    >>> mean_pool(np.array([[1.0], [4.0]]), size=np.array([2.0, 1.0]))
    array([2.])
    """
    check.mean_pool(x, size, mask)
    work = working_dtype(x.dtype)
    weight = np.ones(len(x), work) if size is None else size.astype(work)
    used = weight != 0 if mask is None else mask & (weight != 0)
    total = weight[used].sum()
    pooled = weight[used] @ x[used].astype(work)
    return (pooled / total if total != 0 else pooled).astype(x.dtype)
