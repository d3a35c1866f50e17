"""The information bottleneck that trains LTM, vectorized (docs/ltm.md).

The semantics are those of `tokenmerge.spec.information_bottleneck`; `mask_scores` and `ib_gradient` take a batch.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from tokenmerge.backends.jax.check import check
from tokenmerge.backends.jax.precision import matmul, safe_divide, safe_norm, softmax, working_dtype
from tokenmerge.backends.jax.rows import rows, sum_over_samples
from tokenmerge.spec.shared.constants import LOG_FLOOR

Array = jax.Array


def cluster_scores(f: Array, centroids: Array, beta: float) -> Array:
    """`softmax_a(-beta ||f / ||f|| - c_a||^2)`.

    Args:
        f: `(S,C)` floating point; centroids: `(A,C)`; beta: >= 0.

    Returns:
        `(S,A)`, rows sum to 1.

    >>> cluster_scores(jnp.array([[2.0, 0.0]]), jnp.array([[1.0, 0.0], [1.0, 0.0]]), 5.0).tolist()
    [[0.5, 0.5]]
    """
    check.cluster_scores(f, centroids, beta)
    return _cluster_scores(f, centroids, float(beta))


@jax.jit
def _cluster_scores(f: Array, centroids: Array, beta: float) -> Array:
    f, centroids = _in_working_precision(f, centroids)
    unit = safe_divide(f, safe_norm(f, axis=1, keepdims=True))
    return softmax(-beta * jnp.sum(jnp.square(unit[:, None, :] - centroids[None]), axis=2))


def estimate_q(phi_out: Array, labels: Array, num_classes: int | None = None) -> Array:
    """`Q[a,y] = sum_i phi_out[i,a] 1[y_i = y] / sum_i 1[y_i = y]`; a class without samples gives a zero column.

    Args:
        phi_out: `(S,A)` floating point; labels: `(S,)` integer; num_classes: Y, None for the largest label plus one,
            which reads the array and so does not work under `jax.jit`.

    >>> estimate_q(jnp.array([[0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]), jnp.array([0, 0, 1])).tolist()
    [[0.5, 0.0], [0.5, 1.0]]
    """
    return _estimate_q(phi_out, labels, check.estimate_q(phi_out, labels, num_classes))


@partial(jax.jit, static_argnums=2)
def _estimate_q(phi_out: Array, labels: Array, classes: int) -> Array:
    (phi_out,) = _in_working_precision(phi_out)
    one_hot = (_index(labels)[:, None] == jnp.arange(classes)[None]).astype(phi_out.dtype)
    return safe_divide(sum_over_samples(phi_out, one_hot), jnp.sum(one_hot, axis=0, keepdims=True))


def ib_bound(phi_in: Array, phi_out: Array, labels: Array, q: Array) -> Array:
    """The mean over samples of `sum_{a,b} phi_out[a] phi_in[b] log phi_in[b] - sum_a phi_out[a] log Q[a,y]`.

    Args:
        phi_in: `(S,B)` floating point; phi_out: `(S,A)`; labels: `(S,)` integer in [0, Y); q: `(A,Y)`.

    Returns:
        A finite scalar (0 for S = 0).

    >>> bound = ib_bound(jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 0.0]]), jnp.array([0]), jnp.array([[0.5], [0.5]]))
    >>> round(float(bound), 6)
    0.693147
    """
    check.ib_bound(phi_in, phi_out, labels, q)
    return _ib_bound(phi_in, phi_out, labels, q)


@jax.jit
def _ib_bound(phi_in: Array, phi_out: Array, labels: Array, q: Array) -> Array:
    into, out, q = _in_working_precision(phi_in, phi_out, q)
    kept = jnp.sum(out, axis=1) * jnp.sum(into * _log(into), axis=1)
    explained = jnp.sum(out * rows(_log(q).T, _index(labels)), axis=1)
    return jnp.sum(kept - explained) / max(phi_in.shape[0], 1)


def mutual_information(p_ab: Array) -> Array:
    """`sum_{a,b} p[a,b] log(p[a,b] / (p[a] p[b]))` in nats, from a joint table `(A,B)` that sums to one.

    >>> round(float(mutual_information(jnp.array([[0.5, 0.0], [0.0, 0.5]]))), 6)
    0.693147
    """
    check.mutual_information(p_ab)
    return _mutual_information(p_ab)


@jax.jit
def _mutual_information(p_ab: Array) -> Array:
    (p,) = _in_working_precision(p_ab)
    return jnp.sum(p * (_log(p) - _log(jnp.sum(p, axis=1, keepdims=True)) - _log(jnp.sum(p, axis=0, keepdims=True))))


def mask_scores(z: Array, mask: Array, centroids: Array) -> Array:
    """`phi_a = softmax_a(-||G^T Z - C_a||^2)`.

    Args:
        z: `(B,n,C)` floating point; mask: `(B,n,P')`; centroids: `(A,P',C)`.

    Returns:
        `(B,A)`, rows sum to 1.

    >>> mask_scores(jnp.eye(2)[None], jnp.eye(2)[None], jnp.zeros((4, 2, 2))).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """
    check.mask_scores(z, mask, centroids)
    return _mask_scores(z, mask, centroids)


@jax.jit
def _mask_scores(z: Array, mask: Array, centroids: Array) -> Array:
    z, mask, centroids = _in_working_precision(z, mask, centroids)
    merged = matmul(jnp.swapaxes(mask, 1, 2), z)
    return softmax(-jnp.sum(jnp.square(merged[:, None] - centroids[None]), axis=(2, 3)))


def ib_gradient(z: Array, mask: Array, centroids: Array, q: Array, labels: Array) -> Array:
    """`-2 Z (sum_a phi_a (log Q[a,y] - sum_b phi_b log Q[b,y]) C_a)^T`, the gradient of each sample's own bound.

    Args:
        z: `(B,n,C)` floating point; mask: `(B,n,P')`; centroids: `(A,P',C)`; q: `(A,Y)`; labels: `(B,)` integer.

    Returns:
        `(B,n,P')`.

    >>> z, mask = jnp.array([[[1.0], [2.0]]]), jnp.array([[[0.5], [0.5]]])
    >>> centroids, q = jnp.array([[[0.0]], [[3.0]]]), jnp.array([[0.5], [0.25]])
    >>> (ib_gradient(z, mask, centroids, q, jnp.array([0])) / jnp.log(2.0)).round(1).tolist()
    [[[1.5], [3.0]]]
    """
    check.ib_gradient(z, mask, centroids, q, labels)
    return _ib_gradient(z, mask, centroids, q, labels)


@jax.jit
def _ib_gradient(z: Array, mask: Array, centroids: Array, q: Array, labels: Array) -> Array:
    phi = _mask_scores(z, mask, centroids)
    z, centroids, q = _in_working_precision(z, centroids, q)
    log_q = rows(_log(q).T, _index(labels))
    surprise = phi * (log_q - jnp.sum(phi * log_q, axis=1, keepdims=True))
    a, p, c = centroids.shape
    pulled = matmul(surprise, centroids.reshape(a, p * c)).reshape(-1, p, c)
    return -2 * matmul(z, jnp.swapaxes(pulled, 1, 2))


def _in_working_precision(first: Array, *others: Array) -> tuple[Array, ...]:
    """All in the working precision of the first, as in the spec."""
    work = working_dtype(jnp.asarray(first))
    return tuple(jnp.asarray(array).astype(work) for array in (first, *others))


def _index(labels: Array) -> Array:
    return jnp.asarray(labels).astype(int)


def _log(v: Array) -> Array:
    return jnp.log(jnp.maximum(v, LOG_FLOOR))
