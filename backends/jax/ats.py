"""ATS, vectorized over the batch (docs/ats.md).

Nothing here has a gradient: which tokens stay is a decision; what they hold comes through differentiably.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from tokenmerge.backends.jax.batches import ones, repeat
from tokenmerge.backends.jax.check import check
from tokenmerge.backends.jax.merger import Merger
from tokenmerge.backends.jax.plan import SelectionPlan
from tokenmerge.backends.jax.precision import safe_divide, safe_norm, working_dtype
from tokenmerge.backends.jax.ties import ascending, true_first
from tokenmerge.spec.shared import arguments
from tokenmerge.spec.shared.constants import GUMBEL_FLOOR
from tokenmerge.spec.shared.merged import Merged

Array = jax.Array


def draw_uniforms(key: Array, batch: int, max_tokens: int) -> Array:
    """Random sample points `(B,K)` in [0, 1) for inverse transform sampling.

    >>> draw_uniforms(jax.random.key(0), 2, 3).shape
    (2, 3)
    """
    batch, max_tokens = check.draw("draw_uniforms", key, batch=batch, max_tokens=max_tokens)
    return jax.random.uniform(key, (batch, max_tokens), jnp.float32)


def draw_noise(key: Array, batch: int, max_tokens: int, num_tokens: int) -> Array:
    """Standard Gumbel noise `(B,K,N-1)` for `sampling="gumbel"`.

    >>> draw_noise(jax.random.key(0), 2, 3, 5).shape
    (2, 3, 4)
    """
    batch, max_tokens, num_tokens = check.draw(
        "draw_noise", key, batch=batch, max_tokens=max_tokens, num_tokens=num_tokens
    )
    return jax.random.gumbel(key, (batch, max_tokens, max(num_tokens - 1, 0)), jnp.float32)


def scores(attn: Array, value: Array, *, score: str = "per_head", mask: Array | None = None) -> Array:
    """Significance `(B,N-1)` of the tokens after the class token, see `tokenmerge.spec.ats.scores`.

    Args:
        attn: `(B,H,N,N)` after softmax, or the class row alone `(B,H,N)`; value: `(B,H,N,d)`.
        score: "per_head" or "concat"; mask: `(B,N)` bool, masked tokens score 0.
    """
    check.ats_scores(attn, value, score, mask)
    return _scores(_class_row(attn), value, mask, score=score)


@partial(jax.jit, static_argnames="score")
def _scores(row: Array, value: Array, mask: Array | None, score: str) -> Array:
    work = working_dtype(row, value)
    row, others = row[:, :, 1:].astype(work), value[:, :, 1:].astype(work)
    if score == "per_head":
        significance = jnp.sum(row * safe_norm(others, axis=3), axis=1)
    else:
        significance = jnp.sum(row, axis=1) * safe_norm(others, axis=(1, 3))
    return significance if mask is None else jnp.where(mask[:, 1:], significance, 0)


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

    >>> attn, value = jnp.array([[[0.2, 0.5, 0.0, 0.3]]]), jnp.ones((1, 1, 4, 1))
    >>> plan(attn, value, max_tokens=3).indices.tolist()
    [[0, 1, 3, 0]]
    """
    max_tokens = arguments.check_ats(max_tokens, score, sampling)
    _, n, _ = check.ats(attn, value, mask, uniforms, noise, max_tokens, sampling)
    row = _class_row(attn) if n else attn
    arrays = jax.lax.stop_gradient((row, value, mask, uniforms, noise))
    return _plan(*arrays, max_tokens=max_tokens, score=score, sampling=sampling)


@partial(jax.jit, static_argnames=("max_tokens", "score", "sampling"))
def _plan(
    row: Array,
    value: Array,
    mask: Array | None,
    uniforms: Array | None,
    noise: Array | None,
    max_tokens: int,
    score: str,
    sampling: str,
) -> SelectionPlan:
    n = value.shape[2]
    others = max(n - 1, 0)
    slots = min(1, n) + min(max_tokens, others)
    chosen = repeat(jnp.ones(min(1, n), bool), value)
    if others:
        significance = _scores(row, value, mask, score=score)
        real = repeat(jnp.ones(others, bool), value) if mask is None else mask[:, 1:]
        if noise is not None:
            sampled = _gumbel(significance, real, noise)
        elif sampling == "released":
            sampled = _released(significance, real, max_tokens)
        else:
            points = np.arange(1, 2 * max_tokens, 2)[None] / (2 * max_tokens) if uniforms is None else uniforms
            sampled = _inverse_transform(significance, real, jnp.asarray(points, significance.dtype))
        chosen = jnp.concatenate([chosen, sampled], axis=1)
    filled = jnp.arange(slots)[None] < jnp.sum(chosen, axis=1, keepdims=True, dtype=int)
    indices = jnp.where(filled, true_first(chosen)[:, :slots], 0)
    if mask is not None:
        filled &= mask[:, :1] | (jnp.arange(slots)[None] > 0)
    return SelectionPlan(indices, filled, n)


