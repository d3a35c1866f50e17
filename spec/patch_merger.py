"""PatchMerger: M learned queries, each a mixture of all tokens (arXiv 2202.12015; docs/patch_merger.md).

No code of the authors was released; re-implementation: lucidrains/vit-pytorch at 69d24fe (1.26).

Rules:
    PM-1: The input is LayerNorm(x) = (x - mean) / sqrt(variance + eps) * scale + bias, with the variance as the
        mean of squared deviations; or x itself without `normalize`. A constant token with eps = 0
        becomes the bias.
    PM-2: The weights are the softmax over the tokens of logit_scale * queries x^T; logit_scale is C**-0.5 unless
        given.
    PM-3: The merged tokens are the weights times the normalized tokens.
    PM-4: A masked token has weight 0; where no token is real, all weights are 0.
    PM-5: The queries start standard normal, drawn from `seed`, the same in every backend; scale starts at 1 and
        bias at 0. All are learned.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tokenmerge.spec.plan import DensePlan
from tokenmerge.spec.precision import working_dtype
from tokenmerge.spec.shared.arguments import check_integer, check_patch_merger, check_real
from tokenmerge.spec.shared.calls import Calls
from tokenmerge.spec.shared.description import REQUIRED, Description, Merging, Move, check_around_option
from tokenmerge.spec.softmax import softmax

if TYPE_CHECKING:
    from tokenmerge.spec.shared.vit_config import ViTConfig
    from tokenmerge.spec.shared.vit_steps import Step

Array = np.ndarray[Any, Any]
check = Calls(np.ndarray, batched=False)


def layer_norm(x: Array, scale: Array, bias: Array | None = None, *, eps: float = 1e-5) -> Array:
    """`(x - mean) / sqrt(variance + eps) * scale + bias` over the channels, in the working precision of `x`.

    The variance is the mean of the squared deviations: the shortcut `mean(x^2) - mean(x)^2` cancels.

    Args:
        x: `(N,C)`; scale, bias: `(C,)`; eps: >= 0.

    >>> layer_norm(np.array([[1.0, 3.0]]), np.ones(2), eps=0.0)
    array([[-1.,  1.]])
    """
    check.layer_norm(x, scale, bias, eps)
    x = x.astype(working_dtype(x.dtype))
    deviation = x - x.mean(axis=1, keepdims=True)
    variance = (deviation**2).mean(axis=1, keepdims=True) + x.dtype.type(eps)
    variance[variance == 0] = 1  # a constant token without eps: 0 / 0 is 0, and the token becomes the bias
    normalized = deviation / np.sqrt(variance) * scale.astype(x.dtype)
    return normalized if bias is None else normalized + bias.astype(x.dtype)


def inputs(x: Array, scale: Array, bias: Array | None, normalize: bool, eps: float, mask: Array | None) -> Array:
    """What the plan is made of and applied to: `LayerNorm(x)` or `x`, with masked tokens set to zero."""
    x = x if mask is None else np.where(mask[:, None], x, 0).astype(x.dtype)
    return layer_norm(x, scale, bias, eps=eps) if normalize else x.astype(working_dtype(x.dtype))


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

    Args:
        x: `(N,C)` floating point.
        queries: `(M,C)`, learned.
        scale, bias: `(C,)`, of the LayerNorm; None for ones and for no bias.
        logit_scale: None for `C**-0.5` (the re-implementations); 1.0 gives the paper's formula.
        normalize: False leaves the LayerNorm out (the paper's bare formula).
        eps: of the LayerNorm, inside the root.
        mask: `(N,)` bool, True where a token is real; masked tokens get weight 0.

    Returns:
        DensePlan `(M,N)`, rows sum to 1; all zero when no token is real.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or range.

    >>> x, queries = np.array([[0.0], [0.0], [9.0]]), np.array([[0.0]])
    >>> plan(x, queries=queries, normalize=False, mask=np.array([True, True, False])).weights
    array([[0.5, 0.5, 0. ]])
    """
    _, c = check.patch_merger(x, queries, scale, bias, mask)
    check_patch_merger(c, 1, logit_scale, eps, normalize=normalize)
    scale = np.ones(c, x.dtype) if scale is None else scale
    normalized = inputs(x, scale, bias, normalize, eps, mask)
    factor = normalized.dtype.type(c**-0.5 if logit_scale is None else logit_scale)
    logits = factor * (queries.astype(normalized.dtype) @ normalized.T)
    return DensePlan(softmax(logits if mask is None else np.where(mask, logits, -np.inf)))


