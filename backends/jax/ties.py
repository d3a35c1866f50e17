"""Maxima and sorts whose ties go to the lower index, whatever XLA makes of them: every sort is a stable one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

PAIRS = 256  # most values of which all pairs are compared, which for few is faster than sorting


def first_max(values: Array) -> tuple[Array, Array]:
    """The largest entry along the last axis and the lowest index that reaches it; some index where an entry is NaN.

    >>> [each.tolist() for each in first_max(jnp.array([1.0, 3.0, 3.0]))]
    [3.0, 1]
    """
    n = values.shape[-1]
    best = jnp.max(values, axis=-1)
    # not `argmax`: XLA reduces pairs on the CPU one by one, which takes several times as long as two plain reductions
    kind = counting(n)  # which the CPU reduces by a library, and has not to compile a loop for
    index = jnp.where(values < best[..., None], jnp.array(n, kind), jnp.arange(n, dtype=kind))
    return best, jnp.min(index, axis=-1).astype(int)


def counting(n: int) -> np.dtype[Any]:
    """The type in which to count to `n`: floating point, where that is exact.

    >>> counting(197), counting(2**24 + 1)
    (dtype('float32'), dtype('int32'))
    """
    return np.dtype(np.float32 if n <= 2**24 else np.int32)


def before(flags: Array) -> Array:
    """How many are True before each of `flags (B,L)`.

    >>> before(jnp.array([[True, False, True, True]])).tolist()
    [[0, 1, 1, 2]]
    """
    length = flags.shape[1]
    if length > PAIRS:
        return jnp.cumsum(flags, axis=1, dtype=int) - flags
    index = jnp.arange(length)
    earlier = flags[:, None, :] & (index[None, None, :] < index[None, :, None])
    return jnp.sum(earlier, axis=2, dtype=counting(length)).astype(int)


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


def places(values: Array) -> Array:
    """How many entries come before each of `values (B,L)`: larger ones, and of equal ones those of a lower index.

    >>> places(jnp.array([[1.0, 3.0, 3.0]])).tolist()
    [[2, 0, 1]]
    """
    # not `top_k`: on the CPU its operand is gathered from all devices of a mesh, which then all go on with the whole
    length = values.shape[1]
    if length > PAIRS:
        return inverse(descending(jnp.where(values == 0, 0, values)))  # a sort tells 0 from -0
    index = jnp.arange(length)
    mine, others = values[:, :, None], values[:, None, :]
    first = (others > mine) | ((others == mine) & (index[None, None, :] < index[None, :, None]))
    return jnp.sum(first, axis=2, dtype=counting(length)).astype(int)
