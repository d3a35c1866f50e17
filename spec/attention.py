"""Proportional attention: a token that stands for many patches is attended to as often (ToMe, section 3).

It is for weights that were trained with labels and without merging; for MAE weights off the shelf the paper leaves it
off.

In half precision a fused kernel may round the weights once to the dtype of the values before it multiplies, with sizes
as without; sizes, their logarithms, the softmax and the sums are float32.

Rules:
    ATT-1: Attention weights are softmax(scale * Q K^T + log size) over the real keys; a row without one is zero.
    ATT-2: Attention is those weights times the values, in the dtype of the queries.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.spec.precision import working_dtype
from tokenmerge.spec.shared.calls import Calls
from tokenmerge.spec.softmax import softmax

Array = np.ndarray[Any, Any]
check = Calls(np.ndarray, batched=False)


def attention_weights(
    query: Array, key: Array, *, size: Array | None = None, mask: Array | None = None, scale: float | None = None
) -> Array:
    """`softmax(scale * Q K^T + log size)` over the keys.

    Rows are independent: the class row alone is `attention_weights(query[:, :1], key)`.

    Args:
        query: `(H,M,d)` floating point; key: `(H,N,d)`.
        size: `(N,)` floating point, sizes of the keys' tokens; size 0 gets weight 0. None for plain attention.
        mask: `(N,)` bool, True where a key is real.
        scale: None for `d**-0.5`, which needs a channel.

    Returns:
        `(H,M,N)` in float32 at least; rows sum to one, or to zero where no key is real.

    Raises:
        TypeError, ValueError: an argument of the wrong type or shape.

    A key of size 2 counts as two keys of size 1:

    >>> q, k = np.ones((1, 1, 1)), np.ones((1, 2, 1))
    >>> attention_weights(q, k, size=np.array([2.0, 1.0]))
    array([[[0.66666667, 0.33333333]]])
    """
    check.attention(query, key, size, mask, scale)
    work = working_dtype(query.dtype, key.dtype)
    logits = work.type(query.shape[2] ** -0.5 if scale is None else scale) * (
        query.astype(work) @ key.astype(work).transpose(0, 2, 1)
    )
    if size is not None:
        with np.errstate(divide="ignore"):  # log 0 = -inf: not attended to
            logits = logits + np.log(size.astype(work))
    if mask is not None:
        logits = np.where(mask, logits, -np.inf)
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
    """`softmax(scale * Q K^T + log size) V`, in the dtype of `query`; arguments as in `attention_weights`.

    Args:
        value: `(H,N,d)` floating point.

    Returns:
        `(H,M,d)`.

    >>> q, k, v = np.ones((1, 1, 1)), np.ones((1, 2, 1)), np.array([[[0.0], [3.0]]])
    >>> attention(q, k, v, size=np.array([2.0, 1.0]))
    array([[[1.]]])
    """
    check.sample("attention", "value", value, "H N d", **check.attention(query, key, size, mask, scale))
    weights = attention_weights(query, key, size=size, mask=mask, scale=scale)
    real = np.ones(key.shape[1], bool) if mask is None else mask
    return (weights @ np.where(real[:, None], value, 0).astype(weights.dtype)).astype(query.dtype)
