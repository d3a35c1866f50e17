"""PatchMerger, vectorized over the batch (docs/patch_merger.md)."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tokenmerge.backends.jax.batches import ones
from tokenmerge.backends.jax.check import check
from tokenmerge.backends.jax.merger import Merger
from tokenmerge.backends.jax.numerics import draws_parameters, told
from tokenmerge.backends.jax.plan import DensePlan
from tokenmerge.backends.jax.precision import matmul, softmax, working_dtype
from tokenmerge.spec.shared import arguments
from tokenmerge.spec.shared.initial import initial_queries
from tokenmerge.spec.shared.merged import Merged

Array = jax.Array


def layer_norm(x: Array, scale: Array, bias: Array | None = None, *, eps: float = 1e-5) -> Array:
    """`(x - mean) / sqrt(variance + eps) * scale + bias` over the last axis, in the working precision of `x`.

    >>> layer_norm(jnp.array([[1.0, 3.0]]), jnp.ones(2), eps=0.0).tolist()
    [[-1.0, 1.0]]
    """
    check.layer_norm(x, scale, bias, eps)
    x = jnp.asarray(x)
    x = x.astype(working_dtype(x))
    deviation = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(deviation), axis=-1, keepdims=True) + eps
    # without eps a constant token has no variance; it becomes the bias, and no gradient is NaN
    normalized = deviation / jnp.sqrt(jnp.where(variance == 0, 1, variance)) * _row(scale, x)
    return normalized if bias is None else normalized + _row(bias, x)


def inputs(x: Array, scale: Array | None, bias: Array | None, normalize: bool, eps: float, mask: Array | None) -> Array:
    """What the plan is made of and applied to: `LayerNorm(x)` or `x`, with masked tokens set to zero."""
    x = jnp.asarray(x)
    if mask is not None:
        x = jnp.where(mask[:, :, None], x, 0)
    if not normalize:
        return x.astype(working_dtype(x))
    return layer_norm(x, jnp.ones(x.shape[-1], x.dtype) if scale is None else scale, bias, eps=eps)


def plan(
    x: Array,
    *,
    queries: Array,
    scale: Array | None = None,
    bias: Array | None = None,
    logit_scale: float | None = None,
    normalize: bool = True,
    eps: float = 1e-5,
    mask: Array | None = None,
) -> DensePlan:
    """`W = softmax over tokens (logit_scale * queries x^T)` with `x^ = LayerNorm(x)`; the merged tokens are `W x^`.

    The semantics are those of `tokenmerge.spec.patch_merger.plan`, for every sample.

    Args:
        x: `(B,N,C)` floating point.
        queries: `(M,C)`; scale, bias: `(C,)` or None.
        logit_scale: None for `C**-0.5`.
        normalize: False leaves the LayerNorm out.
        eps: of the LayerNorm.
        mask: `(B,N)` bool, True where a token is real.

    Returns:
        DensePlan `(B,M,N)`.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or range.

    >>> plan(jnp.ones((1, 2, 3)), queries=jnp.ones((1, 3))).weights.tolist()
    [[[0.5, 0.5]]]
    """
    return _plan_and_inputs(x, queries, scale, bias, logit_scale, normalize, eps, mask)[0]


def _plan_and_inputs(
    x: Array,
    queries: Array,
    scale: Array | None,
    bias: Array | None,
    logit_scale: float | None,
    normalize: bool,
    eps: float,
    mask: Array | None,
) -> tuple[DensePlan, Array]:
    _, c = check.patch_merger(x, queries, scale, bias, mask)
    arguments.check_patch_merger(c, 1, logit_scale, eps, normalize=normalize)
    factor = c**-0.5 if logit_scale is None else float(logit_scale)
    options = {"normalize": normalize, "eps": float(eps)}
    weights, normalized = _weights_and_inputs(x, queries, scale, bias, factor, mask, **options)
    return DensePlan(weights), normalized


@partial(jax.jit, static_argnames=("normalize", "eps"))
def _weights_and_inputs(
    x: Array,
    queries: Array,
    scale: Array | None,
    bias: Array | None,
    factor: float,
    mask: Array | None,
    normalize: bool,
    eps: float,
) -> tuple[Array, Array]:
    normalized = inputs(x, scale, bias, normalize, eps, mask)
    work = normalized.dtype
    # all tokens of the batch are rows of one matrix: in half the time of a product for every sample
    logits = factor * jnp.swapaxes(matmul(normalized, queries.astype(work).T), 1, 2)
    if mask is not None:
        logits = jnp.where(mask[:, None, :], logits, -jnp.inf)
    return softmax(logits), normalized


def _row(vector: Array, x: Array) -> Array:
    """A vector over the last axis of `x`, in its dtype and with as many axes."""
    return jnp.asarray(vector).astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def _values(x: Array, mask: Array | None, *, scale: Array, bias: Array, **_: Array) -> Array:
    """What is mixed in a network: its own LayerNorm of the tokens."""
    return inputs(x, scale, bias, True, 1e-5, mask)


class PatchMerger(Merger):
    """`num_tokens_out` learned queries, each a mixture of all tokens.

    Args:
        dim: C; num_tokens_out: M.
        logit_scale, normalize, eps: as in `patch_merger.plan`.
        use_bias: whether the LayerNorm has a bias.
        seed: of the standard normal queries, the same in every backend.
        rngs: where the queries come from in place of `seed` (the stream "params"), if it has one.
        dtype: of the tokens, None for their own; param_dtype: of the parameters, None for float32. The norm and the
            weights of the mixture are float32 at least.
        precision: of the product that mixes the tokens; None for `Precision.HIGHEST`, unless
            `jax.default_matmul_precision` is set.

    >>> merger = PatchMerger(dim=4, num_tokens_out=2)
    >>> merger(jnp.ones((1, 9, 4))).tokens.shape, sorted(merger.params())
    ((1, 2, 4), ['bias', 'queries', 'scale'])
    """

    NAME = "patch_merger"
    FUNCTION = staticmethod(plan)
    VALUES = staticmethod(_values)
    PARAMETERS = ("queries", "scale", "bias")
    OPTIONS = ("dtype", "param_dtype", "precision", "rngs")

    def __init__(
        self,
        dim: int,
        num_tokens_out: int,
        logit_scale: float | None = None,
        normalize: bool = True,
        use_bias: bool = True,
        eps: float = 1e-5,
        seed: int = 0,
        *,
        dtype: Any = None,
        param_dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        arguments.check_patch_merger(dim, num_tokens_out, logit_scale, eps, seed, normalize, use_bias)
        self.dim, self.num_tokens_out, self.logit_scale = dim, num_tokens_out, logit_scale
        self.normalize, self.use_bias, self.eps = normalize, use_bias, eps
        kind, shape = self._numerics(dtype, param_dtype, precision), (num_tokens_out, dim)
        drawn = draws_parameters(self.NAME, rngs)
        first = jax.random.normal(rngs.params(), shape) if rngs and drawn else initial_queries(*shape, seed)
        self.queries = nnx.Param(jnp.asarray(first, kind))
        self.scale = nnx.Param(jnp.ones(dim, kind))
        self.bias = nnx.Param(jnp.zeros(dim, kind)) if use_bias else None

    def _run(self, x: Array, mask: Array | None) -> tuple[DensePlan, Array]:
        bias = None if self.bias is None else self.bias[...]
        options = (self.logit_scale, self.normalize, self.eps)
        return _plan_and_inputs(x, self.queries[...], self.scale[...], bias, *options, mask)

    def plan(self, x: Array, *, mask: Array | None = None) -> DensePlan:
        """The plan of `x (B,N,C)`, see `plan` of this module. The merged tokens are `plan.merge(LayerNorm(x))`."""
        check.tokens("patch_merger", x, None, C=self.dim)
        return self._run(x, mask)[0]

    def __call__(self, x: Array, *, size: Array | None = None, mask: Array | None = None) -> Merged:
        """Merge `x (B,N,C)` to `(B,M,C)`."""
        check.tokens("patch_merger", x, size, C=self.dim)
        x = jnp.asarray(x, self.dtype)
        made, normalized = self._run(x, mask)
        size = ones(x, normalized.dtype) if size is None else size
        with told(self.precision):
            tokens = made.merge(normalized).astype(x.dtype)
        return Merged(tokens, made.merge_size(size), None, made)
