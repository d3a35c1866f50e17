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


@triton.jit(do_not_specialize=["n", "na", "most_removed", "protected"])
def arrange(
    best_ptr,
    target_ptr,
    count_ptr,
    slots_ptr,
    n,
    na,
    most_removed,
    protected,
    BY_SCORE: tl.constexpr,
    BLOCK: tl.constexpr,
    OTHERS: tl.constexpr,
):
    """Ranking and slots of a sample. Grouped, a slot depends on the merged tokens in front of it in `A` alone."""
    sample = tl.program_id(0).to(tl.int64)
    best_ptr += sample * na
    slots_ptr += sample * n
    count = n + tl.program_id(0) * 0
    if count_ptr is not None:
        count = tl.load(count_ptr + sample).to(tl.int32)
    removed = tl.minimum(tl.maximum(count - protected, 0) // 2, most_removed)
    first_a = protected + protected % 2
    first_b = protected + 1 - protected % 2
    unmerged = (tl.maximum(count - first_a, 0) + 1) // 2 - removed

    own = tl.arange(0, BLOCK)
    value = tl.load(best_ptr + own, mask=own < na, other=float("-inf"))
    value = tl.where(value == value, value, float("-inf"))
    place = tl.full((BLOCK,), 0, tl.int32)
    for start in range(0, na, OTHERS):
        other = start + tl.arange(0, OTHERS)
        others = tl.load(best_ptr + other, mask=other < na, other=float("-inf"))
        others = tl.where(others == others, others, float("-inf"))
        tied = (others[None, :] == value[:, None]) & (other[None, :] < own[:, None])
        in_front = ((others[None, :] > value[:, None]) | tied) & (other < na)[None, :]
        place += tl.sum(in_front.to(tl.int32), 1)

    target = tl.load(target_ptr + sample * na + own, mask=own < na, other=0).to(tl.int32)
    merged = (place < removed) & (own < na)
    before = tl.cumsum(merged.to(tl.int32), 0)  # of an unmerged one: it does not count itself
    slot = protected + (place - removed if BY_SCORE else own - before)
    slot = tl.where(merged, protected + unmerged + target, slot)
    token = first_a + 2 * own
    tl.store(slots_ptr + token, tl.where(token < count, slot, -1).to(tl.int64), mask=token < n)
    token = first_b + 2 * own
    slot = protected + unmerged + own
    tl.store(slots_ptr + token, tl.where(token < count, slot, -1).to(tl.int64), mask=token < n)
    for start in range(0, protected, BLOCK):
        token = start + own
        tl.store(slots_ptr + token, tl.where(token < count, token, -1).to(tl.int64), mask=token < protected)
