"""The information bottleneck that trains LTM, vectorized (docs/ltm.md).

The semantics are those of `tokenmerge.spec.information_bottleneck`; `mask_scores` and `ib_gradient` take a batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.backends.numpy.check import check
from tokenmerge.backends.numpy.precision import safe_divide, softmax, working_dtype
from tokenmerge.spec.shared.constants import LOG_FLOOR

Array = np.ndarray[Any, Any]


def cluster_scores(f: Array, centroids: Array, beta: float) -> Array:
    """`softmax_a(-beta ||f / ||f|| - c_a||^2)`.

    Args:
        f: `(S,C)` floating point; centroids: `(A,C)`; beta: >= 0.

    Returns:
        `(S,A)`, rows sum to 1.

    >>> cluster_scores(np.array([[2.0, 0.0]]), np.array([[1.0, 0.0], [1.0, 0.0]]), 5.0)
    array([[0.5, 0.5]])
    """
    check.cluster_scores(f, centroids, beta)
    work = working_dtype(f).type
    f, centroids = f.astype(work, copy=False), centroids.astype(work, copy=False)
    unit = safe_divide(f, np.sqrt(np.square(f).sum(axis=1, keepdims=True)))
    return softmax(-work(beta) * np.square(unit[:, None, :] - centroids).sum(axis=2))


def estimate_q(phi_out: Array, labels: Array, num_classes: int | None = None) -> Array:
    """`Q[a,y] = sum_i phi_out[i,a] 1[y_i = y] / sum_i 1[y_i = y]`; a class without samples gives a zero column.

    Args:
        phi_out: `(S,A)` floating point; labels: `(S,)` integer; num_classes: Y, None for the largest label plus one.

    >>> estimate_q(np.array([[0.9, 0.1], [0.7, 0.3], [0.0, 1.0]]), np.array([0, 0, 1]))
    array([[0.8, 0. ],
           [0.2, 1. ]])
    """
    classes = check.estimate_q(phi_out, labels, num_classes)
    one_hot = (labels[:, None] == np.arange(classes)).astype(working_dtype(phi_out))
    return safe_divide(phi_out.astype(one_hot.dtype).T @ one_hot, one_hot.sum(axis=0))


def ib_bound(phi_in: Array, phi_out: Array, labels: Array, q: Array) -> Array:
    """The mean over samples of `sum_{a,b} phi_out[a] phi_in[b] log phi_in[b] - sum_a phi_out[a] log Q[a,y]`.

    Args:
        phi_in: `(S,B)` floating point; phi_out: `(S,A)`; labels: `(S,)` integer in [0, Y); q: `(A,Y)`.

    Returns:
        A finite scalar (0 for S = 0).

    >>> bound = ib_bound(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]]), np.array([0]), np.array([[0.5], [0.5]]))
    >>> round(float(bound), 6)
    0.693147
    """
    s = check.ib_bound(phi_in, phi_out, labels, q)
    work = working_dtype(phi_in)
    into, out = phi_in.astype(work, copy=False), phi_out.astype(work, copy=False)
    kept = out.sum(axis=1) * (into * _log(into)).sum(axis=1)
    explained = (out * _log(q.astype(work))[:, labels].T).sum(axis=1)
    return np.asarray((kept - explained).sum() / work.type(max(s, 1)))


def mutual_information(p_ab: Array) -> Array:
    """`sum_{a,b} p[a,b] log(p[a,b] / (p[a] p[b]))` in nats, from a joint table `(A,B)` that sums to one.

    >>> round(float(mutual_information(np.array([[0.5, 0.0], [0.0, 0.5]]))), 6)
    0.693147
    """
    check.mutual_information(p_ab)
    p = p_ab.astype(working_dtype(p_ab), copy=False)
    return np.asarray((p * (_log(p) - _log(p.sum(axis=1, keepdims=True)) - _log(p.sum(axis=0, keepdims=True)))).sum())


def mask_scores(z: Array, mask: Array, centroids: Array) -> Array:
    """`phi_a = softmax_a(-||G^T Z - C_a||^2)`.

    Args:
        z: `(B,n,C)` floating point; mask: `(B,n,P')`; centroids: `(A,P',C)`.

    Returns:
        `(B,A)`, rows sum to 1.

    >>> mask_scores(np.eye(2)[None], np.eye(2)[None], np.zeros((4, 2, 2)))
    array([[0.25, 0.25, 0.25, 0.25]])
    """
    check.mask_scores(z, mask, centroids)
    work = working_dtype(z)
    merged = np.swapaxes(mask.astype(work), 1, 2) @ z.astype(work)
    return softmax(-np.square(merged[:, None] - centroids.astype(work)).sum(axis=(2, 3)))


def ib_gradient(z: Array, mask: Array, centroids: Array, q: Array, labels: Array) -> Array:
    """`-2 Z (sum_a phi_a (log Q[a,y] - sum_b phi_b log Q[b,y]) C_a)^T`, the gradient of each sample's own bound.

    Args:
        z: `(B,n,C)` floating point; mask: `(B,n,P')`; centroids: `(A,P',C)`; q: `(A,Y)`; labels: `(B,)` integer.

    Returns:
        `(B,n,P')`.

    >>> z, mask = np.array([[[1.0], [2.0]]]), np.array([[[0.5], [0.5]]])
    >>> centroids, q = np.array([[[0.0]], [[3.0]]]), np.array([[0.5], [0.25]])
    >>> ib_gradient(z, mask, centroids, q, np.array([0])).round(3).tolist()
    [[[1.04], [2.079]]]
    """
    check.ib_gradient(z, mask, centroids, q, labels)
    phi = mask_scores(z, mask, centroids)
    log_q = _log(q.astype(phi.dtype))[:, labels].T
    surprise = phi * (log_q - (phi * log_q).sum(axis=1, keepdims=True))
    pulled = np.einsum("ba,apc->bcp", surprise, centroids.astype(phi.dtype))
    return -2 * (z.astype(phi.dtype) @ pulled)


def _log(v: Array) -> Array:
    return np.log(np.maximum(v, v.dtype.type(LOG_FLOOR)))
