"""Kernels of `tokenmerge.backends.torch.kernels.merging`."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["n", "p"])
def order(assignment_ptr, slots_ptr, members_ptr, n, p, BLOCK: tl.constexpr, OTHERS: tl.constexpr):
    """Tokens, and their slots, sorted by slot and then by position: a place is the number of tokens in front."""
    blocks = (n + BLOCK - 1) // BLOCK
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    own = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(assignment_ptr + sample * n + own, mask=own < n, other=-1).to(tl.int32)
    key = tl.where(slot < 0, p, slot) * n + own  # dropped tokens come last
    place = tl.full((BLOCK,), 0, tl.int32)
    for start in range(0, n, OTHERS):
        other = start + tl.arange(0, OTHERS)
        slots = tl.load(assignment_ptr + sample * n + other, mask=other < n, other=-1).to(tl.int32)
        keys = tl.where(slots < 0, p, slots) * n + other
        place += tl.sum(((keys[None, :] < key[:, None]) & (other < n)[None, :]).to(tl.int32), 1)
    tl.store(members_ptr + sample * n + place, own, mask=own < n)
    tl.store(slots_ptr + sample * n + place, slot, mask=own < n)


@triton.jit(do_not_specialize=["n", "p"])
def bounds(slots_ptr, first_ptr, end_ptr, n, p, BLOCK: tl.constexpr):
    """Where the members of a slot start and end, of tokens that are sorted by slot."""
    blocks = (n + BLOCK - 1) // BLOCK
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    own = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(slots_ptr + sample * n + own, mask=own < n, other=-1)
    before = tl.load(slots_ptr + sample * n + own - 1, mask=(own < n) & (own > 0), other=-1)
    after = tl.load(slots_ptr + sample * n + own + 1, mask=own + 1 < n, other=-1)
    tl.store(first_ptr + sample * p + slot, own, mask=(slot >= 0) & (slot != before))
    tl.store(end_ptr + sample * p + slot, own + 1, mask=(slot >= 0) & (slot != after))


@triton.jit
def _add(y, x_ptr, at, inside, size, weightless, divisor, WORK: tl.constexpr):
    """`y` and the weighted tokens of a member of every slot."""
    size = tl.where(weightless, size * 0 + 1, size)
    if WORK == tl.float64:
        weight = size / divisor
    else:  # rounded correctly: the weight of a token alone is exactly one
        weight = tl.div_rn(size, divisor)
    x = tl.load(x_ptr + at, mask=inside, other=0.0)
    if WORK == tl.float64:
        x = x.to(tl.float32) if x.dtype == tl.bfloat16 else x
    return y + tl.where(inside, weight[:, None] * x.to(WORK), 0.0)  # a weight can be NaN where this is no member


@triton.jit(do_not_specialize=["n", "p"])
def merge(
    x_ptr,
    size_ptr,
    members_ptr,
    first_ptr,
    end_ptr,
    y_ptr,
    total_ptr,
    count_ptr,
    n,
    p,
    c,
    stride_b,
    stride_n,
    stride_c,
    WORK: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Some channels of a block of slots: walk the members twice, for the total size and then for the tokens."""
    blocks = (p + BLOCK_P - 1) // BLOCK_P
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    slot = (tl.program_id(0) % blocks) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)
    first = tl.load(first_ptr + sample * p + slot, mask=slot < p, other=0)
    count = tl.load(end_ptr + sample * p + slot, mask=slot < p, other=0) - first
    longest = tl.max(count, 0)

    total = tl.full((BLOCK_P,), 0, WORK)
    for i in range(0, longest):
        member = tl.load(members_ptr + sample * n + first + i, mask=i < count, other=0)
        total += tl.load(size_ptr + sample * n + member, mask=i < count, other=0.0)
    if tl.program_id(1) == 0:
        tl.store(total_ptr + sample * p + slot, total, mask=slot < p)
        tl.store(count_ptr + sample * p + slot, count, mask=slot < p)

    weightless = total == 0  # the members count alike
    divisor = tl.where(weightless, tl.maximum(count, 1).to(WORK), total)
    y = tl.full((BLOCK_P, BLOCK_C), 0, WORK)
    for i in range(0, longest):
        is_member = i < count
        member = tl.load(members_ptr + sample * n + first + i, mask=is_member, other=0).to(tl.int64)
        size = tl.load(size_ptr + sample * n + member, mask=is_member, other=0.0)
        at = sample * stride_b + member[:, None] * stride_n + channel[None, :] * stride_c
        y = _add(y, x_ptr, at, is_member[:, None] & (channel < c)[None, :], size, weightless, divisor, WORK)
    at = (sample * p + slot)[:, None] * c + channel[None, :]
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=(slot < p)[:, None] & (channel < c)[None, :])


@triton.jit(do_not_specialize=["n", "p"])
def merge_short(
    x_ptr,
    size_ptr,
    assignment_ptr,
    y_ptr,
    total_ptr,
    count_ptr,
    n,
    p,
    c,
    stride_b,
    stride_n,
    stride_c,
    WORK: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """`merge` that looks for the members of its slots among all tokens, again for each: most slots have one or two."""
    blocks = (p + BLOCK_P - 1) // BLOCK_P
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    slot = (tl.program_id(0) % blocks) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)
    token = tl.arange(0, BLOCK_N)
    slot_of = tl.load(assignment_ptr + sample * n + token, mask=token < n, other=-1).to(tl.int32)
    belongs = slot_of[None, :] == slot[:, None]
    count = tl.sum(belongs.to(tl.int32), 1)
    longest = tl.max(count, 0)
    candidate = tl.where(belongs, token[None, :], BLOCK_N)

    total = tl.full((BLOCK_P,), 0, WORK)
    member = tl.full((BLOCK_P,), -1, tl.int32)
    for _ in range(0, longest):
        member = tl.min(tl.where(candidate > member[:, None], candidate, BLOCK_N), 1)
        total += tl.load(size_ptr + sample * n + member, mask=member < n, other=0.0)
    if tl.program_id(1) == 0:
        tl.store(total_ptr + sample * p + slot, total, mask=slot < p)
        tl.store(count_ptr + sample * p + slot, count, mask=slot < p)

    weightless = total == 0  # the members count alike
    divisor = tl.where(weightless, tl.maximum(count, 1).to(WORK), total)
    y = tl.full((BLOCK_P, BLOCK_C), 0, WORK)
    member = tl.full((BLOCK_P,), -1, tl.int32)
    for _ in range(0, longest):
        member = tl.min(tl.where(candidate > member[:, None], candidate, BLOCK_N), 1)
        is_member = member < n
        size = tl.load(size_ptr + sample * n + member, mask=is_member, other=0.0)
        at = sample * stride_b + member.to(tl.int64)[:, None] * stride_n + channel[None, :] * stride_c
        y = _add(y, x_ptr, at, is_member[:, None] & (channel < c)[None, :], size, weightless, divisor, WORK)
    at = (sample * p + slot)[:, None] * c + channel[None, :]
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=(slot < p)[:, None] & (channel < c)[None, :])