# In a network


@dataclass(frozen=True)
class PatchMergerMerging(Merging):
    """PatchMerger between two blocks; its tokens are the pooled ones (arXiv 2202.12015).

    Attributes:
        layer: number of blocks before it; None for `depth // 2`, and for the block it is given to in a
            per-block mapping.
        num_tokens_out: M.
        logit_scale: None for `C**-0.5`.
        around: None: its tokens take the place of all others.
    """

    layer: int | None = None
    num_tokens_out: int = 8
    logit_scale: float | None = None
    around: None = field(default=None, repr=False)

    # it leaves no class token; the last norm stays where a checkpoint of a class-token network has it
    NETWORK: ClassVar[Mapping[str, Any]] = MappingProxyType({"pool": "mean", "fc_norm": False})

    def __post_init__(self) -> None:
        if self.layer is not None:
            check_integer("PatchMergerMerging", "layer", self.layer, minimum=1)
        check_integer("PatchMergerMerging", "num_tokens_out", self.num_tokens_out, minimum=1)
        if self.logit_scale is not None:
            check_real("PatchMergerMerging", "logit_scale", self.logit_scale, -math.inf, math.inf, "(-inf, inf)")
        check_around_option("PatchMergerMerging", self.around)
        self._plain()

    def spread(self, config: ViTConfig, blocks: list[int], whole: bool) -> Iterator[tuple[int, int]]:
        if config.pool != "mean":
            raise ValueError(
                "ViTConfig: `pool` must be 'mean' with PatchMergerMerging, which leaves no class token, "
                f"got {config.pool!r}"
            )
        if not whole and len(blocks) != 1:
            raise ValueError(f"ViTConfig: `merging` must give PatchMergerMerging one block, got {len(blocks)}")
        layer = self.layer
        if layer is None:
            layer = max(config.depth // 2, 1) if whole else blocks[0] + 1
        if not whole and layer != blocks[0] + 1:
            raise ValueError(f"PatchMergerMerging: `layer` must be None or {blocks[0] + 1} here, got {layer}")
        if layer > config.depth:
            raise ValueError(f"PatchMergerMerging: `layer` must be at most depth = {config.depth}, got {layer}")
        yield layer - 1, 0

    def move(self, amount: int, tokens: int, prefix: int) -> Move:
        return Move(self.num_tokens_out, (("logit_scale", self.logit_scale),))


def _multiply_adds(step: Step, config: ViTConfig) -> int:
    """Logits, and the merge."""
    return 2 * step.tokens_out * step.tokens_in * config.dim


def _values(x: Array, mask: Array | None, *, scale: Array, bias: Array, **_: Array) -> Array:
    """Its own LayerNorm of the tokens."""
    return inputs(x, scale, bias, True, 1e-5, mask)


DESCRIPTION = Description(
    name="patch_merger",
    title="PatchMerger",
    rules="PM",
    options={
        "dim": REQUIRED,
        "num_tokens_out": REQUIRED,
        "logit_scale": None,
        "normalize": True,
        "use_bias": True,
        "eps": 1e-5,
        "seed": 0,
    },
    check=check_patch_merger,
    inputs={"x": "N C"},
    decides=False,
    place="block",
    merging=PatchMergerMerging,
    knob="num_tokens_out",
    read=int,
    symbol="M",
    hint="tokens it makes, after half of the blocks",
    multiply_adds=_multiply_adds,
    plan=plan,
    values=_values,
    parameters={"queries": "M C", "scale": "C", "bias": "C"},
    sizes="fresh",
    ends_prefix=True,
)
PatchMergerMerging.DESCRIPTION = DESCRIPTION
