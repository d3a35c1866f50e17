"""Kernels of `tokenmerge.backends.torch.kernels.matching`."""

import torch
import triton
import triton.language as tl

TYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}


@triton.jit
def _power(largest, WORK: tl.constexpr):
    """1 / the power of two below the largest entry of a token, so that squares neither overflow nor vanish."""
    if WORK == tl.float64:
        exponent = tl.minimum(tl.maximum(largest.to(tl.int64, bitcast=True) >> 52, 1), 2045)
        power = ((2046 - exponent) << 52).to(tl.float64, bitcast=True)
    else:
        exponent = tl.minimum(tl.maximum(largest.to(tl.int32, bitcast=True) >> 23, 1), 253)
        power = ((254 - exponent) << 23).to(tl.float32, bitcast=True)
    return power


@triton.jit
def _inverse_root(squares, WORK: tl.constexpr):
    if WORK == tl.float64:
        inverse = 1.0 / tl.sqrt(squares)
    else:  # rounded correctly, so that a norm that is a power of two divides exactly
        inverse = tl.div_rn(squares * 0.0 + 1.0, tl.sqrt_rn(squares))
    return inverse


@triton.jit
def _direction(x, AXIS: tl.constexpr, WORK: tl.constexpr, RESCALED: tl.constexpr):
    """Scale and inverse norm of whole tokens, whose channels lie along an axis; both 0 without a direction."""
    largest = tl.max(tl.abs(x), AXIS)
    finite = tl.min((tl.abs(x) < float("inf")).to(tl.int32), AXIS)  # false for NaN, too
    directed = (finite == 1) & (largest > 0)
    scale = tl.where(directed, 1.0, 0.0).to(WORK)
    if RESCALED:
        scale = tl.where(directed, _power(largest, WORK), 0.0)
    x = tl.where(tl.expand_dims(directed, AXIS), x * tl.expand_dims(scale, AXIS), 0.0)
    squares = tl.where(directed, tl.sum(x * x, AXIS), 1.0)
    return scale, tl.where(directed, _inverse_root(squares, WORK), 0.0)


