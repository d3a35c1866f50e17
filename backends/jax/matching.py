"""Who is most similar to whom: the largest entries of a product of matrices that need not be in memory at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tokenmerge.backends.jax.precision import matmul
from tokenmerge.backends.jax.ties import first_max

Array = jax.Array

MOST = 2**18  # similarities of a sample in memory at once: how large the batch is, and on how many devices, is open


def nearest(a: Array, b: Array, allowed: Array) -> tuple[Array, Array]:
    """Similarity and index of the most similar row of `b (B,M,D)` for every row of `a (B,L,D)`, both `(B,L)`.

    Of several the first. `allowed (B,M)` bool: which rows of `b` can be meant.

    >>> nearest(jnp.eye(2)[None], jnp.array([[[1.0, 0.0], [1.0, 1.0]]]), jnp.ones((1, 2), bool))[1].tolist()
    [[0, 1]]
    """
    _, length, width = a.shape

    def block(rows: Array) -> tuple[Array, Array]:
        similarity = matmul(rows, jnp.swapaxes(b, 1, 2))
        return first_max(jnp.where(allowed[:, None, :], similarity, -jnp.inf))

    if length * b.shape[1] <= MOST:
        return block(a)
    blocks = -(-length // max(1, MOST // b.shape[1]))
    rows = -(-length // blocks)  # as even as can be: the last block is padded
    padded = jnp.pad(a, ((0, 0), (0, rows * blocks - length), (0, 0)))
    parts = jnp.moveaxis(padded.reshape(a.shape[0], blocks, rows, width), 1, 0)
    best, index = (jnp.moveaxis(each, 0, 1).reshape(a.shape[0], -1) for each in jax.lax.map(block, parts))
    return best[:, :length], index[:, :length]
