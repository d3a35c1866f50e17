"""What a user may say about how a network or a merger is computed: `dtype`, `param_dtype`, `precision`.

Decisions do not read any of it: they are made in float32 at least, with `Precision.HIGHEST`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.lax import DotAlgorithmPreset, Precision

from tokenmerge.spec.shared.arguments import FLOATING, shown

Dtype = np.dtype[Any]


def floating(owner: str, name: str, dtype: Any) -> Dtype | None:
    """A dtype of floating-point numbers, from whatever names one; None stays None.

    Raises:
        TypeError: no such dtype.

    >>> floating("vit", "dtype", jnp.bfloat16)
    dtype(bfloat16)
    >>> floating("vit", "dtype", "int8")
    Traceback (most recent call last):
    ...
    TypeError: vit: `dtype` must be one of 'float16', 'bfloat16', 'float32', 'float64' or None, got 'int8'
    """
    if dtype is None:
        return None
    try:  # of a number or an array, whose dtype is not meant
        found = np.dtype(jnp.dtype(dtype)) if isinstance(dtype, (str, type, np.dtype)) else None
    except TypeError:
        found = None
    if found is None or found.name not in FLOATING:
        names = ", ".join(repr(each) for each in FLOATING)
        raise TypeError(f"{owner}: `{name}` must be one of {names} or None, got {shown(dtype)}")
    return found


def draws_parameters(owner: str, rngs: Any) -> bool:
    """Whether the first parameters come from `rngs`: from its stream "params", or the one for all.

    Raises:
        TypeError: neither `flax.nnx.Rngs` nor None.

    >>> draws_parameters("vit", nnx.Rngs(params=0)), draws_parameters("vit", nnx.Rngs(dropout=0))
    (True, False)
    """
    if rngs is None:
        return False
    if not isinstance(rngs, nnx.Rngs):
        raise TypeError(f"{owner}: `rngs` must be flax.nnx.Rngs or None, got {shown(rngs)}")
    return "params" in rngs or "default" in rngs


def precision_name(owner: str, precision: Any) -> str | None:
    """The name by which `jax.default_matmul_precision` knows a precision; None stays None.

    Raises:
        TypeError: no precision of JAX.

    >>> precision_name("vit", jax.lax.Precision.HIGH), precision_name("vit", "bfloat16")
    ('high', 'bfloat16')
    >>> precision_name("vit", "low")
    Traceback (most recent call last):
    ...
    TypeError: vit: `precision` must be a precision of jax.lax.dot or None, got 'low'
    """
    if precision is None:
        return None
    name = precision
    if isinstance(precision, Precision):
        name = precision.name.lower()
    elif isinstance(precision, DotAlgorithmPreset):
        name = precision.name
    try:
        with jax.default_matmul_precision(name):
            return str(name)
    except (TypeError, ValueError):
        raise TypeError(
            f"{owner}: `precision` must be a precision of jax.lax.dot or None, got {shown(precision)}"
        ) from None


def told(precision: str | None) -> AbstractContextManager[Any]:
    """A context in which products that are no decision have a precision; None for the one that is set already."""
    return nullcontext() if precision is None else jax.default_matmul_precision(precision)
