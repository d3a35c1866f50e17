"""The size-weighted mean of every slot in one pass over the tokens (docs/plan.md, `merge` and `merge_size`)."""

from __future__ import annotations

from typing import Any

import torch

from tokenmerge.backends.torch.kernels.attention import transformed
from tokenmerge.backends.torch.kernels.operators import operator
from tokenmerge.backends.torch.kernels.support import block, interpreted
from tokenmerge.backends.torch.precision import is_recorded, safe_divide, working_dtype

Tensor = torch.Tensor

SHORT, FEW = 256, 8192  # up to so many tokens of a sample, and in all, every block of slots looks for its own members
LONG = 4096  # beyond so many a sort is faster than to compare every token with every other


def merge(x: Tensor, size: Tensor, assignment: Tensor, num_tokens_out: int) -> tuple[Tensor, Tensor]:
    """The tokens and sizes of a partition.

    `y_p = sum_{n in p} (size_n / size'_p) x_n`, `size'_p = sum_{n in p} size_n`; equal weights where `size'_p = 0`, and
    zeros in an empty slot. A token alone in its slot comes through to the last bit. The members of a slot are added in
    the order of their positions, always: no atomics.

    Args:
        x: `(B,N,C)` floating point, any strides.
        size: `(B,N)` floating point.
        assignment: `(B,N)` integer, the slot of every token; negative for a dropped one, which nothing reads.
        num_tokens_out: P, larger than every slot.

    Returns:
        `y (B,P,C)` in the dtype of `x`, and `size' (B,P)` in that of `size`, float32 at least. Both are differentiable
        with respect to `x` and `size`, more than once.

    Source: arXiv 2210.09461, section 3.1 and equation 1.
    """
    kept = torch.promote_types(torch.float32, size.dtype)
    sizes = size.to(torch.promote_types(working_dtype(x), kept))
    if not is_recorded(x, sizes):  # a node of a graph takes longer to make than a small kernel to run
        y, total, _ = _merge(x, sizes, assignment, num_tokens_out)
    else:
        merging = _Merge if torch.compiler.is_compiling() else _MergeForward
        y, total, _ = merging.apply(x, sizes, assignment, num_tokens_out)
        if not (sizes.requires_grad or transformed()):
            total = total.detach()  # made beside `y` they would pass for learned, which rules the attention kernel out
    return y, total.to(kept)


def merge_tokens(x: Tensor, size: Tensor, assignment: Tensor, num_tokens_out: int) -> tuple[Tensor, Tensor, Tensor]:
    from tokenmerge.backends.torch.kernels.device import merging as device
    from tokenmerge.backends.torch.kernels.device.matching import TYPES

    y, total, count = _empty(x, size, assignment, num_tokens_out)
    (batch, n, c), p = x.shape, num_tokens_out
    if total.numel() == 0:
        return y, total, count
    # the interpreter cannot round to bfloat16
    out = torch.empty_like(y, dtype=size.dtype) if interpreted() else y
    short = n <= SHORT and batch * n <= FEW
    block_p, block_c = block(p, 1, 4 if short else 8), block(c, 16, 256 if short else 128)
    results = (out, total, count, n, p, c, *x.stride())
    grid = (batch * -(-p // block_p), max(-(-c // block_c), 1))
    options = {"WORK": TYPES[size.dtype], "BLOCK_P": block_p, "BLOCK_C": block_c, "num_warps": 4}
    if short:
        given = (x, size.contiguous(), assignment.contiguous())
        device.merge_short[grid](*given, *results, BLOCK_N=block(n, 16, SHORT), **options)
    else:
        device.merge[grid](x, size.contiguous(), *_members(assignment, num_tokens_out), *results, **options)
    return out.to(y.dtype), total, count


def _members(assignment: Tensor, num_tokens_out: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens slot by slot, `(B,N)`, and where the members of each slot start and end, `(B,P)`."""
    from tokenmerge.backends.torch.kernels.device import merging as device

    (batch, n), p = assignment.shape, num_tokens_out
    first, end = torch.zeros((2, batch, p), dtype=torch.int32, device=assignment.device)  # a slot may have none
    if n > LONG:
        slots, members = assignment.sort(dim=1, stable=True)
    else:
        slots, members = torch.empty((2, batch, n), dtype=torch.int32, device=assignment.device)
        device.order[(batch * -(-n // 16),)](
            assignment.contiguous(), slots, members, n, p, BLOCK=16, OTHERS=256, num_warps=4
        )
    size = block(n, 16, 256)
    device.bounds[(batch * -(-n // size),)](slots, first, end, n, p, BLOCK=size, num_warps=4)
    return members, first, end


def _empty(x: Tensor, size: Tensor, assignment: Tensor, num_tokens_out: int) -> tuple[Tensor, Tensor, Tensor]:
    slots = (x.shape[0], num_tokens_out)
    return (
        x.new_empty((*slots, x.shape[2])),
        size.new_empty(slots),
        torch.empty(slots, dtype=torch.int32, device=x.device),
    )


class _Merge(torch.autograd.Function):
    """`merge_tokens` with a gradient that has one, too, under `torch.func` as well.

    `dx_n = w_n g_p`, `ds_n = (g_p . x_n - sum_m w_m g_p . x_m) / size'_p + (gradient of size')_p`. The sum is a merge.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, size: Tensor, assignment: Tensor, num_tokens_out: int) -> tuple[Tensor, Tensor, Tensor]:
        return _merge(x, size, assignment, num_tokens_out)

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