@triton.jit(do_not_specialize=["n"])
def directions(
    x_ptr,
    scaled_ptr,
    inverse_ptr,
    n,
    d,
    stride_b,
    stride_n,
    stride_d,
    WORK: tl.constexpr,
    RESCALED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A block of tokens times powers of two, which is exact, and the inverse norms; zeros without a direction."""
    blocks = (n + BLOCK_N - 1) // BLOCK_N
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    row = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = row < n
    start_of_row = x_ptr + sample * stride_b + row[:, None] * stride_n

    largest = tl.full((BLOCK_N,), 0, WORK)
    finite = tl.full((BLOCK_N,), 1, tl.int32)
    for start in range(0, d, BLOCK_D):
        channel = (start + tl.arange(0, BLOCK_D)).to(tl.int64)[None, :]
        x = tl.load(start_of_row + channel * stride_d, mask=inside[:, None] & (channel < d), other=0.0).to(WORK)
        largest = tl.maximum(largest, tl.max(tl.abs(x), 1))
        finite = tl.minimum(finite, tl.min((tl.abs(x) < float("inf")).to(tl.int32), 1))  # false for NaN, too
    directed = (finite == 1) & (largest > 0)

    scale = tl.full((BLOCK_N,), 1, WORK)
    if RESCALED:
        scale = _power(largest, WORK)

    squares = tl.full((BLOCK_N,), 0, WORK)
    for start in range(0, d, BLOCK_D):
        channel = (start + tl.arange(0, BLOCK_D)).to(tl.int64)[None, :]
        x = tl.load(start_of_row + channel * stride_d, mask=inside[:, None] & (channel < d), other=0.0).to(WORK)
        x = tl.where(directed[:, None], x * scale[:, None], 0.0)
        squares += tl.sum(x * x, 1)
        at = (sample * n + row)[:, None] * d + channel
        tl.store(scaled_ptr + at, x.to(scaled_ptr.dtype.element_ty), mask=inside[:, None] & (channel < d))
    squares = tl.where(directed, squares, 1.0)
    inverse = _inverse_root(squares, WORK)
    tl.store(inverse_ptr + sample * n + row, tl.where(directed, inverse, 0.0), mask=inside)


@triton.jit(do_not_specialize=["na", "nb", "splits", "width", "stride_iab", "stride_ibb"])
def match(
    a_ptr,
    b_ptr,
    inverse_a_ptr,
    inverse_b_ptr,
    rows_ptr,
    begin_ptr,
    end_ptr,
    best_ptr,
    target_ptr,
    na,
    nb,
    d,
    splits,
    width,
    stride_ab,
    stride_an,
    stride_ad,
    stride_bb,
    stride_bn,
    stride_bd,
    stride_iab,
    stride_ian,
    stride_ibb,
    stride_ibn,
    WORK: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    RESCALED: tl.constexpr,
    NARROW: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A block of tokens of `a` against all of `b`, or a part of it, block by block.

    Tokens are given scaled, with inverse norms, or, where a tile has all channels (`NARROW`), as they are.
    """
    blocks = (na + BLOCK_A - 1) // BLOCK_A
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    row = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_A + tl.arange(0, BLOCK_A)
    inside_a = row < na
    of_tile = tl.arange(0, BLOCK_D).to(tl.int64)
    of_block = tl.arange(0, BLOCK_B)
    a_ptr += sample * stride_ab
    b_ptr += sample * stride_bb
    a = tl.full((BLOCK_A, BLOCK_D), 0, OPERAND)
    if NARROW:
        at_a = row[:, None] * stride_an + of_tile[None, :] * stride_ad
        a = tl.load(a_ptr + at_a, mask=inside_a[:, None] & (of_tile < d)[None, :], other=0.0)
    if inverse_a_ptr is None:
        whole_a = a.to(WORK)
        scale_a, inverse_a = _direction(whole_a, 1, WORK, RESCALED)
        a = tl.where(scale_a[:, None] == 0, 0.0, whole_a * scale_a[:, None]).to(OPERAND)
    else:
        inverse_a = tl.load(inverse_a_ptr + sample * stride_iab + row * stride_ian, mask=inside_a, other=0.0)
    begin = tl.program_id(0) * 0
    end = begin + nb
    if begin_ptr is not None:
        begin = tl.maximum(begin, tl.load(begin_ptr + sample).to(tl.int32))
    if end_ptr is not None:
        end = tl.minimum(end, tl.load(end_ptr + sample).to(tl.int32))
    if SHARED:
        begin = tl.maximum(begin, tl.program_id(1) * width)
        end = tl.minimum(end, (tl.program_id(1) + 1) * width)

    # the best in every place of a block, and where that block starts; what is in a block is compared in the end
    bests = tl.full((BLOCK_A, BLOCK_B), float("-inf"), WORK)
    starts = tl.full((BLOCK_A, BLOCK_B), 0, tl.int32)
    for first in range(begin, end, BLOCK_B):
        column = (first + of_block).to(tl.int64)
        inside_b = column < end
        if inverse_b_ptr is None:
            at_b = column[None, :] * stride_bn + of_tile[:, None] * stride_bd
            whole_b = tl.load(b_ptr + at_b, mask=inside_b[None, :] & (of_tile < d)[:, None], other=0.0).to(WORK)
            scale_b, inverse_b = _direction(whole_b, 0, WORK, RESCALED)
            b = tl.where(scale_b[None, :] == 0, 0.0, whole_b * scale_b[None, :]).to(OPERAND)
            product = tl.dot(a, b, input_precision=PRECISION, out_dtype=WORK)
        else:
            inverse_b = tl.load(inverse_b_ptr + sample * stride_ibb + column * stride_ibn, mask=inside_b, other=0.0)
            if NARROW:
                at_b = column[None, :] * stride_bn + of_tile[:, None] * stride_bd
                b = tl.load(b_ptr + at_b, mask=inside_b[None, :] & (of_tile < d)[:, None], other=0.0)
                product = tl.dot(a, b, input_precision=PRECISION, out_dtype=WORK)
            else:
                product = tl.full((BLOCK_A, BLOCK_B), 0, WORK)
                for start in range(0, d, BLOCK_D):
                    channel = start + of_tile
                    at_a = row[:, None] * stride_an + channel[None, :] * stride_ad
                    at_b = column[None, :] * stride_bn + channel[:, None] * stride_bd
                    a = tl.load(a_ptr + at_a, mask=inside_a[:, None] & (channel < d)[None, :], other=0.0)
                    b = tl.load(b_ptr + at_b, mask=inside_b[None, :] & (channel < d)[:, None], other=0.0)
                    product = tl.dot(a, b, product, input_precision=PRECISION, out_dtype=WORK)
        similarity = tl.where(inside_b[None, :], product * inverse_b[None, :], float("-inf"))
        better = similarity > bests  # strictly: an equal one further right does not replace it
        bests = tl.where(better, similarity, bests)
        starts = tl.where(better, first, starts)
    best = tl.max(bests, 1)
    target = tl.min(tl.where(bests == best[:, None], starts + of_block[None, :], nb), 1).to(tl.int64)

    if SHARED:  # as they are: scaled first, two of them could tie
        at = (sample * splits + tl.program_id(1)) * na + row
        tl.store(best_ptr + at, best, mask=inside_a)
        tl.store(target_ptr + at, target, mask=inside_a)
    else:
        _store(best, target, inverse_a, rows_ptr, best_ptr, target_ptr, sample, row, na)


@triton.jit
def _store(best, target, inverse, rows_ptr, best_ptr, target_ptr, sample, row, na):
    """The similarity and the index; -inf and 0 for tokens that do not count, and where there is no choice."""
    counts = best > float("-inf")  # 0 * -inf would be NaN
    if rows_ptr is not None:
        counts = counts & (row < tl.load(rows_ptr + sample))
    tl.store(best_ptr + sample * na + row, tl.where(counts, best * inverse, float("-inf")), mask=row < na)
    tl.store(target_ptr + sample * na + row, tl.where(counts, target, 0), mask=row < na)


@triton.jit(do_not_specialize=["na", "splits", "stride_b"])
def first_best(
    bests_ptr,
    targets_ptr,
    inverse_ptr,
    rows_ptr,
    best_ptr,
    target_ptr,
    na,
    splits,
    stride_b,
    stride_n,
    WORK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The best of what was found in the parts of `b`; of several the first."""
    blocks = (na + BLOCK - 1) // BLOCK
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    row = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    best = tl.full((BLOCK,), float("-inf"), WORK)
    target = tl.full((BLOCK,), 0, tl.int64)
    for split in range(0, splits):
        at = (sample * splits + split) * na + row
        other = tl.load(bests_ptr + at, mask=row < na, other=float("-inf"))
        better = other > best
        best = tl.where(better, other, best)
        target = tl.where(better, tl.load(targets_ptr + at, mask=row < na, other=0), target)
    inverse = tl.load(inverse_ptr + sample * stride_b + row * stride_n, mask=row < na, other=0.0)
    _store(best, target, inverse, rows_ptr, best_ptr, target_ptr, sample, row, na)
