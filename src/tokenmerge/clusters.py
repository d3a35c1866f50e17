"""Centroids of vectors by scikit-learn's mini-batch k-means, loaded when it is called."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from tokenmerge.spec.shared.arguments import check_array, check_integer

Array = np.ndarray[Any, Any]


def centroids(vectors: Array, clusters: int, seed: int) -> Array:
    """Unit vectors along the centroids of mini-batch k-means.

    With fewer vectors than clusters the last centroids are zero; so is one whose cluster lies around zero.

    Args:
        vectors: `(S,C)` finite; they are clustered as they are, not normalized.
        clusters: >= 1, how many; seed: of the first centroids and of the order of the batches; scikit-learn takes its
            last 32 bits.

    Returns:
        `(clusters,C)` float32, rows of length 1 or 0.

    Raises:
        TypeError: another kind of argument; ValueError: there are no vectors, or one is not finite.
        ImportError: scikit-learn is not installed.

    >>> centroids(np.array([[2.0, 0.0]]), 2, 0).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    check_array("bottleneck_tracker", "vectors", vectors, "S C", array_type=np.ndarray)
    clusters = check_integer("bottleneck_tracker", "clusters", clusters, minimum=1)
    seed = check_integer("bottleneck_tracker", "seed", seed, minimum=0)
    if not len(vectors):
        raise ValueError("bottleneck_tracker: `vectors` must hold at least one, got none (observe a batch first)")
    if not np.isfinite(vectors).all():
        raise ValueError("bottleneck_tracker: `vectors` must be finite, got NaN or infinity (has training diverged?)")
    try:
        from sklearn.cluster import MiniBatchKMeans
        from sklearn.exceptions import ConvergenceWarning
    except ModuleNotFoundError:
        raise ImportError("bottleneck_tracker needs scikit-learn: pip install scikit-learn") from None

    found = min(clusters, len(vectors))
    kmeans = MiniBatchKMeans(n_clusters=found, random_state=seed % 2**32, n_init=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different vectors than clusters: some are alike
        centres = kmeans.fit(np.asarray(vectors, np.float32)).cluster_centers_
    length = np.sqrt((centres**2).sum(axis=1, keepdims=True))
    units = np.zeros((clusters, vectors.shape[1]), np.float32)
    units[:found] = np.divide(centres, length, out=np.zeros_like(centres), where=length > 0)
    return units