def _class_row(attn: Array) -> Array:
    """`(B,H,N)`: all that is read of the attention, cut out first."""
    return attn[:, :, 0] if attn.ndim == 4 else attn


def _inverse_transform(significance: Array, real: Array, points: Array) -> Array:
    """`(B,N-1)` bool: the token whose cumulated share is nearest to one of the points."""
    significance = _or_uniform(significance, real)
    eligible = significance > 0
    cdf = jnp.cumsum(safe_divide(significance, jnp.sum(significance, axis=1, keepdims=True)), axis=1)
    distance = jnp.where(eligible[:, None, :], jnp.abs(cdf[:, None, :] - points[:, :, None]), jnp.inf)
    return _mark(jnp.argmin(distance, axis=2), eligible)  # argmin takes the lowest of several nearest


def _or_uniform(significance: Array, real: Array) -> Array:
    """The scores; where all are zero, ones over the real tokens."""
    total = jnp.sum(significance, axis=1, keepdims=True)
    return jnp.where(total == 0, real.astype(significance.dtype), significance)


def _gumbel(significance: Array, real: Array, noise: Array) -> Array:
    probability = significance / (jnp.sum(significance, axis=1, keepdims=True) + GUMBEL_FLOOR)
    perturbed = jnp.log(probability + GUMBEL_FLOOR)[:, None, :] + noise.astype(significance.dtype)
    return _mark(jnp.argmax(jnp.where(real[:, None, :], perturbed, -jnp.inf), axis=2), real)


def _released(significance: Array, real: Array, max_tokens: int) -> Array:
    """`(B,N-1)` bool: as `_inverse_transform`, with shares cumulated in ascending order and points between them."""
    significance = _or_uniform(significance, real)
    share = safe_divide(significance, jnp.sum(significance, axis=1, keepdims=True))
    # padding goes in front, where it adds nothing to the sum
    ranking = ascending(jnp.where(real, share, -1))
    ranked, is_real = jnp.take_along_axis(share, ranking, axis=1), jnp.take_along_axis(real, ranking, axis=1)
    lowest = jnp.min(jnp.where(is_real, ranked, jnp.inf), axis=1, keepdims=True)
    c = jnp.where(is_real, jnp.cumsum(ranked, axis=1) - lowest, 0)
    last = c[:, -1:]
    first = jnp.min(jnp.where(c > 0, c, last), axis=1, keepdims=True)
    # both sides times (max c - min c) and (K - 1): where scores are exact, so is this
    step = jnp.arange(max_tokens, dtype=c.dtype) if max_tokens > 1 else jnp.ones(1, c.dtype)
    point = (last - first) * step[None]
    distance = jnp.abs((c - first)[:, None, :] * max(max_tokens - 1, 1) - point[:, :, None])
    nearest = jnp.argmin(jnp.where(is_real[:, None, :], distance, jnp.inf), axis=2)
    return _mark(jnp.take_along_axis(ranking, nearest, axis=1), real)


def _mark(chosen: Array, eligible: Array) -> Array:
    token = jnp.arange(eligible.shape[1])[None, None, :]
    return jnp.any(chosen[:, :, None] == token, axis=1) & eligible


class ATS(Merger):
    """Adaptive token sampling as an object; options as in `ats.plan`, checked when it is made.

    >>> attn, value = jnp.full((1, 2, 9), 1 / 9), jnp.ones((1, 2, 9, 4))
    >>> ATS(max_tokens=4)(jnp.ones((1, 9, 8)), attn=attn, value=value).tokens.shape
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
        size = ones(x, working_dtype(x)) if size is None else size
        return Merged(made.merge(x, size), made.merge_size(size), made.mask, made)
