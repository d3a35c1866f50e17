"""What is done to every sample alike, with the batch as a mapped axis.

The compiler can spread a mapped axis over the devices of a mesh, whichever way the mesh is made. An axis that is
indexed (`array.at[arange(batch)[:, None], index]`) it cannot: every device would compute the whole batch.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def repeat(values: Array, like: Array) -> Array:
    """`values` for every sample of `like`, which says how many there are and on which devices each is.

    >>> repeat(jnp.array([4, 5]), jnp.zeros((3, 9))).shape
    (3, 2)
    """
    return jax.vmap(lambda _: values)(like)


@partial(jax.jit, static_argnames=("dtype", "count"))
def ones(tokens: Array, dtype: np.dtype[Any], count: int | None = None) -> Array:
    """A one `(B,N)` for every one of `tokens (B,N,...)`, or `count` of them for every sample.

    >>> ones(jnp.zeros((1, 2, 9)), jnp.dtype(bool)).tolist()
    [[True, True]]
    """
    return repeat(jnp.ones(tokens.shape[1] if count is None else count, dtype), tokens)


def scatter_add(values: Array, slot: Array, slots: int) -> Array:
    """Sums `(B,slots,C)` of the rows of `values (B,N,C)` by their slot `(B,N)`; a slot that is not there is left out.

    >>> scatter_add(jnp.array([[[1.0], [2.0], [4.0]]]), jnp.array([[1, 2, 1]]), 2).tolist()
    [[[0.0], [5.0]]]
    """

    def one(values: Array, slot: Array) -> Array:
        return jnp.zeros((slots, values.shape[1]), values.dtype).at[slot].add(values, mode="drop")

    return jax.vmap(one)(values, slot)


def place_of(token: Array, tokens: int) -> Array:
    """For `token (B,P)`, the place `(B,tokens)` where each token is; -1 for one that is nowhere.

    >>> place_of(jnp.array([[2, 0]]), 4).tolist()
    [[1, -1, 0, -1]]
    """

    def one(token: Array) -> Array:
        return jnp.full(tokens, -1).at[token].set(jnp.arange(token.shape[0]), mode="drop")

    return jax.vmap(one)(token)
