"""PatchMerger, vectorized over the batch (docs/patch_merger.md)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.backends.numpy.check import check
from tokenmerge.backends.numpy.merger import Merger
from tokenmerge.backends.numpy.plan import DensePlan
from tokenmerge.backends.numpy.precision import softmax, working_dtype
from tokenmerge.spec.shared import arguments
from tokenmerge.spec.shared.initial import initial_queries
from tokenmerge.spec.shared.merged import Merged

Array = np.ndarray[Any, Any]


def layer_norm(x: Array, scale: Array, bias: Array | None = None, *, eps: float = 1e-5) -> Array:
    """`(x - mean) / sqrt(variance + eps) * scale + bias` over the last axis, in the working precision of `x`.

    >>> layer_norm(np.array([[1.0, 3.0]]), np.ones(2), eps=0.0)
    array([[-1.,  1.]])
    """
    check.layer_norm(x, scale, bias, eps)
    x = x.astype(working_dtype(x), copy=False)
    deviation = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(deviation).mean(axis=-1, keepdims=True) + x.dtype.type(eps)
    # without eps a constant token has no variance; it becomes the bias
    deviation /= np.sqrt(np.where(variance == 0, 1, variance))
    deviation *= scale.astype(x.dtype)
    return deviation if bias is None else deviation + bias.astype(x.dtype)


def inputs(x: Array, scale: Array | None, bias: Array | None, normalize: bool, eps: float, mask: Array | None) -> Array:
    """What the plan is made of and applied to: `LayerNorm(x)` or `x`, with masked tokens set to zero."""
    if mask is not None:
        x = np.where(mask[:, :, None], x, np.zeros((), x.dtype))
    if not normalize:
        return x.astype(working_dtype(x), copy=False)
    return layer_norm(x, np.ones(x.shape[-1], x.dtype) if scale is None else scale, bias, eps=eps)


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
    """`W = softmax over tokens (logit_scale * queries x^T)` with `x^ = LayerNorm(x)`.

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

    >>> plan(np.ones((1, 2, 3)), queries=np.ones((1, 3))).weights
    array([[[0.5, 0.5]]])
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
    normalized = inputs(x, scale, bias, normalize, eps, mask)
    work = normalized.dtype.type
    factor = work(c**-0.5 if logit_scale is None else logit_scale)
    logits = factor * (queries.astype(work) @ np.swapaxes(normalized, 1, 2))
    if mask is not None:
        logits = np.where(mask[:, None, :], logits, work(-np.inf))
    return DensePlan(softmax(logits)), normalized


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

    >>> merger = PatchMerger(dim=4, num_tokens_out=2)
    >>> merger(np.ones((1, 9, 4))).tokens.shape, sorted(merger.params())
    ((1, 2, 4), ['bias', 'queries', 'scale'])
    """

    NAME = "patch_merger"
    FUNCTION = staticmethod(plan)
    VALUES = staticmethod(_values)
    PARAMETERS = ("queries", "scale", "bias")

    def __init__(
        self,
        dim: int,
        num_tokens_out: int,
        logit_scale: float | None = None,
        normalize: bool = True,
        use_bias: bool = True,
        eps: float = 1e-5,
        seed: int = 0,
    ) -> None:
        arguments.check_patch_merger(dim, num_tokens_out, logit_scale, eps, seed, normalize, use_bias)
        self.dim, self.num_tokens_out, self.logit_scale = dim, num_tokens_out, logit_scale
        self.normalize, self.use_bias, self.eps = normalize, use_bias, eps
        self.queries = initial_queries(num_tokens_out, dim, seed)
        self.scale = np.ones(dim, np.float32)
        self.bias = np.zeros(dim, np.float32) if use_bias else None

    def _run(self, x: Array, mask: Array | None) -> tuple[DensePlan, Array]:
        options = (self.logit_scale, self.normalize, self.eps)
        return _plan_and_inputs(x, self.queries, self.scale, self.bias, *options, mask)

    def plan(self, x: Array, *, mask: Array | None = None) -> DensePlan:
        """The plan of `x (B,N,C)`, see `plan` of this module. The merged tokens are `plan.merge(LayerNorm(x))`."""
        check.tokens("patch_merger", x, None, C=self.dim)
        return self._run(x, mask)[0]

    def __call__(self, x: Array, *, size: Array | None = None, mask: Array | None = None) -> Merged:
        """Merge `x (B,N,C)` to `(B,M,C)`."""
        check.tokens("patch_merger", x, size, C=self.dim)
        made, normalized = self._run(x, mask)
        size = np.ones(x.shape[:2], normalized.dtype) if size is None else size
        return Merged(made.merge(normalized).astype(x.dtype), made.merge_size(size), None, made)
