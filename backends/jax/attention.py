"""Proportional attention, vectorized over the batch (docs/tome.md).

Not `jax.nn.dot_product_attention`: its softmax is float32 even for float64, its products have the device's default
precision, and a query without a real key gets the mean of the padding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from tokenmerge.backends.jax.check import check
from tokenmerge.backends.jax.precision import matmul, merge_matmul, safe_log, softmax, working_dtype

Array = jax.Array
Product = Callable[[Array, Array], Array]


def attention_weights(
    query: Array, key: Array, *, size: Array | None = None, mask: Array | None = None, scale: float | None = None
) -> Array:
    """`softmax(scale * Q K^T + log size)` over the keys.

    Args:
        query: `(B,H,M,d)` floating point; key: `(B,H,N,d)`.
        size: `(B,N)` floating point; size 0 is the same as masked. mask: `(B,N)` bool.
        scale: None for `d**-0.5`, which needs a channel.

    Returns:
        `(B,H,M,N)` in float32 at least.

    >>> q, k = jnp.ones((1, 1, 1, 1)), jnp.ones((1, 1, 3, 1))
    >>> attention_weights(q, k, size=jnp.array([[2.0, 1.0, 1.0]])).tolist()
    [[[[0.5, 0.25, 0.25]]]]
    """
    check.attention(query, key, size, mask, scale)
    return _weights(query, key, size, mask, scale)


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

    >>> q, k, v = jnp.ones((1, 1, 1, 1)), jnp.ones((1, 1, 2, 1)), jnp.array([[[[0.0], [3.0]]]])
    >>> attention(q, k, v, size=jnp.array([[2.0, 1.0]])).round(6).tolist()
    [[[[1.0]]]]
    """
    check.sample("attention", "value", value, "H N d", **check.attention(query, key, size, mask, scale))
    return attend(query, key, value, size, mask, scale, merge_matmul)


@partial(jax.jit, static_argnames="product")
def _weights(
    query: Array, key: Array, size: Array | None, mask: Array | None, scale: float | None, product: Product = matmul
) -> Array:
    work = working_dtype(query, key)
    if query.dtype != key.dtype:
        query, key = query.astype(work), key.astype(work)
    # the products of half-precision numbers are exact and add up in float32
    logits = product(query, jnp.swapaxes(_real_only(key, mask), 2, 3))
    logits *= query.shape[3] ** -0.5 if scale is None else jnp.asarray(scale, work)
    if size is not None:
        logits += safe_log(size.astype(work))[:, None, None, :]
    if mask is not None:
        logits = jnp.where(mask[:, None, None, :], logits, -jnp.inf)
    return softmax(logits)


@partial(jax.jit, static_argnames="product")
def attend(
    query: Array,
    key: Array,
    value: Array,
    size: Array | None,
    mask: Array | None,
    scale: float | None,
    product: Product,
) -> Array:
    """`attention` of arguments that were checked, with one of the products of `precision.py`."""
    weights = _weights(query, key, size, mask, scale, product)
    # in half precision the weights are rounded, too, so that an accelerator multiplies at full speed
    alike = query.dtype == key.dtype == value.dtype
    work = value.dtype if alike else working_dtype(weights, value)
    return product(weights.astype(work), _real_only(value, mask).astype(work)).astype(query.dtype)


def _real_only(values: Array, mask: Array | None) -> Array:
    """`(B,H,N,d)` with zeros in the padding: whatever is there, not even a gradient sees it."""
    return values if mask is None else jnp.where(mask[:, None, :, None], values, 0)
