"""The information bottleneck that trains LTM (arXiv 2407.15219; docs/ltm.md).

`phi` is a soft assignment of samples to clusters, `(S,A)` with rows that sum to one; `Q (A,Y)` the clusters' share of
every class. All functions work in the precision of their first argument, float32 at least. Logarithms are of
`max(v, LOG_FLOOR)`, the same floor in every precision, so that no value depends on the smallest number of a dtype.

Rules:
    IB-1: Cluster scores are softmax_a(-beta ||f / ||f|| - c_a||^2); a zero vector stays zero.
    IB-2: Q[a,y] is the mean of phi_out[:,a] over the samples of class y; zero for a class without samples.
    IB-3: The bound is the mean over samples of sum_{a,b} phi_out[a] phi_in[b] log phi_in[b] - sum_a phi_out[a] log
        Q[a,y], and finite.
    IB-4: Mutual information is in nats, with 0 log 0 = 0.
    IB-5: Merged tokens are scored by softmax_a(-||G^T Z - C_a||^2).
    IB-6: The gradient of the bound with respect to the mask is -2 Z (sum_a phi_a (log Q[a,y] - sum_b phi_b log
        Q[b,y]) C_a)^T.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.spec.precision import working_dtype
from tokenmerge.spec.shared.arguments import check_integer
from tokenmerge.spec.shared.calls import Calls
from tokenmerge.spec.shared.constants import LOG_FLOOR
from tokenmerge.spec.softmax import softmax

Array = np.ndarray[Any, Any]
check = Calls(np.ndarray, batched=False)


def cluster_scores(f: Array, centroids: Array, beta: float) -> Array:
    """`softmax_a(-beta ||f / ||f|| - c_a||^2)`: how much each sample belongs to each cluster.

    Args:
        f: `(S,C)` floating point; a zero vector stays zero.
        centroids: `(A,C)`.
        beta: >= 0, sharpness.

    Returns:
        `(S,A)`, rows sum to 1.

    >>> cluster_scores(np.array([[2.0, 0.0]]), np.array([[1.0, 0.0], [1.0, 0.0]]), 5.0)
    array([[0.5, 0.5]])
    """
    check.cluster_scores(f, centroids, beta)
    f = f.astype(working_dtype(f.dtype))
    norm = np.sqrt((f**2).sum(axis=1, keepdims=True))
    unit = np.divide(f, norm, out=np.zeros_like(f), where=norm > 0)
    distance = ((unit[:, None, :] - centroids[None].astype(f.dtype)) ** 2).sum(axis=2)
    return softmax(-f.dtype.type(beta) * distance)


def estimate_q(phi_out: Array, labels: Array, num_classes: int | None = None) -> Array:
    """`Q[a,y] = sum_i phi_out[i,a] 1[y_i = y] / sum_i 1[y_i = y]`; a class without samples gives a zero column.

    Args:
        phi_out: `(S,A)` floating point.
        labels: `(S,)` integer in [0, Y).
        num_classes: Y; None for the largest label plus one.

    >>> estimate_q(np.array([[0.9, 0.1], [0.7, 0.3], [0.0, 1.0]]), np.array([0, 0, 1]))
    array([[0.8, 0. ],
           [0.2, 1. ]])
    """
    classes = check.estimate_q(phi_out, labels, num_classes)
    q = np.zeros((phi_out.shape[1], classes), working_dtype(phi_out.dtype))
    for y in range(classes):
        members = phi_out[labels == y].astype(q.dtype)
        q[:, y] = members.sum(axis=0) / max(len(members), 1)
    return q


def ib_bound(phi_in: Array, phi_out: Array, labels: Array, q: Array) -> Array:
    """The mean over samples of `sum_{a,b} phi_out[a] phi_in[b] log phi_in[b] - sum_a phi_out[a] log Q[a,y]`.

    An upper bound on the information-bottleneck loss `I(out; in) - I(out; y)`, up to a constant.

    Args:
        phi_in: `(S,B)` floating point; phi_out: `(S,A)`; labels: `(S,)` integer in [0, Y); q: `(A,Y)`.

    Returns:
        A finite scalar (0 for S = 0).

    >>> bound = ib_bound(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]]), np.array([0]), np.array([[0.5], [0.5]]))
    >>> round(float(bound), 6)
    0.693147
    """
    s = check.ib_bound(phi_in, phi_out, labels, q)
    work = working_dtype(phi_in.dtype)
    total = work.type(0)
    for into, out, y in zip(phi_in.astype(work), phi_out.astype(work), labels, strict=True):
        total += out.sum() * (into * _log(into)).sum() - (out * _log(q[:, y].astype(work))).sum()
    return np.asarray(total / max(s, 1))


def mutual_information(p_ab: Array) -> Array:
    """`sum_{a,b} p[a,b] log(p[a,b] / (p[a] p[b]))` in nats, from a joint table `(A,B)` that sums to one.

    >>> round(float(mutual_information(np.array([[0.5, 0.0], [0.0, 0.5]]))), 6)
    0.693147
    """
    check.mutual_information(p_ab)
    p = p_ab.astype(working_dtype(p_ab.dtype))
    p_a, p_b = p.sum(axis=1, keepdims=True), p.sum(axis=0, keepdims=True)
    return np.asarray((p * (_log(p) - _log(p_a) - _log(p_b))).sum())


def mask_scores(z: Array, mask: Array, centroids: Array) -> Array:
    """`phi_a = softmax_a(-||G^T Z - C_a||^2)`: the merged tokens of one sample against every centroid.

    Args:
        z: `(n,C)` floating point; mask: `(n,P')`; centroids: `(A,P',C)`.

    Returns:
        `(A,)`, sums to 1.

    >>> mask_scores(np.eye(2), np.eye(2), np.zeros((3, 2, 2)))
    array([0.33333333, 0.33333333, 0.33333333])
    """
    check.mask_scores(z, mask, centroids)
    work = working_dtype(z.dtype)
    merged = mask.astype(work).T @ z.astype(work)
    return softmax(-((merged - centroids.astype(work)) ** 2).sum(axis=(1, 2)))


def ib_gradient(z: Array, mask: Array, centroids: Array, q: Array, label: int) -> Array:
    """Gradient of one sample's `ib_bound` with respect to its mask, with `phi_out = mask_scores(z, mask, centroids)`:

    `-2 Z (sum_a phi_a (log Q[a,y] - sum_b phi_b log Q[b,y]) C_a)^T`.

    The derivation is in docs/ltm.md: the terms in `G` itself cancel, and `phi_in` does not depend on the mask.

    Args:
        z: `(n,C)` floating point; mask: `(n,P')`; centroids: `(A,P',C)`; q: `(A,Y)`; label: integer in [0, Y).

    Returns:
        `(n,P')`.

    >>> z, mask = np.array([[1.0], [2.0]]), np.array([[0.5], [0.5]])
    >>> centroids, q = np.array([[[0.0]], [[3.0]]]), np.array([[0.5], [0.25]])
    >>> ib_gradient(z, mask, centroids, q, 0).round(3)  # away from the cluster that fits the label less
    array([[1.04 ],
           [2.079]])
    """
    phi = mask_scores(z, mask, centroids)
    _, classes = check.array("information_bottleneck", "q", q, "A Y", A=len(centroids))
    label = check_integer("information_bottleneck", "label", label, minimum=0)
    check.entries("information_bottleneck", "label", np.array(label), 0, classes, "Y")
    log_q = _log(q[:, label].astype(phi.dtype))
    surprise = phi * (log_q - (phi * log_q).sum())
    pulled = (surprise[:, None, None] * centroids.astype(phi.dtype)).sum(axis=0)
    return -2 * z.astype(phi.dtype) @ pulled.T


def _log(v: Array) -> Array:
    return np.log(np.maximum(v, v.dtype.type(LOG_FLOOR)))
