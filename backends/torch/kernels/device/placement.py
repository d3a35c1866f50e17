"""Kernels of `tokenmerge.backends.torch.kernels.placement`."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["n", "na", "most_removed", "protected"])
def slots(
    place_ptr,
    target_ptr,
    count_ptr,
    slots_ptr,
    n,
    na,
    most_removed,
    protected,
    ORDER: tl.constexpr,
    BLOCK: tl.constexpr,
    OTHERS: tl.constexpr,
):
    """Slots of a block of tokens; the merged tokens in front of each are counted, so no block waits for another."""
    blocks = (n + BLOCK - 1) // BLOCK
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    token = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    count = n + tl.program_id(0) * 0
    if count_ptr is not None:
        count = tl.load(count_ptr + sample).to(tl.int32)
    removed = tl.minimum(tl.maximum(count - protected, 0) // 2, most_removed)
    first_a = protected + protected % 2
    first_b = protected + 1 - protected % 2
    unmerged = (tl.maximum(count - first_a, 0) + 1) // 2 - removed

    in_a = (token >= protected) & (token % 2 == 0) & (token < n)
    index_a = tl.maximum(token - first_a, 0) // 2
    place = tl.load(place_ptr + sample * na + index_a, mask=in_a, other=0).to(tl.int32)
    target = tl.load(target_ptr + sample * na + index_a, mask=in_a, other=0).to(tl.int32)
    merged = in_a & (place < removed)
    position = tl.where(merged, first_b + 2 * target, token)  # of the token whose slot it is
    in_b = (position >= protected) & (position % 2 == 1)

    before = tl.full((BLOCK,), 0, tl.int32)
    if ORDER != "score":
        for start in range(0, na, OTHERS):
            other = start + tl.arange(0, OTHERS)
            others = tl.load(place_ptr + sample * na + other, mask=other < na, other=na).to(tl.int32)
            goes = (others < removed)[None, :] & ((first_a + 2 * other)[None, :] < position[:, None])
            before += tl.sum(goes.to(tl.int32), 1)
    if ORDER == "positional":
        slot = position - before
    else:
        slot = protected + (place - removed if ORDER == "score" else index_a - before)
        slot = tl.where(in_b, protected + unmerged + (position - first_b) // 2, slot)
        slot = tl.where(token < protected, token, slot)
    slot = tl.where(token < count, slot, -1)
    tl.store(slots_ptr + sample * n + token, slot.to(tl.int64), mask=token < n)


@triton.jit
def _largest(values, count, inside):
    """Which are among the `count` largest; of equal ones the first are. NaN counts as -inf.

    As integers, floating-point numbers have the same order. The edge, the smallest that is in, is found two bits at a
    time, until exactly `count` are not below it.
    """
    values = tl.where(values == 0, 0.0, values)  # -0 is equal to 0
    values = tl.where(values == values, values, float("-inf"))
    if values.dtype == tl.float64:
        keys, LAST, TOP = values.to(tl.int64, bitcast=True), tl.constexpr(0x7FFFFFFFFFFFFFFF), tl.constexpr(1 << 62)
    else:
        keys, LAST, TOP = values.to(tl.int32, bitcast=True), tl.constexpr(0x7FFFFFFF), tl.constexpr(1 << 30)
    keys = tl.where(keys < 0, keys ^ LAST, keys)
    keys = tl.where(inside, keys, -LAST - 1)  # below all others
    zero = tl.max(keys, 0) * 0
    edge = zero - LAST - 1
    step = zero + TOP
    reached = count * 0 + 0x7FFFFFFF
    while (step > 0) & (reached != count):
        # three numbers are counted in one sum, 20 bits for each
        above = (keys >= edge + step).to(tl.int64) + ((keys >= edge + 2 * step).to(tl.int64) << 20)
        above += (keys >= edge + 3 * step).to(tl.int64) << 40
        above = tl.sum(above, 0)
        first, second, third = (
            (above & 0xFFFFF).to(tl.int32),
            ((above >> 20) & 0xFFFFF).to(tl.int32),
            (above >> 40).to(tl.int32),
        )
        reached = tl.where(first >= count, first, reached)
        reached = tl.where(second >= count, second, reached)
        reached = tl.where(third >= count, third, reached)
        edge += step * ((first >= count).to(keys.dtype) + (second >= count) + (third >= count))
        step = step >> 2
    above = keys > edge
    tied = (keys == edge) & inside
    left = count - tl.sum(above.to(tl.int32), 0)
    return above | (tied & (tl.cumsum(tied.to(tl.int32), 0) <= left))


@triton.jit(do_not_specialize=["n", "na", "most_removed", "protected"])
def arrange(best_ptr, target_ptr, count_ptr, slots_ptr, n, na, most_removed, protected, BLOCK: tl.constexpr):
    """Slots of a sample, grouped: they depend on which tokens merge, and no more on their ranking."""
    sample = tl.program_id(0).to(tl.int64)
    slots_ptr += sample * n
    count = n + tl.program_id(0) * 0
    if count_ptr is not None:
        count = tl.load(count_ptr + sample).to(tl.int32)
    removed = tl.minimum(tl.maximum(count - protected, 0) // 2, most_removed)
    first_a = protected + protected % 2
    first_b = protected + 1 - protected % 2
    unmerged = (tl.maximum(count - first_a, 0) + 1) // 2 - removed

    own = tl.arange(0, BLOCK)
    best = tl.load(best_ptr + sample * na + own, mask=own < na, other=float("-inf"))
    target = tl.load(target_ptr + sample * na + own, mask=own < na, other=0).to(tl.int32)
    merged = _largest(best, removed, own < na)
    before = tl.cumsum(merged.to(tl.int32), 0)  # of an unmerged one: it does not count itself
    slot = tl.where(merged, protected + unmerged + target, protected + own - before)
    token = first_a + 2 * own
    tl.store(slots_ptr + token, tl.where(token < count, slot, -1).to(tl.int64), mask=token < n)
    token = first_b + 2 * own
    slot = protected + unmerged + own
    tl.store(slots_ptr + token, tl.where(token < count, slot, -1).to(tl.int64), mask=token < n)
    for start in range(0, protected, BLOCK):
        token = start + own
        tl.store(slots_ptr + token, tl.where(token < count, token, -1).to(tl.int64), mask=token < protected)
