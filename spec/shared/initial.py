"""Initial values of the learned parameters: drawn once, by NumPy, so that every backend starts from the same ones."""

from __future__ import annotations

from typing import Any

import numpy as np


def initial_queries(num_tokens_out: int, dim: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """PatchMerger's queries `(M,C)`: standard normal, float32, the same for a seed in every backend.

    >>> initial_queries(2, 3).shape
    (2, 3)
    """
    return np.random.default_rng(seed).standard_normal((num_tokens_out, dim), dtype=np.float32)
