"""Sums in which a weight of zero keeps everything out, NaN and infinity too: padding may hold anything."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tokenmerge.backends.jax.precision import merge_matmul

Array = jax.Array


def product(weights: Array, values: Array) -> Array:
    """`weights @ values`, where 0 times NaN or infinity counts as 0, on the way back as well.

    >>> product(jnp.array([[1.0, 0.0], [1.0, 2.0]]), jnp.array([[3.0, 3.0], [jnp.nan, -jnp.inf]])).tolist()
    [[3.0, 3.0], [nan, -inf]]
    """
    # no look at whether all is finite: over a batch on several devices they would have to tell one another
    out = merge_matmul(weights, jnp.where(jnp.isfinite(values), values, 0))
    seen, known = jax.lax.stop_gradient(values), jax.lax.stop_gradient(weights)
    sign = jnp.where(jnp.isnan(known), 1, jnp.sign(known))
    used, infinite = jnp.abs(sign), jnp.where(jnp.isinf(seen), jnp.sign(seen), 0)
    balance, odd = _count(sign, infinite), _count(used, ~jnp.isfinite(seen))  # +inf less -inf; both and NaN together
    unknown = odd > jnp.abs(balance)  # NaN, or infinities of both signs
    poison = jnp.where(unknown, jnp.nan, jnp.where(odd > 0, jnp.copysign(jnp.inf, balance), 0))
    return out + poison.astype(out.dtype)


def _count(signs: Array, others: Array) -> Array:
    """The product of entries -1, 0 and 1: exact as bfloat16, in which accelerators are fast."""
    signs, others, exact = signs.astype(jnp.bfloat16), others.astype(jnp.bfloat16), jax.lax.Precision.DEFAULT
    return jnp.matmul(signs, others, precision=exact, preferred_element_type=jnp.float32)
