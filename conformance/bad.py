"""Arrays for calls that are refused."""

from __future__ import annotations

import numpy as np

X, METRIC, SIZE = np.ones((2, 6, 4), np.float32), np.ones((2, 6, 8), np.float32), np.ones((2, 6), np.float32)
ATTN, VALUE = np.full((2, 3, 6, 6), 1 / 6, np.float32), np.ones((2, 3, 6, 5), np.float32)
MASK, SHORT_MASK, FLOAT_MASK = np.ones((2, 6), bool), np.ones((2, 5), bool), SIZE
NOISE, UNIFORMS, PERMUTATION = np.ones((2, 3, 5), np.float32), np.ones((2, 3), np.float32), np.zeros((2, 6), np.int32)
INTEGERS = np.ones((2, 6, 4), np.int32)
ATTENTION = {"attn": ATTN, "value": VALUE}
