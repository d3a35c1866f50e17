"""Sums in which a weight of zero keeps everything out, NaN and infinity too: padding may hold anything."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def product(weights: Array, values: Array) -> Array:
    """`weights @ values`, where 0 times NaN or infinity counts as 0.

    >>> product(np.array([[1.0, 0.0], [1.0, 2.0]]), np.array([[3.0, 3.0], [np.nan, -np.inf]]))
    array([[  3.,   3.],
           [ nan, -inf]])
    """
    with np.errstate(invalid="ignore"):
        out = weights @ values
    if np.isfinite(out).all():  # then nothing infinite was there, not even beside a zero
        return out
    odd = ~np.isfinite(values)
    with np.errstate(invalid="ignore"):
        out = weights @ np.where(odd, values.dtype.type(0), values)
    sign = np.sign(np.nan_to_num(weights, nan=1.0))
    used, infinite = np.abs(sign), np.where(np.isinf(values), np.sign(values), 0)
    balance, strange = sign @ infinite, used @ odd.astype(used.dtype)  # +inf less -inf; both and NaN together
    unknown = strange > np.abs(balance)  # NaN, or infinities of both signs
    out = np.where(strange > 0, out + np.copysign(np.inf, balance).astype(out.dtype), out)
    return np.where(unknown, out.dtype.type(np.nan), out)
