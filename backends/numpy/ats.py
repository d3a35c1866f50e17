"""ATS, vectorized over the batch (docs/ats.md)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.backends.numpy.check import check
from tokenmerge.backends.numpy.merger import Merger
from tokenmerge.backends.numpy.plan import SelectionPlan
from tokenmerge.backends.numpy.precision import safe_divide, working_dtype
from tokenmerge.backends.numpy.ties import ascending, true_first
from tokenmerge.spec.shared import arguments
from tokenmerge.spec.shared.constants import GUMBEL_FLOOR
from tokenmerge.spec.shared.merged import Merged

Array = np.ndarray[Any, Any]


def draw_uniforms(rng: np.random.Generator, batch: int, max_tokens: int) -> Array:
    """Random sample points `(B,K)` in [0, 1) for inverse transform sampling.

    >>> draw_uniforms(np.random.default_rng(0), 2, 3).shape
    (2, 3)
    """
    batch, max_tokens = check.draw("draw_uniforms", rng, batch=batch, max_tokens=max_tokens)
    return rng.random((batch, max_tokens), dtype=np.float32)


def draw_noise(rng: np.random.Generator, batch: int, max_tokens: int, num_tokens: int) -> Array:
    """Standard Gumbel noise `(B,K,N-1)` for `sampling="gumbel"`.

    >>> draw_noise(np.random.default_rng(0), 2, 3, 5).shape
    (2, 3, 4)
    """
    batch, max_tokens, num_tokens = check.draw(
        "draw_noise", rng, batch=batch, max_tokens=max_tokens, num_tokens=num_tokens
    )
    return rng.gumbel(size=(batch, max_tokens, max(num_tokens - 1, 0))).astype(np.float32)


def scores(attn: Array, value: Array, *, score: str = "per_head", mask: Array | None = None) -> Array:
    """Significance `(B,N-1)` of the tokens after the class token, see `tokenmerge.spec.ats.scores`.

    Args:
        attn: `(B,H,N,N)` after softmax, or the class row alone `(B,H,N)`; value: `(B,H,N,d)`.
        score: "per_head" or "concat"; mask: `(B,N)` bool, masked tokens score 0.
    """
    check.ats_scores(attn, value, score, mask)
    work = working_dtype(attn, value)
    row = (attn[:, :, 0] if attn.ndim == 4 else attn)[:, :, 1:].astype(work)
    others = value[:, :, 1:].astype(work, copy=False)
    if score == "per_head":
        significance = (row * np.sqrt(np.einsum("bhnd,bhnd->bhn", others, others))).sum(axis=1)
    else:
        significance = row.sum(axis=1) * np.sqrt(np.einsum("bhnd,bhnd->bn", others, others))
    return significance if mask is None else np.where(mask[:, 1:], significance, work.type(0))


def plan(
    attn: Array,
    value: Array,
    *,
    max_tokens: int,
    score: str = "per_head",
    sampling: str = "inverse_transform",
    mask: Array | None = None,
    uniforms: Array | None = None,
    noise: Array | None = None,
) -> SelectionPlan:
    """Decide which tokens stay; the semantics are those of `tokenmerge.spec.ats.plan`, for every sample.

    Args:
        attn: `(B,H,N,N)` after softmax, or the class row alone `(B,H,N)`; token 0 is the class token.
        value: `(B,H,N,d)`.
        max_tokens: K >= 1, the class token not counted.
        score: "per_head" or "concat".
        sampling: "inverse_transform", "gumbel" or "released".
        mask: `(B,N)` bool, True where a token is real.
        uniforms: `(B,K)` sample points, with "inverse_transform" only; None for `(2k-1)/(2K)`.
        noise: `(B,K,N-1)` standard Gumbel noise, with "gumbel" only.

    Returns:
        SelectionPlan with `P = 1 + min(K, N-1)` slots: class token, chosen tokens ascending, padding.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or range.

    >>> attn, value = np.array([[[0.2, 0.5, 0.0, 0.3]]]), np.ones((1, 1, 4, 1))
    >>> plan(attn, value, max_tokens=3).indices
    array([[0, 1, 3, 0]])
    """
    max_tokens = arguments.check_ats(max_tokens, score, sampling)
    _, n, _ = check.ats(attn, value, mask, uniforms, noise, max_tokens, sampling)
    b, others = value.shape[0], max(n - 1, 0)

    slots = min(1, n) + min(max_tokens, others)
    chosen = np.zeros((b, n), bool)
    chosen[:, :1] = True
    if others:
        significance = scores(attn, value, score=score, mask=mask)
        real = np.ones((b, others), bool) if mask is None else mask[:, 1:]
        if noise is not None:
            chosen[:, 1:] = _gumbel(significance, real, noise)
        elif sampling == "released":
            chosen[:, 1:] = _released(significance, real, max_tokens)
        else:
            points = (np.arange(1, 2 * max_tokens, 2) / (2 * max_tokens))[None] if uniforms is None else uniforms
            chosen[:, 1:] = _inverse_transform(significance, real, points.astype(significance.dtype))
    indices = true_first(chosen)[:, :slots]
    filled = np.arange(slots) < chosen.sum(axis=1, keepdims=True)
    indices = np.where(filled, indices, 0)
    if mask is not None:
        filled[:, :1] &= mask[:, :1]
    return SelectionPlan(indices, filled, n)


def _inverse_transform(significance: Array, real: Array, points: Array) -> Array:
    """`(B,N-1)` bool: the token whose cumulated share is nearest to one of the points."""
    significance = _or_uniform(significance, real)
    eligible = significance > 0
    cdf = np.cumsum(safe_divide(significance, significance.sum(axis=1, keepdims=True)), axis=1)
    distance = np.where(eligible[:, None, :], np.abs(cdf[:, None, :] - points[:, :, None]), np.inf)
    return _mark(distance.argmin(axis=2), eligible)  # argmin takes the lowest of several nearest


def _or_uniform(significance: Array, real: Array) -> Array:
    """The scores; where all are zero, ones over the real tokens."""
    total = significance.sum(axis=1, keepdims=True)
    return np.where(total == 0, real, significance)


def _gumbel(significance: Array, real: Array, noise: Array) -> Array:
    work = significance.dtype.type
    probability = significance / (significance.sum(axis=1, keepdims=True) + work(GUMBEL_FLOOR))
    perturbed = np.log(probability + work(GUMBEL_FLOOR))[:, None, :] + noise.astype(work)
    return _mark(np.where(real[:, None, :], perturbed, -np.inf).argmax(axis=2), real)


def _released(significance: Array, real: Array, max_tokens: int) -> Array:
    """`(B,N-1)` bool: as `_inverse_transform`, with shares cumulated in ascending order and points between them."""
    significance = _or_uniform(significance, real)
    share = safe_divide(significance, significance.sum(axis=1, keepdims=True))
    # padding goes in front, where it adds nothing to the sum
    ranking = ascending(np.where(real, share, -1))
    ranked, is_real = np.take_along_axis(share, ranking, axis=1), np.take_along_axis(real, ranking, axis=1)
    lowest = np.where(is_real, ranked, np.inf).min(axis=1, keepdims=True)
    c = np.where(is_real, np.cumsum(ranked, axis=1) - lowest, 0)
    last = c[:, -1:]
    first = np.where(c > 0, c, last).min(axis=1, keepdims=True)
    # both sides times (max c - min c) and (K - 1): where scores are exact, so is this
    steps, whole = (np.arange(max_tokens), max_tokens - 1) if max_tokens > 1 else (np.ones(1, int), 1)
    point = (last - first) * steps.astype(c.dtype)
    distance = np.abs((c - first)[:, None, :] * c.dtype.type(whole) - point[:, :, None])
    nearest = np.where(is_real[:, None, :], distance, np.inf).argmin(axis=2)
    return _mark(np.take_along_axis(ranking, nearest, axis=1), real)


def _mark(chosen: Array, eligible: Array) -> Array:
    marked = np.zeros(eligible.shape, bool)
    np.put_along_axis(marked, chosen, True, axis=1)
    return marked & eligible


class ATS(Merger):
    """Adaptive token sampling as an object; options as in `ats.plan`, checked when it is made.

    >>> attn, value = np.full((1, 2, 9), 1 / 9), np.ones((1, 2, 9, 4))
    >>> ATS(max_tokens=4)(np.ones((1, 9, 8)), attn=attn, value=value).tokens.shape
    (1, 5, 8)
    """

    NAME = "ats"
    FUNCTION = staticmethod(plan)

    def __init__(self, max_tokens: int, score: str = "per_head", sampling: str = "inverse_transform") -> None:
        arguments.check_ats(max_tokens, score, sampling)
        self.max_tokens, self.score, self.sampling = max_tokens, score, sampling

    def plan(
        self,
        attn: Array,
        value: Array,
        *,
        mask: Array | None = None,
        uniforms: Array | None = None,
        noise: Array | None = None,
    ) -> SelectionPlan:
        """The plan of one attention layer, see `plan` of this module."""
        return plan(
            attn,
            value,
            max_tokens=self.max_tokens,
            score=self.score,
            sampling=self.sampling,
            mask=mask,
            uniforms=uniforms,
            noise=noise,
        )

    def __call__(
        self,
        x: Array,
        *,
        attn: Array,
        value: Array,
        size: Array | None = None,
        mask: Array | None = None,
        uniforms: Array | None = None,
        noise: Array | None = None,
    ) -> Merged:
        """Keep the chosen tokens of `x (B,N,C)`."""
        check.tokens("ats", x, size, ("value", value, "H N d"))
        made = self.plan(attn, value, mask=mask, uniforms=uniforms, noise=noise)
        size = np.ones(x.shape[:2], working_dtype(x)) if size is None else size
        return Merged(made.merge(x, size), made.merge_size(size), made.mask, made)
