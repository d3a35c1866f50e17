"""Working precision: float32 for half precision, the input's own otherwise; arithmetic with finite gradients.

A branch that is not taken still has a gradient, and `0 * inf` is NaN: so `safe_` functions replace the operand, too.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def working_dtype(*arrays: Array) -> np.dtype[Any]:
    """The precision in which decisions about these arrays are made."""
    return np.dtype(np.float64 if any(array.dtype == np.float64 for array in arrays) else np.float32)


def matmul(a: Array, b: Array) -> Array:
    """`a @ b`, float32 at least, for decisions; without `HIGHEST` a GPU or TPU would round float32 operands first."""
    highest = jax.lax.Precision.HIGHEST
    return jnp.matmul(a, b, precision=highest, preferred_element_type=working_dtype(a, b))


def merge_matmul(a: Array, b: Array) -> Array:
    """`a @ b` for what is decided already: as `matmul`, unless `jax.default_matmul_precision` says otherwise."""
    asked = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return matmul(a, b) if asked is None else layer_matmul(a, b)


def layer_matmul(a: Array, b: Array) -> Array:
    """`a @ b` for the layers of a network: as JAX is told, added up in float32 at least."""
    return jnp.matmul(a, b, preferred_element_type=working_dtype(a, b))


def safe_divide(numerator: Array, denominator: Array) -> Array:
    """`numerator / denominator`, and 0 where the denominator is 0."""
    nonzero = denominator != 0
    return jnp.where(nonzero, numerator / jnp.where(nonzero, denominator, 1), 0)


def safe_log(values: Array) -> Array:
    """`log(values)`, -inf with gradient 0 where the value is 0."""
    nonzero = values != 0
    return jnp.where(nonzero, jnp.log(jnp.where(nonzero, values, 1)), -jnp.inf)


def safe_norm(vectors: Array, axis: int | tuple[int, ...], keepdims: bool = False) -> Array:
    """Euclidean length along `axis`, with gradient 0 where it is 0."""
    squared = jnp.sum(jnp.square(vectors), axis=axis, keepdims=keepdims)
    nonzero = squared != 0
    return jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, squared, 1)), 0)


def softmax(logits: Array) -> Array:
    """Softmax over the last axis; a row that is all -inf, or empty, becomes zero."""
    # no choice between branches: XLA makes one kernel of this and of the products around it, in half the time
    kind = jnp.finfo(logits.dtype)  # type: ignore[no-untyped-call]
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True, initial=kind.min))
    exponential = jnp.exp(logits - largest)
    # the sum is at least 1, to which this adds nothing, unless all are -inf
    return exponential / (jnp.sum(exponential, axis=-1, keepdims=True) + 4.0**-kind.nmant)
