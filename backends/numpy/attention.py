"""Proportional attention, vectorized over the batch (docs/tome.md)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.backends.numpy.check import check
from tokenmerge.backends.numpy.precision import softmax, working_dtype

Array = np.ndarray[Any, Any]


def attention_weights(
    query: Array, key: Array, *, size: Array | None = None, mask: Array | None = None, scale: float | None = None
) -> Array:
    """`softmax(scale * Q K^T + log size)` over the keys.

    Args:
        query: `(B,H,M,d)` floating point; key: `(B,H,N,d)`.
        size: `(B,N)` floating point; size 0 gets weight 0. mask: `(B,N)` bool.
        scale: None for `d**-0.5`, which needs a channel.

    Returns:
        `(B,H,M,N)` in float32 at least.

    >>> q, k = np.ones((1, 1, 1, 1)), np.ones((1, 1, 3, 1))
    >>> attention_weights(q, k, size=np.array([[2.0, 1.0, 1.0]])).round(2).tolist()
    [[[[0.5, 0.25, 0.25]]]]
    """
    check.attention(query, key, size, mask, scale)
    work = working_dtype(query, key).type
    query = query.astype(work, copy=False) * work(query.shape[3] ** -0.5 if scale is None else scale)
    logits = query @ np.swapaxes(key.astype(work, copy=False), 2, 3)
    if size is not None:
        with np.errstate(divide="ignore"):  # log 0 = -inf: not attended to
            logits += np.log(size.astype(work))[:, None, None, :]
    if mask is not None:
        logits = np.where(mask[:, None, None, :], logits, work(-np.inf))
    return softmax(logits)


def attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    size: Array | None = None,
    mask: Array | None = None,
    scale: float | None = None,
) -> Array:
    """`softmax(scale * Q K^T + log size) V`: `(B,H,M,d)` in the dtype of `query`; arguments as in `attention_weights`.

    >>> q, k, v = np.ones((1, 1, 1, 1)), np.ones((1, 1, 2, 1)), np.array([[[[0.0], [3.0]]]])
    >>> attention(q, k, v, size=np.array([[2.0, 1.0]])).round(6).tolist()
    [[[[1.0]]]]
    """
    check.sample("attention", "value", value, "H N d", **check.attention(query, key, size, mask, scale))
    weights = attention_weights(query, key, size=size, mask=mask, scale=scale)
    if mask is not None:
        value = np.where(mask[:, None, :, None], value, np.zeros((), value.dtype))
    return (weights @ value.astype(weights.dtype, copy=False)).astype(query.dtype)
