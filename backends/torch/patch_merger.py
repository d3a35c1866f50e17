"""PatchMerger, vectorized over the batch (docs/patch_merger.md)."""

from __future__ import annotations

from typing import Any

import torch

from tokenmerge.backends.torch.check import check
from tokenmerge.backends.torch.few import MOST, few_at_a_time
from tokenmerge.backends.torch.kernels.attention import transformed
from tokenmerge.backends.torch.kernels.support import exporting
from tokenmerge.backends.torch.merger import Merger
from tokenmerge.backends.torch.plan import DensePlan
from tokenmerge.backends.torch.precision import is_recorded, looks, matmul, softmax, without_autocast, working_dtype
from tokenmerge.backends.torch.products import all_finite, product
from tokenmerge.backends.torch.sizes import dense_sizes
from tokenmerge.spec.shared import arguments
from tokenmerge.spec.shared.initial import initial_queries
from tokenmerge.spec.shared.merged import Merged

Tensor = torch.Tensor


def layer_norm(x: Tensor, scale: Tensor, bias: Tensor | None = None, *, eps: float = 1e-5) -> Tensor:
    """`(x - mean) / sqrt(variance + eps) * scale + bias` over the last axis, in the working precision of `x`.

    >>> layer_norm(torch.tensor([[1.0, 3.0]]), torch.ones(2), eps=0.0)
    tensor([[-1.,  1.]])
    """
    check.layer_norm(x, scale, bias, eps)
    return _layer_norm(x, scale, bias, eps)


def _layer_norm(x: Tensor, scale: Tensor, bias: Tensor | None, eps: float, careful: bool = True) -> Tensor:
    """`layer_norm` of arguments that are looked at already; without care a token may become NaN that need not."""
    x = x.to(working_dtype(x))
    if eps == 0 or not x.shape[-1]:
        return _by_formula(x, scale, bias, eps)
    normalized = _by_kernel(x, scale, bias, eps)
    if not careful or not looks(x) or all_finite(normalized[..., 0]):
        return normalized
    # the kernel of the CPU makes NaN of a whole token whose squares leave the range, where the formula makes zeros
    odd = ~normalized[..., :1].isfinite()
    return torch.where(odd, _by_formula(x, scale, bias, eps), _by_kernel(x.masked_fill(odd, 0), scale, bias, eps))


