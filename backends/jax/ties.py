"""Maxima and sorts whose ties go to the lower index, whatever XLA makes of them: every sort is a stable one."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def first_max(values: Array) -> tuple[Array, Array]:
    """The largest entry along the last axis and the lowest index that reaches it; some index where an entry is NaN.

    >>> [each.tolist() for each in first_max(jnp.array([1.0, 3.0, 3.0]))]
    [3.0, 1]
    """
    n = values.shape[-1]
    best = jnp.max(values, axis=-1)
    # not `argmax`: XLA reduces pairs on the CPU one by one, which takes several times as long as two plain reductions
    index = jnp.where(values < best[..., None], n, jnp.arange(n, dtype=jnp.int32))
    return best, jnp.min(index, axis=-1).astype(int)


def descending(values: Array) -> Array:
    """The permutation that sorts `(B,N)` along the last axis, largest first.

    >>> descending(jnp.array([[0.0, 2.0, -0.0, 2.0]])).tolist()
    [[1, 3, 0, 2]]
    """
    return jnp.argsort(-values, axis=-1, stable=True)


def ascending(values: Array) -> Array:
    """The permutation that sorts `(B,N)` along the last axis, smallest first.

    >>> ascending(jnp.array([[0.0, 2.0, -0.0, 2.0]])).tolist()
    [[0, 2, 1, 3]]
    """
    return jnp.argsort(values, axis=-1, stable=True)


def true_first(flags: Array) -> Array:
    """The permutation that brings the True ones of `(B,N)` to the front and changes no order otherwise.

    >>> true_first(jnp.array([[False, True, False, True]])).tolist()
    [[1, 3, 0, 2]]
    """
    return jnp.argsort(~flags, axis=-1, stable=True)


def inverse(permutation: Array) -> Array:
    """Where each entry of a permutation `(B,N)` stands.

    >>> inverse(jnp.array([[2, 0, 1]])).tolist()
    [[1, 2, 0]]
    """
    return jnp.argsort(permutation, axis=-1)
