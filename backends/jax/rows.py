"""Rows of a table by their numbers, and sums over samples, also where samples lie over a mesh with explicit axes."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import PartitionSpec

from tokenmerge.backends.jax.precision import working_dtype

Array = jax.Array


def rows(table: Array, index: Array) -> Array:
    """`table[index]`: `(S,...)` of a table that every device has, where its samples `index (S,)` are.

    >>> rows(jax.numpy.array([[1.0, 2.0], [3.0, 4.0]]), jax.numpy.array([1, 1])).tolist()
    [[3.0, 4.0], [3.0, 4.0]]
    """
    spec = _explicit(index)
    where = None if spec is None else _spec(*spec, *(None,) * (table.ndim - 1))
    return table.at[index].get(out_sharding=where)


def sum_over_samples(a: Array, b: Array) -> Array:
    """`a^T b` of `(S,A)` and `(S,B)`, float32 at least: `(A,B)` on every device.

    >>> sum_over_samples(jax.numpy.array([[1.0], [2.0]]), jax.numpy.array([[3.0], [4.0]])).tolist()
    [[11.0]]
    """
    everywhere = None if _explicit(a) is None and _explicit(b) is None else _spec(None, None)
    return jax.lax.dot_general(
        a,
        b,
        (((0,), (0,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=working_dtype(a, b),
        out_sharding=everywhere,
    )


def _explicit(array: Array) -> PartitionSpec | None:
    """Where an array lies on a mesh with explicit axes, if it does."""
    spec = jax.typeof(array).sharding.spec
    return spec if any(axis is not None for axis in spec) else None


def _spec(*axes: Any) -> PartitionSpec:
    return PartitionSpec(*axes)  # type: ignore[no-untyped-call]
