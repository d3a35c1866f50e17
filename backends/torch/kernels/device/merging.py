"""Kernels of `tokenmerge.backends.torch.kernels.merging`."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["n", "p"])
def group(assignment_ptr, scratch_ptr, members_ptr, first_ptr, end_ptr, n, p, BLOCK: tl.constexpr):
    """Tokens of a sample sorted by slot and then by position, and where the members of each slot start and end.

    Members are counted, the counts added up, the tokens of a slot brought together as they arrive, and then into the
    order of their positions: what comes out does not depend on which atomic addition was first.
    """
    sample = tl.program_id(0).to(tl.int64)
    scratch_ptr += sample * n
    members_ptr += sample * n
    first_ptr += sample * p
    end_ptr += sample * p
    token = tl.arange(0, BLOCK)
    slot = tl.load(assignment_ptr + sample * n + token, mask=token < n, other=-1).to(tl.int32)
    for start in range(0, p, BLOCK):
        tl.store(end_ptr + start + token, token * 0, mask=start + token < p)
    tl.debug_barrier()
    arrival = tl.atomic_add(end_ptr + slot, 1, mask=slot >= 0)
    tl.debug_barrier()
    before = tl.program_id(0) * 0
    for start in range(0, p, BLOCK):
        # past the first cache, as the additions were
        count = tl.load(end_ptr + start + token, mask=start + token < p, other=0, cache_modifier=".cg")
        end = before + tl.cumsum(count, 0)
        tl.store(first_ptr + start + token, end - count, mask=start + token < p)
        tl.store(end_ptr + start + token, end, mask=start + token < p)
        before += tl.sum(count, 0)
    tl.debug_barrier()
    first = tl.load(first_ptr + slot, mask=slot >= 0, other=0)
    count = tl.load(end_ptr + slot, mask=slot >= 0, other=0) - first
    tl.store(scratch_ptr + first + arrival, token, mask=slot >= 0)
    tl.debug_barrier()
    place = first
    for i in range(0, tl.max(count, 0)):
        other = tl.load(scratch_ptr + first + i, mask=i < count, other=n)
        place += (other < token).to(tl.int32)
    tl.store(members_ptr + place, token, mask=slot >= 0)


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
def _member(tokens_ptr, own, at, previous, n, GROUPED: tl.constexpr):
    """The next member of a slot."""
    if GROUPED:
        member = tl.load(tokens_ptr + at).to(tl.int32)
    else:
        member = tl.min(tl.where(own > previous, own, n), 0)
    return member


@triton.jit
def _weighted(x_ptr, added_ptr, at, at_added, inside, size, total, count, WORK: tl.constexpr):
    """A member of a slot times its share; members count alike where the sizes add up to zero."""
    weightless = total == 0
    size = tl.where(weightless, size * 0 + 1, size)
    divisor = tl.where(weightless, tl.maximum(count, 1).to(WORK), total)
    if WORK == tl.float64:
        weight = size / divisor
    else:  # rounded correctly: the weight of a token alone is exactly one
        weight = tl.div_rn(size, divisor)
    x = tl.load(x_ptr + at, mask=inside, other=0.0)
    if added_ptr is not None:
        added = tl.load(added_ptr + at_added, mask=inside, other=0.0)
        if x.dtype == tl.float64:
            x += added
        else:  # rounded, as if the sum had been stored
            x = (x.to(tl.float32) + added.to(tl.float32)).to(x.dtype)
    if WORK == tl.float64:
        x = x.to(tl.float32) if x.dtype == tl.bfloat16 else x
    return tl.where(inside, weight * x.to(WORK), 0.0)


@triton.jit(do_not_specialize=["n", "p"])
def merge(
    x_ptr,
    added_ptr,
    size_ptr,
    tokens_ptr,
    first_ptr,
    end_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    normalized_ptr,
    total_ptr,
    count_ptr,
    n,
    p,
    c,
    eps,
    stride_b,
    stride_n,
    stride_c,
    stride_ab,
    stride_an,
    stride_ac,
    WORK: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Some channels of a slot: walk its members twice, for the total size and then for the tokens.

    `tokens` are sorted by slot, and `first` and `end` say where those of each are; without them it holds the slots of
    few tokens, among which every program looks for its members itself. With `weight` a program has all channels, and
    stores their LayerNorm, too.
    """
    sample = (tl.program_id(0) // p).to(tl.int64)
    slot = tl.program_id(0) % p
    channel = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)
    x_ptr += sample * stride_b
    size_ptr += sample * n
    tokens_ptr += sample * n
    own = tl.arange(0, BLOCK_N)
    GROUPED: tl.constexpr = first_ptr is not None
    if GROUPED:
        first = tl.load(first_ptr + sample * p + slot)
        count = tl.load(end_ptr + sample * p + slot) - first
    else:
        slot_of = tl.load(tokens_ptr + own, mask=own < n, other=-1).to(tl.int32)
        own = tl.where(slot_of == slot, own, n)
        first = slot * 0
        count = tl.sum((own < n).to(tl.int32), 0)

    total = (slot * 0).to(WORK)
    member = slot * 0 - 1
    for i in range(0, count):
        member = _member(tokens_ptr, own, first + i, member, n, GROUPED)
        total += tl.load(size_ptr + member)
    if tl.program_id(1) == 0:
        tl.store(total_ptr + sample * p + slot, total)
        tl.store(count_ptr + sample * p + slot, count)

    y = tl.full((BLOCK_C,), 0, WORK)
    member = slot * 0 - 1
    for i in range(0, tl.where(c > 0, count, 0)):  # without channels, sizes are all that is asked for
        member = _member(tokens_ptr, own, first + i, member, n, GROUPED)
        size = tl.load(size_ptr + member)
        at = member.to(tl.int64) * stride_n + channel * stride_c
        at_added = sample * stride_ab + member.to(tl.int64) * stride_an + channel * stride_ac
        read = tl.where(size == 0, tl.where(total == 0, c, 0), c)  # of a weight of zero comes nothing, not even NaN
        y += _weighted(x_ptr, added_ptr, at, at_added, channel < read, size, total, count, WORK)
    at = (sample * p + slot) * c + channel
    y = y.to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + at, y, mask=channel < c)
    if weight_ptr is not None:
        y = y.to(tl.float32)
        y = tl.where(channel < c, y - tl.sum(y, 0) / c, 0.0)
        y *= tl.rsqrt(tl.sum(y * y, 0) / c + eps)
        weight = tl.load(weight_ptr + channel, mask=channel < c, other=0.0).to(tl.float32)
        bias = tl.load(bias_ptr + channel, mask=channel < c, other=0.0).to(tl.float32)
        tl.store(normalized_ptr + at, (y * weight + bias).to(normalized_ptr.dtype.element_ty), mask=channel < c)
