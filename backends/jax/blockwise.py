"""Attention by blocks of queries: the same numbers as `attention`, without the whole matrix in memory.

Rows of attention are independent, so a block of them is a smaller attention. In the backward pass a block is computed
again, as in FlashAttention, so that training does not keep the matrix either.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from tokenmerge.backends.jax.attention import attend, attention_weights
from tokenmerge.backends.jax.check import check
from tokenmerge.backends.jax.dropout import Dropout
from tokenmerge.backends.jax.precision import layer_matmul

Array = jax.Array

ROWS = 256  # most queries of a block: one for an image of 224 in patches of 16, which compiles in a quarter of the time


def blockwise_attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    size: Array | None = None,
    mask: Array | None = None,
    rate: float = 0.0,
    rng: Array | None = None,
) -> Array:
    """`softmax(d**-0.5 * Q K^T + log size) V`, arguments as in `attention`.

    Args:
        rate: share of the weights that are dropped, with a PRNG key `rng`; without one none are.

    Returns:
        `(B,H,M,d)` in the dtype of `query`.

    >>> q, k = jnp.ones((1, 2, 300, 4)), jnp.ones((1, 2, 5, 4))
    >>> blockwise_attention(q, k, k).shape
    (1, 2, 300, 4)
    """
    check.sample("attention", "value", value, "H N d", **check.attention(query, key, size, mask, None))
    b, h, m, d = query.shape
    blocks = -(-m // ROWS)
    if blocks <= 1:
        return jax.checkpoint(partial(_rows, rate=rate))(query, key, value, size, mask, rng=rng)
    rows = -(-m // blocks)
    padded = jnp.pad(query, ((0, 0), (0, 0), (0, rows * blocks - m), (0, 0)))
    parts = jnp.moveaxis(padded.reshape(b, h, blocks, rows, d), 2, 0)

    @jax.checkpoint
    def one(number: Array, part: Array) -> Array:
        own = None if rng is None else jax.random.fold_in(rng, number)
        return _rows(part, key, value, size, mask, rate, own)

    seen = jax.lax.map(lambda each: one(*each), (jnp.arange(blocks), parts))
    return jnp.moveaxis(seen, 0, 2).reshape(b, h, rows * blocks, d)[:, :, :m]


def _rows(
    query: Array, key: Array, value: Array, size: Array | None, mask: Array | None, rate: float, rng: Array | None
) -> Array:
    if rng is None:
        return attend(query, key, value, size, mask, None, layer_matmul)
    weights = Dropout(rng)(attention_weights(query, key, size=size, mask=mask), rate)
    return layer_matmul(weights, value.astype(weights.dtype)).astype(query.dtype)
