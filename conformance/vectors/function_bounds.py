"""The bounds of the functions that make no plan: attention, pooling and the information bottleneck."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tokenmerge.conformance.rounding import Rounded, softmax
from tokenmerge.conformance.vectors.vector import Vector
from tokenmerge.spec.shared.constants import LOG_FLOOR

Results = dict[str, Rounded]


def _attention_weights(vector: Vector, dtype: str) -> Rounded:
    query, key = (Rounded.exact(vector.float64(name), dtype) for name in ("query", "key"))
    scale = vector.config["scale"]
    logits = (query @ key.T) * (query.value.shape[-1] ** -0.5 if scale is None else scale)
    if "size" in vector.inputs:
        logits = logits + Rounded.exact(vector.float64("size"), dtype).log()[:, None, None, :]
    if "mask" in vector.inputs:
        real = vector.inputs["mask"][:, None, None, :]
        logits = Rounded(np.where(real, logits.value, -np.inf), np.where(real, logits.error, 0), logits.dtype)
    return softmax(logits)


def _attention(vector: Vector, dtype: str) -> Rounded:
    weights = _attention_weights(vector, dtype)
    if "size" not in vector.inputs:  # a fused kernel may round the weights to the dtype of the values
        weights = weights.stored(dtype)
    return (weights @ Rounded.exact(vector.float64("value"), dtype)).stored(dtype)


def _mean_pool(vector: Vector, dtype: str) -> Rounded:
    x = Rounded.exact(vector.float64("x"), dtype)
    ones = np.ones(x.value.shape[:2])
    size = vector.arguments().get("size", ones) * vector.inputs.get("mask", ones)
    weight = Rounded.exact(size[:, None, :], dtype)
    summed = weight @ x
    empty = ~weight.value.any(axis=2, keepdims=True)
    pooled = (summed / weight.sum(axis=2, keepdims=True)).stored(dtype)
    return Rounded(pooled.value, np.where(empty, 0, pooled.error), pooled.dtype)[:, 0]


def _log(value: Rounded) -> Rounded:
    floored = np.maximum(value.value, LOG_FLOOR)
    error = np.where(value.value < LOG_FLOOR, floored * value.unit, value.error)
    return Rounded(floored, error, value.dtype).log()


def _cluster_scores(vector: Vector, dtype: str) -> Rounded:
    f, centroids = (Rounded.exact(vector.float64(name), dtype) for name in ("f", "centroids"))
    unit = f / (f * f).sum(axis=1, keepdims=True).sqrt()
    offset = unit[:, None, :] - centroids[None]
    return softmax(-((offset * offset).sum(axis=2) * vector.config["beta"]))


def _estimate_q(vector: Vector, dtype: str) -> Rounded:
    labels, classes = vector.inputs["labels"], vector.config["num_classes"]
    one_hot = Rounded.exact(labels[:, None] == np.arange(classes or labels.max() + 1), dtype)
    return (Rounded.exact(vector.float64("phi_out"), dtype).T @ one_hot) / one_hot.sum(axis=0)


def _ib_bound(vector: Vector, dtype: str) -> Rounded:
    into, out, q = (Rounded.exact(vector.float64(name), dtype) for name in ("phi_in", "phi_out", "q"))
    kept = out.sum(axis=1) * (into * _log(into)).sum(axis=1)
    explained = (out * _log(q)[:, vector.inputs["labels"]].T).sum(axis=1)
    return (kept - explained).mean(axis=0)


def _mutual_information(vector: Vector, dtype: str) -> Rounded:
    p = Rounded.exact(vector.float64("p_ab"), dtype)
    gain = _log(p) - _log(p.sum(axis=1, keepdims=True)) - _log(p.sum(axis=0, keepdims=True))
    return (p * gain).sum(axis=(0, 1))


def _mask_scores(vector: Vector, dtype: str) -> Rounded:
    z, mask, centroids = (Rounded.exact(vector.float64(name), dtype) for name in ("z", "mask", "centroids"))
    offset = (mask.T @ z)[:, None] - centroids[None]
    return softmax(-((offset * offset).sum(axis=(2, 3))))


def _ib_gradient(vector: Vector, dtype: str) -> Rounded:
    phi = _mask_scores(vector, dtype)
    q, centroids, z = (Rounded.exact(vector.float64(name), dtype) for name in ("q", "centroids", "z"))
    log_q = _log(q)[:, vector.inputs["labels"]].T
    surprise = phi * (log_q - (phi * log_q).sum(axis=1, keepdims=True))
    pulled = (surprise[:, :, None, None] * centroids[None]).sum(axis=1)
    return (z @ pulled.T) * -2.0


def _named(name: str, function: Callable[[Vector, str], Rounded]) -> Callable[[Vector, str], Results]:
    return lambda vector, dtype: {name: function(vector, dtype)}


FUNCTIONS: dict[str, Callable[[Vector, str], Results]] = {
    "attention_weights": _named("weights", _attention_weights),
    "attention": _named("values", _attention),
    "mean_pool": _named("pooled", _mean_pool),
    "cluster_scores": _named("scores", _cluster_scores),
    "estimate_q": _named("q", _estimate_q),
    "ib_bound": _named("bound", _ib_bound),
    "mutual_information": _named("information", _mutual_information),
    "mask_scores": _named("scores", _mask_scores),
    "ib_gradient": _named("gradient", _ib_gradient),
}
