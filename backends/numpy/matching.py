"""Who is most similar to whom: the largest entries of a product of matrices that need not be in memory at once."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

MOST = 2**20  # similarities in memory at once


def nearest(a: Array, b: Array, allowed: Array) -> tuple[Array, Array]:
    """Similarity and index of the most similar row of `b (B,M,D)` for every row of `a (B,L,D)`, both `(B,L)`.

    Of several the first. `allowed`, `(B,M)` or `(M,)` bool: which rows of `b` can be meant.

    >>> nearest(np.eye(2)[None], np.array([[[1.0, 0.0], [1.0, 1.0]]]), np.ones(2, bool))
    (array([[1., 1.]]), array([[0, 1]]))
    """
    samples, length, _ = a.shape
    partners = b.shape[1]
    best, target = np.empty((samples, length), a.dtype), np.zeros((samples, length), np.intp)
    if partners == 0:
        best[:] = -np.inf
        return best, target
    together = max(1, MOST // max(1, length * partners))
    rows = max(1, MOST // (min(together, max(samples, 1)) * partners))
    others = np.broadcast_to(~allowed, (samples, partners))[:, None, :]
    for some in (slice(first, first + together) for first in range(0, samples, together)):
        for first in range(0, length, rows):
            part = slice(first, first + rows)
            similarity = a[some, part] @ np.swapaxes(b[some], 1, 2)
            if others[some].any():
                np.copyto(similarity, -np.inf, where=others[some])
            target[some, part] = similarity.argmax(axis=2)  # the lowest of several maxima
            best[some, part] = np.take_along_axis(similarity, target[some, part, None], axis=2)[:, :, 0]
    return best, target