def _by_kernel(x: Tensor, scale: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    with without_autocast(x):
        own = None if bias is None else bias.to(x.dtype)
        return torch.nn.functional.layer_norm(x, x.shape[-1:], scale.to(x.dtype), own, eps)


def _by_formula(x: Tensor, scale: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    deviation = x - x.mean(dim=-1, keepdim=True)
    variance = deviation.square().mean(dim=-1, keepdim=True) + eps
    # without eps a constant token has no variance; it becomes the bias, and no gradient is NaN
    normalized = deviation / torch.where(variance == 0, 1, variance).sqrt() * scale.to(x.dtype)
    return normalized if bias is None else normalized + bias.to(x.dtype)


def inputs(
    x: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    normalize: bool,
    eps: float,
    mask: Tensor | None,
    careful: bool = True,
) -> Tensor:
    """What the plan is made of and applied to: `LayerNorm(x)` or `x`, with masked tokens set to zero."""
    if mask is not None:
        x = torch.where(mask[:, :, None], x, 0)
    if not normalize:
        return x.to(working_dtype(x))
    return _layer_norm(x, x.new_ones(x.shape[-1]) if scale is None else scale, bias, eps, careful)


def plan(
    x: Tensor,
    *,
    queries: Tensor,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    logit_scale: float | None = None,
    normalize: bool = True,
    eps: float = 1e-5,
    mask: Tensor | None = None,
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
        DensePlan `(B,M,N)`; its weights have a gradient.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or range.

    >>> plan(torch.ones(1, 2, 3), queries=torch.ones(1, 3)).weights
    tensor([[[0.5000, 0.5000]]])
    """
    arguments.check_flag("patch_merger", "normalize", normalize)
    scaled = _scaled(x, queries, scale, bias, logit_scale, eps, mask)
    return DensePlan(_weights(x, scaled, scale, bias, normalize, eps, mask)[0])


def _scaled(
    x: Tensor,
    queries: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    logit_scale: float | None,
    eps: float,
    mask: Tensor | None,
) -> Tensor:
    """`logit_scale * queries` in working precision, after a look at all arguments."""
    _, c = check.patch_merger(x, queries, scale, bias, mask)
    arguments.check_patch_merger(c, 1, logit_scale, eps)
    return queries.to(working_dtype(x)) * (c**-0.5 if logit_scale is None else logit_scale)


def _weights(
    x: Tensor,
    scaled: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    normalize: bool,
    eps: float,
    mask: Tensor | None,
    length: int | None = None,
    careful: bool = True,
) -> tuple[Tensor, list[Tensor]]:
    """The weights `(B,M,N)` of the plan, and what they are applied to, in pieces of `length` tokens; None for one."""
    pieces = (x,) if length is None else x.split(length, dim=1)
    masks = (mask,) if length is None else (None,) * len(pieces) if mask is None else mask.split(length, dim=1)
    normalized: list[Tensor] = []
    logits: list[Tensor] = []
    for piece, real in zip(pieces, masks, strict=True):
        normalized.append(inputs(piece, scale, bias, normalize, eps, real, careful))
        logits.append(_product(scaled, normalized[-1]))  # while caches hold the piece
    whole = logits[0] if len(logits) == 1 else torch.cat(logits, dim=2)
    if mask is None:
        return torch.softmax(whole, dim=-1), normalized
    return softmax(torch.where(mask[:, None, :], whole, -torch.inf)), normalized


def _product(queries: Tensor, x: Tensor) -> Tensor:
    """`queries (M,C)` times every sample of `x (B,N,C)`: `(B,M,N)`."""
    if not exporting():  # one batched product; `queries @ x^T` would be folded into a tall one, whose result is copied
        queries = queries.expand(x.shape[0], -1, -1)
    return matmul(queries, x.transpose(1, 2))


def _mix(weights: Tensor, normalized: list[Tensor]) -> Tensor:
    """`weights` times all pieces."""
    mixed = _sum(weights, normalized)
    if looks(mixed) and not all_finite(mixed):
        return product(weights, torch.cat(normalized, dim=1))
    return mixed


def _sum(weights: Tensor, normalized: list[Tensor]) -> Tensor:
    """`weights` times all pieces, the last one first: caches still hold it."""
    parts = weights.split([piece.shape[1] for piece in normalized], dim=2) if len(normalized) > 1 else (weights,)
    mixed = matmul(parts[-1], normalized[-1])
    for part, piece in zip(parts[-2::-1], normalized[-2::-1], strict=True):
        mixed += matmul(part, piece)
    return mixed


class PatchMerger(Merger):
    """`num_tokens_out` learned queries, each a mixture of all tokens.

    Args:
        dim: C; num_tokens_out: M.
        logit_scale, normalize, eps: as in `patch_merger.plan`.
        use_bias: whether the LayerNorm has a bias.
        seed: of the standard normal queries, the same in every backend.

    >>> merger = PatchMerger(dim=4, num_tokens_out=2)
    >>> merger(torch.ones(1, 9, 4)).tokens.shape, sorted(merger.params())
    (torch.Size([1, 2, 4]), ['bias', 'queries', 'scale'])
    """

    NAME = "patch_merger"
    PARAMETERS = ("queries", "scale", "bias")
    OPTIONS = ("dim", "num_tokens_out", "logit_scale", "normalize", "use_bias", "eps")

    bias: torch.nn.Parameter | None

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
        super().__init__()
        arguments.check_patch_merger(dim, num_tokens_out, logit_scale, eps, seed, normalize, use_bias)
        self.dim, self.num_tokens_out, self.logit_scale = dim, num_tokens_out, logit_scale
        self.normalize, self.use_bias, self.eps = normalize, use_bias, eps
        self.queries = torch.nn.Parameter(torch.from_numpy(initial_queries(num_tokens_out, dim, seed)))
        self.scale = torch.nn.Parameter(torch.ones(dim, dtype=torch.float32))
        bias = torch.nn.Parameter(torch.zeros(dim, dtype=torch.float32)) if use_bias else None
        self.register_parameter("bias", bias)

    def plan(self, x: Tensor, *, mask: Tensor | None = None) -> DensePlan:
        """The plan of `x (B,N,C)`, see `plan` of this module. The merged tokens are `plan.merge(LayerNorm(x))`."""
        check.tokens("patch_merger", x, None, C=self.dim)
        return plan(
            x,
            queries=self.queries,
            scale=self.scale,
            bias=self.bias,
            logit_scale=self.logit_scale,
            normalize=self.normalize,
            eps=self.eps,
            mask=mask,
        )

    def forward(self, x: Tensor, *, size: Tensor | None = None, mask: Tensor | None = None) -> Merged:
        """Merge `x (B,N,C)` to `(B,M,C)`."""
        check.tokens("patch_merger", x, size, C=self.dim)
        weights, tokens = self._merge(x, mask)
        return Merged(tokens, dense_sizes(weights, size), None, DensePlan.trusted(weights))

    def _merge(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The weights of the plan, and the tokens."""
        scaled = _scaled(x, self.queries, self.scale, self.bias, self.logit_scale, self.eps, mask)
        options = (self.scale, self.bias, self.normalize, self.eps, mask)
        learned = (scaled, self.scale) if self.bias is None else (scaled, self.scale, self.bias)
        made: tuple[Tensor, Tensor]
        if not is_recorded(x, *learned):
            made = _in_pieces(x, scaled, *options)
        elif x.device.type == "cpu" and _only_compiled(x, *learned):
            made = _operator(x, scaled, *options)
        else:
            weights, normalized = _weights(x, scaled, *options)
            made = weights, _mix(weights, normalized).to(x.dtype)
        return made


def _only_compiled(*tensors: Tensor) -> bool:
    """Whether a compiler is the only one who asks: no gradient, no transform, and not to export a program."""
    if not torch.compiler.is_compiling() or exporting() or transformed():
        return False
    return not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))


def _in_pieces(
    x: Tensor,
    scaled: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    normalize: bool,
    eps: float,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Weights and tokens, on a CPU a few samples at a time, and a long one in pieces of tokens."""

    def run(part: slice) -> tuple[Tensor, Tensor]:
        own, real = x[part], None if mask is None else mask[part]
        length = None if x.is_cuda or own.numel() <= MOST else max(1, MOST // 2 // x.shape[2])
        given = (own, scaled, scale, bias, normalize, eps, real, length)
        if looks(x):
            # a token of NaN makes all that is mixed with it NaN: one look is enough, at the smaller of the two
            weights, normalized = _weights(*given, careful=False)
            mixed = _sum(weights, normalized)
            if all_finite(mixed):
                return weights, mixed.to(x.dtype)
        weights, normalized = _weights(*given)
        return weights, _mix(weights, normalized).to(x.dtype)

    weights, tokens = few_at_a_time(x, run)
    return weights, tokens


def _empty(x: Tensor, scaled: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    (b, n, c), m = x.shape, scaled.shape[0]
    return scaled.new_empty((b, m, n)), x.new_empty((b, m, c))


# A program compiled for a CPU calls it as it is: traced, it would be unrolled for every piece, or read all from memory.
_operator = torch.library.custom_op("tokenmerge::patch_merger", _in_pieces, mutates_args=())
_operator.register_fake(_empty)
