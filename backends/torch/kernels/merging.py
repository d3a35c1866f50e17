"""The size-weighted mean of every slot in one pass over the tokens (docs/plan.md, `merge` and `merge_size`)."""

from __future__ import annotations

from typing import Any

import torch

from tokenmerge.backends.torch.kernels.attention import transformed
from tokenmerge.backends.torch.kernels.operators import operator
from tokenmerge.backends.torch.kernels.support import block, interpreted, warps
from tokenmerge.backends.torch.precision import is_recorded, safe_divide, working_dtype

Tensor = torch.Tensor

SHORT, FEW = 256, 8192  # up to so many tokens of a sample, and in all, every slot looks for its members itself
CHANNELS = 1024  # of a program
WIDEST = 4096  # up to so many channels a program can have all
LONG = 8192  # beyond so many tokens a sample is sorted, instead of grouped by one program


def merge(
    x: Tensor, size: Tensor, assignment: Tensor, num_tokens_out: int, added: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The tokens and sizes of a partition, of `x + added` if that is given.

    `y_p = sum_{n in p} (size_n / size'_p) x_n`, `size'_p = sum_{n in p} size_n`; equal weights where `size'_p = 0`, and
    zeros in an empty slot. A token alone in its slot comes through to the last bit. The members of a slot are added in
    the order of their positions, always.

    Args:
        x: `(B,N,C)` floating point, any strides.
        size: `(B,N)` floating point.
        assignment: `(B,N)` integer, the slot of every token; negative for a dropped one, which nothing reads.
        num_tokens_out: P, larger than every slot.
        added: `(B,N,C)` of the same dtype, such as the branch of a residual connection; the sum is not stored.

    Returns:
        `y (B,P,C)` in the dtype of `x`, and `size' (B,P)` in that of `size`, float32 at least. Both are differentiable
        with respect to `x` and `size`, more than once.

    Source: arXiv 2210.09461, section 3.1 and equation 1.
    """
    kept = torch.promote_types(torch.float32, size.dtype)
    sizes = size.to(torch.promote_types(working_dtype(x), kept))
    if added is not None and (is_recorded(x, added, sizes) or not _rounds(x)):
        x, added = x + added, None
    if not is_recorded(x, sizes):  # a node of a graph takes longer to make than a small kernel to run
        y, total, *_ = _merge(x, sizes, assignment, num_tokens_out, added)
    else:
        merging = _Merge if torch.compiler.is_compiling() else _MergeForward
        y, total, _ = merging.apply(x, sizes, assignment, num_tokens_out)
        if not (sizes.requires_grad or transformed()):
            total = total.detach()  # made beside `y` they would pass for learned, which rules the attention kernel out
    return y, total.to(kept)


def merge_normalized(
    x: Tensor, size: Tensor, assignment: Tensor, num_tokens_out: int, added: Tensor, norm: torch.nn.LayerNorm
) -> tuple[Tensor, Tensor, Tensor] | None:
    """`merge` of `x + added`, and a LayerNorm of its tokens, while they are at hand: for a block of a transformer.

    Args:
        x, size, assignment, num_tokens_out, added: as in `merge`.
        norm: over the channels, with parameters in the dtype of `x`.

    Returns:
        `y (B,P,C)`, `size' (B,P)` and `norm(y)`; None where that has to be done one after the other: under a transform
        or a compiler, for a gradient, in float64.
    """
    sizes = size.to(torch.promote_types(torch.float32, size.dtype))
    known = norm.weight is not None and norm.bias is not None and norm.weight.dtype == x.dtype == added.dtype
    if norm._forward_hooks or norm._forward_pre_hooks or not known:  # somebody looks
        return None
    if sizes.dtype == torch.float64 or x.dtype == torch.float64 or x.shape[2] > WIDEST:
        return None
    if not _rounds(x) or is_recorded(x, added, sizes, norm.weight, norm.bias):
        return None
    y, total, _, normalized = _merge(
        x, sizes, assignment, num_tokens_out, added, norm.weight, norm.bias, float(norm.eps)
    )
    return y, total, normalized


def merge_tokens(
    x: Tensor,
    size: Tensor,
    assignment: Tensor,
    num_tokens_out: int,
    added: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from tokenmerge.backends.torch.kernels.device import merging as device
    from tokenmerge.backends.torch.kernels.device.matching import TYPES

    y, total, count, normalized = results = _empty(x, size, assignment, num_tokens_out, added, weight)
    (batch, n, c), p = x.shape, num_tokens_out
    if total.numel() == 0:
        return results
    out = y if _rounds(y) else torch.empty_like(y, dtype=size.dtype)
    few = n <= SHORT and batch * n <= FEW
    block_c = block(c, 16, CHANNELS if weight is None else WIDEST)
    device.merge[(batch * p, max(-(-c // block_c), 1))](
        x,
        added,
        size.contiguous(),
        *((assignment.contiguous(), None, None) if few else _members(assignment, num_tokens_out)),
        weight,
        bias,
        out,
        normalized,
        total,
        count,
        n,
        p,
        c,
        eps,
        *x.stride(),
        *((0, 0, 0) if added is None else added.stride()),
        WORK=TYPES[size.dtype],
        BLOCK_C=block_c,
        BLOCK_N=block(n, 16, SHORT) if few else 16,
        num_warps=4 if few else max(block_c // 512, 1),  # the fewer, the less they wait for one another
        enable_fp_fusion=False,  # else the bits would depend on how members are found
    )
    return out.to(y.dtype), total, count, normalized


def _rounds(x: Tensor) -> bool:
    """Whether a kernel can round to the dtype of `x`: the interpreter has no bfloat16."""
    return not (interpreted() and x.dtype == torch.bfloat16)


def _members(assignment: Tensor, num_tokens_out: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens slot by slot, `(B,N)`, and where the members of each slot start and end, `(B,P)`."""
    from tokenmerge.backends.torch.kernels.device import merging as device

    (batch, n), p = assignment.shape, num_tokens_out
    first, end = torch.empty((2, batch, p), dtype=torch.int32, device=assignment.device)
    if n <= LONG:
        scratch, members = torch.empty((2, batch, n), dtype=torch.int32, device=assignment.device)
        size = block(n, 16, LONG)
        device.group[(batch,)](
            assignment.contiguous(), scratch, members, first, end, n, p, BLOCK=size, num_warps=warps(size)
        )
        return members, first, end
    slots, members = assignment.sort(dim=1, stable=True)
    size = block(n, 16, 256)
    device.bounds[(batch * -(-n // size),)](slots, first.zero_(), end.zero_(), n, p, BLOCK=size, num_warps=4)
    return members, first, end


def _empty(
    x: Tensor,
    size: Tensor,
    assignment: Tensor,
    num_tokens_out: int,
    added: Tensor | None = None,
    weight: Tensor | None = None,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    slots = (x.shape[0], num_tokens_out)
    return (
        x.new_empty((*slots, x.shape[2])),
        size.new_empty(slots),
        torch.empty(slots, dtype=torch.int32, device=x.device),
        x.new_empty((*slots, 0 if weight is None else x.shape[2])),
    )


class _Merge(torch.autograd.Function):
    """`merge_tokens` with a gradient that has one, too, under `torch.func` as well.

    `dx_n = w_n g_p`, `ds_n = (g_p . x_n - sum_m w_m g_p . x_m) / size'_p + (gradient of size')_p`. The sum is a merge.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, size: Tensor, assignment: Tensor, num_tokens_out: int) -> tuple[Tensor, Tensor, Tensor]:
        return _merge(x, size, assignment, num_tokens_out)[:3]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, size, assignment, ctx.num_tokens_out = inputs
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(x, size, assignment, *output[1:])

    @staticmethod
    def backward(ctx: Any, of_y: Tensor, of_total: Tensor, _: Any) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, size, assignment, total, count = ctx.saved_tensors
        if ctx.num_tokens_out == 0:
            return torch.zeros_like(x), torch.zeros_like(size), None, None
        dropped, slot = assignment < 0, assignment.clamp(min=0).long()
        total, count = total.gather(1, slot), count.gather(1, slot).clamp(min=1).to(size.dtype)
        g = of_y.to(size.dtype).gather(1, slot[:, :, None].expand(x.shape)).masked_fill(dropped[:, :, None], 0)
        of_x = of_size = None
        if ctx.needs_input_grad[0]:
            weight = torch.where(total == 0, 1 / count, safe_divide(size, total)).masked_fill(dropped, 0)
            of_x = (weight[:, :, None] * g).to(x.dtype)
        if ctx.needs_input_grad[1]:
            # a dropped token may be NaN, which zero times does not remove
            of_weight = (g * x.masked_fill(dropped[:, :, None], 0)).sum(dim=2)
            mean = _Merge.apply(of_weight[:, :, None], size, assignment, ctx.num_tokens_out)[0][:, :, 0]
            of_size = safe_divide(of_weight - mean.gather(1, slot), total) + of_total.gather(1, slot)
            of_size = of_size.masked_fill(dropped, 0)
        return of_x, of_size, None, None


class _MergeForward(_Merge):
    """`_Merge` with derivatives in forward mode, which the compiler refuses to look at."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _Merge.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:3], *output)

    @staticmethod
    def jvp(ctx: Any, x_dot: Tensor | None, size_dot: Tensor | None, *_: None) -> tuple[Tensor, Tensor, None]:
        """`dy_p = sum_n w_n dx_n + sum_n ds_n (x_n - y_p) / size'_p`."""
        x, size, assignment, y, total, count = ctx.saved_tensors

        def summed(values: Tensor) -> Tensor:
            """Sums over the members: means of equal weight, times their number."""
            means = _Merge.apply(values, torch.ones_like(size), assignment, y.shape[1])[0]
            return means * count[:, :, None]

        y_dot, total_dot = torch.zeros_like(y), torch.zeros_like(total)
        if x_dot is not None:
            y_dot = y_dot + _Merge.apply(x_dot, size, assignment, y.shape[1])[0]
        if size_dot is not None:
            own = y.gather(1, assignment.clamp(min=0).long()[:, :, None].expand(x.shape))
            moved = summed(size_dot[:, :, None] * (x - own).to(size.dtype))
            y_dot = y_dot + safe_divide(moved, total[:, :, None]).to(y.dtype)
            total_dot = summed(size_dot[:, :, None])[:, :, 0]
        return y_dot, total_dot, None


_merge = operator(merge_tokens, _empty)
