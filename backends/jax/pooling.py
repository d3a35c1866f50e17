"""Size-weighted mean pooling (docs/tome.md)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tokenmerge.backends.jax.batches import ones
from tokenmerge.backends.jax.check import check
from tokenmerge.backends.jax.precision import merge_matmul, safe_divide, working_dtype

Array = jax.Array


def mean_pool(x: Array, *, size: Array | None = None, mask: Array | None = None) -> Array:
    """`sum_n size_n x_n / sum_n size_n` over the real tokens; zeros where nothing is real.

    Args:
        x: `(B,N,C)` floating point; size: `(B,N)` floating point; mask: `(B,N)` bool.

    Returns:
        `(B,C)`, in the dtype of `x`.

    >>> mean_pool(jnp.array([[[1.0], [4.0]]]), size=jnp.array([[2.0, 1.0]])).tolist()
    [[2.0]]
    """
    check.mean_pool(x, size, mask)
    return _mean_pool(x, size, mask)


@jax.jit
def _mean_pool(x: Array, size: Array | None, mask: Array | None) -> Array:
    work = working_dtype(x)
    weight = ones(x, work) if size is None else size.astype(work)
    if mask is not None:
        weight = jnp.where(mask, weight, 0)
    used = jnp.where(weight[:, :, None] != 0, x, 0).astype(work)
    summed = merge_matmul(weight[:, None, :], used)[:, 0]
    return safe_divide(summed, jnp.sum(weight, axis=1, keepdims=True)).astype(x.dtype)
