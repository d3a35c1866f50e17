"""LTM, vectorized over the batch (docs/ltm.md)."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tokenmerge.backends.jax.batches import ones, repeat
from tokenmerge.backends.jax.check import check
from tokenmerge.backends.jax.merger import Merger
from tokenmerge.backends.jax.numerics import draws_parameters, told
from tokenmerge.backends.jax.plan import DensePlan
from tokenmerge.backends.jax.precision import matmul, safe_divide, safe_log, softmax, working_dtype
from tokenmerge.spec.shared import arguments
from tokenmerge.spec.shared.grid import Grid, check_grid_prior, grid_tokens_out
from tokenmerge.spec.shared.merged import Merged
from tokenmerge.spec.shared.schedule import ltm_tokens_out, ltm_tokens_out_upto

__all__ = ["LTM", "chain", "grid_prior", "grid_tokens_out", "plan"]

Array = jax.Array


def pooling_prior(place: Array, count: Array, columns: Array, width: int, smoothing: float) -> Array:
    """The transposed first mask `G0^T (B,P',N)`: smoothed adaptive average pooling of `count` tokens to `columns`.

    Args:
        place: `(B,N)`, each token's place among those that are pooled; outside `0..count-1` for the others.
        count, columns: `(B,1)`, tokens and pooled tokens of each sample.
        width: P', the rows of the result; rows from `columns` on are zero.
        smoothing: share of the uniform distribution that is mixed in.
    """
    row = jnp.arange(width)[None]
    start = row * count // jnp.maximum(columns, 1)
    stop = -(-(row + 1) * count // jnp.maximum(columns, 1))
    pooled = (place[:, None, :] >= start[:, :, None]) & (place[:, None, :] < stop[:, :, None])
    length, tokens = (stop - start)[:, :, None].astype(float), jnp.maximum(count, 1)[:, :, None].astype(float)
    prior = (1 - smoothing) * safe_divide(pooled.astype(float), length) + smoothing / tokens
    return jnp.where(_in_use(place, count, columns, width), prior, 0)


def grid_prior(grid: Grid, merged: Grid, smoothing: float = 0.1) -> Array:
    """A mask of tokens that lie on a grid: `(h w, h' w')`, average pooling over rows and over columns, smoothed.

    `(1 - smoothing) pool_h (x) pool_w + smoothing / (h w)`, with the Kronecker product row by row: slot `p` of the
    merged tokens lies at row `p // w'` and column `p % w'`, so that the branch which runs on them finds a map.

    Args:
        grid: `(h, w)`, rows and columns of the tokens; merged: `(h', w')`, at most as many, see `grid_tokens_out`.
        smoothing: share of the uniform distribution that is mixed in, in [0, 1].

    Returns:
        JAX's default precision; columns sum to 1. A `prior` of `plan` where `h' w'` tokens are what the ratio leaves.

    Raises:
        TypeError, ValueError: an argument of the wrong type or range.

    >>> grid_prior((2, 2), (1, 2), smoothing=0.0).tolist()
    [[0.5, 0.0], [0.0, 0.5], [0.5, 0.0], [0.0, 0.5]]
    """
    (rows, columns), (fewer_rows, fewer_columns) = check_grid_prior(grid, merged, smoothing)
    pool = np.kron(_windows(rows, fewer_rows), _windows(columns, fewer_columns))
    return jnp.asarray((1 - smoothing) * pool + smoothing / len(pool), float)


def _windows(n: int, p: int) -> np.ndarray[Any, Any]:
    """Average pooling of `n` rows to `p`: `(n,p)` float64."""
    place, slot = np.arange(n)[:, None], np.arange(p)
    start, stop = slot * n // p, -(-(slot + 1) * n // p)
    return ((place >= start) & (place < stop)) / (stop - start)


def plan(
    z: Array,
    *,
    weight: Array,
    compression_ratio: float,
    protected: int = 0,
    prior_smoothing: float = 0.1,
    prior: Array | None = None,
    mask: Array | None = None,
) -> DensePlan:
    """`G = softmax over tokens (log G0 + (z * weight) T^T / sqrt(C))`, `T = G0^T z`, `W = G^T`.

    The semantics are those of `tokenmerge.spec.ltm.plan`, for every sample.

    Args:
        z: `(B,N,C)` floating point.
        weight: `(C,)`.
        compression_ratio: rho in (0, 1]; `n = N - protected` tokens become `P' = ceil(rho n)`.
        protected: leading tokens, copied through in front; at most N.
        prior_smoothing: epsilon in [0, 1].
        prior: `(n,P')` or `(B,n,P')` floating point, in place of the pooling prior (`chain`).
        mask: `(B,N)` bool, True where a token is real.

    Returns:
        DensePlan `(B, protected + P', N)`.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or range.

    >>> z = jnp.array([[[1.0], [3.0], [5.0], [7.0]]])
    >>> plan(z, weight=jnp.zeros(1), compression_ratio=0.5, prior_smoothing=0.0).merge(z).tolist()
    [[[2.0], [6.0]]]
    """
    protected = arguments.check_ltm(1, compression_ratio, protected, prior_smoothing)
    check.ltm(z, weight, prior, mask, compression_ratio, protected)
    options = {"compression_ratio": compression_ratio, "protected": protected, "prior_smoothing": prior_smoothing}
    return _plan(z, weight, prior, mask, **options)


@partial(jax.jit, static_argnames=("compression_ratio", "protected", "prior_smoothing"))
def _plan(
    z: Array,
    weight: Array,
    prior: Array | None,
    mask: Array | None,
    compression_ratio: float,
    protected: int,
    prior_smoothing: float,
) -> DensePlan:
    _, n, c = z.shape
    width = ltm_tokens_out(n - protected, compression_ratio)
    if mask is not None:
        z = jnp.where(mask[:, :, None], z, 0)

    real = ones(z, np.dtype(bool)) if mask is None else mask
    rank = jnp.where(real, jnp.cumsum(real, axis=1, dtype=int) - 1, -1)
    place = jnp.where(rank >= protected, rank - protected, -1)
    count = jnp.maximum(jnp.sum(real, axis=1, keepdims=True, dtype=int) - protected, 0)
    tokens_out = jnp.asarray(ltm_tokens_out_upto(n - protected, compression_ratio))
    columns = jnp.take_along_axis(repeat(tokens_out, z), count, axis=1)
    if prior is None:
        g0 = pooling_prior(place, count, columns, width, prior_smoothing)
    else:
        given = jnp.swapaxes(prior if prior.ndim == 3 else prior[None], 1, 2)
        g0 = jnp.pad(given, ((0, 0), (0, 0), (protected, 0)))
        g0 = jnp.where(_in_use(place, count, columns, width), g0, 0)

    work = working_dtype(z)
    tokens, g0 = z.astype(work), g0.astype(work)
    targets = matmul(g0, tokens)
    step = matmul(targets, jnp.swapaxes(tokens * weight.astype(work)[None, None], 1, 2)) / c**0.5
    copied = (rank[:, None, :] == jnp.arange(protected)[None, :, None]).astype(work)
    weights = jnp.concatenate([copied, softmax(safe_log(g0) + step)], axis=1)
    if mask is None:
        return DensePlan(weights)
    slot = jnp.arange(protected + width)[None]
    first = jnp.minimum(jnp.sum(real, axis=1, keepdims=True, dtype=int), protected)
    return DensePlan(weights, (slot < first) | ((slot >= protected) & (slot < protected + columns)))


def chain(plan: DensePlan, protected: int = 0) -> Array:
    """The mask `G (B,n,P')` inside a plan, to give to the next layer as its `prior` where the shapes repeat.

    >>> chain(plan(jnp.ones((2, 4, 1)), weight=jnp.zeros(1), compression_ratio=0.5)).shape
    (2, 4, 2)
    """
    protected = check.chain(plan, protected, DensePlan)
    return jnp.swapaxes(plan.weights[:, protected:, protected:], 1, 2)


def _in_use(place: Array, count: Array, columns: Array, width: int) -> Array:
    """`(B,P',N)` bool: a column that exists in this sample, and a token that it may draw from."""
    token = (place >= 0) & (place < count)
    return (jnp.arange(width)[None] < columns)[:, :, None] & token[:, None, :]


class LTM(Merger):
    """Learnable token merging as an object; options as in `ltm.plan`, checked when it is made.

    Args:
        dim: C.
        compression_ratio, protected, prior_smoothing: as in `ltm.plan`.
        dtype: of the tokens, None for their own; param_dtype: of the weight, None for float32. Which tokens mix is
            decided in float32 at least.
        precision: of the product that mixes the tokens; None for `Precision.HIGHEST`, unless
            `jax.default_matmul_precision` is set.
        rngs: taken as by other modules of Flax; the weight starts at zero.

    >>> LTM(dim=4, compression_ratio=0.5, protected=1)(jnp.ones((1, 9, 4))).tokens.shape
    (1, 5, 4)
    """

    NAME = "ltm"
    FUNCTION = staticmethod(plan)
    HAND_ON = staticmethod(chain)
    PARAMETERS = ("weight",)
    OPTIONS = ("dtype", "param_dtype", "precision", "rngs")

    def __init__(
        self,
        dim: int,
        compression_ratio: float,
        protected: int = 0,
        prior_smoothing: float = 0.1,
        *,
        dtype: Any = None,
        param_dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        arguments.check_ltm(dim, compression_ratio, protected, prior_smoothing)
        draws_parameters(self.NAME, rngs)
        self.dim, self.compression_ratio = dim, compression_ratio
        self.protected, self.prior_smoothing = protected, prior_smoothing
        self.weight = nnx.Param(jnp.zeros(dim, self._numerics(dtype, param_dtype, precision)))

    def plan(self, x: Array, *, prior: Array | None = None, mask: Array | None = None) -> DensePlan:
        """The plan of `x (B,N,C)`, see `plan` of this module."""
        check.tokens("ltm", x, None, C=self.dim)
        return plan(
            x,
            weight=self.weight[...],
            compression_ratio=self.compression_ratio,
            protected=self.protected,
            prior_smoothing=self.prior_smoothing,
            prior=prior,
            mask=mask,
        )

    def __call__(
        self, x: Array, *, size: Array | None = None, prior: Array | None = None, mask: Array | None = None
    ) -> Merged:
        """Merge `x (B,N,C)` to `(B, protected + ceil(rho n), C)`."""
        check.tokens("ltm", x, size, C=self.dim)
        x = jnp.asarray(x, self.dtype)
        made = self.plan(x, prior=prior, mask=mask)
        size = ones(x, working_dtype(x)) if size is None else size
        x = x if mask is None else jnp.where(mask[:, :, None], x, 0)
        with told(self.precision):
            tokens = made.merge(x, size)
        return Merged(tokens, made.merge_size(size), made.mask, made)
