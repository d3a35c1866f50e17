"""Working precision: float32 for half precision, the input's own otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def working_dtype(*arrays: Array) -> np.dtype[Any]:
    """The precision in which decisions about these arrays are made."""
    return np.result_type(np.float32, *arrays)


def safe_divide(numerator: Array, denominator: Array) -> Array:
    """`numerator / denominator`, and 0 where the denominator is 0."""
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    out = np.zeros(shape, np.result_type(numerator, denominator))
    return np.divide(numerator, denominator, out=out, where=denominator != 0)


def softmax(logits: Array) -> Array:
    """Softmax over the last axis; a row that is all -inf, or empty, becomes zero."""
    largest = logits.max(axis=-1, keepdims=True, initial=-np.inf)
    exponential = np.exp(logits - np.where(np.isneginf(largest), 0, largest))
    return safe_divide(exponential, exponential.sum(axis=-1, keepdims=True))
