"""Softmax as all of the spec uses it."""

from __future__ import annotations

from typing import Any

import numpy as np


def softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """`exp(l) / sum exp(l)` over the last axis; a row that is all -inf, or empty, becomes zero and not NaN.

    >>> softmax(np.array([[0.0, 0.0], [-np.inf, -np.inf]]))
    array([[0.5, 0.5],
           [0. , 0. ]])
    """
    largest = logits.max(axis=-1, keepdims=True, initial=-np.inf)
    exponential = np.exp(logits - np.where(np.isneginf(largest), 0, largest))
    total = exponential.sum(axis=-1, keepdims=True)
    return np.divide(exponential, total, out=np.zeros_like(exponential), where=total != 0)
