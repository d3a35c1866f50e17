"""Kernel of `tokenmerge.backends.torch.kernels.selection`."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["n"])
def place(values_ptr, places_ptr, n, BLOCK: tl.constexpr, OTHERS: tl.constexpr):
    """How many values stand in front of each of a block of values."""
    blocks = (n + BLOCK - 1) // BLOCK
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    own = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(values_ptr + sample * n + own, mask=own < n, other=0.0)
    value = tl.where(value == value, value, float("-inf"))
    ahead = tl.full((BLOCK,), 0, tl.int32)
    for start in range(0, n, OTHERS):
        other = start + tl.arange(0, OTHERS)
        others = tl.load(values_ptr + sample * n + other, mask=other < n, other=float("-inf"))
        others = tl.where(others == others, others, float("-inf"))
        tied = (others[None, :] == value[:, None]) & (other[None, :] < own[:, None])
        in_front = ((others[None, :] > value[:, None]) | tied) & (other < n)[None, :]
        ahead += tl.sum(in_front.to(tl.int32), 1)
    tl.store(places_ptr + sample * n + own, ahead.to(tl.int64), mask=own < n)
