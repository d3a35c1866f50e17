"""Output slots of a bipartite matching (docs/tome.md, steps 5 and 6)."""

from __future__ import annotations

import torch

from tokenmerge.backends.torch.kernels.selection import place as place_of
from tokenmerge.backends.torch.kernels.support import block, warps

Tensor = torch.Tensor

ORDERS = ("grouped", "positional", "score")
SHORT = 8192  # up to so many tokens of `A` and of `B` one program chooses and places those of a sample


def arrange(
    best: Tensor, target: Tensor, count: Tensor | None, *, num_tokens: int, removed: int, protected: int, order: str
) -> Tensor:
    """`slots` of the ranking of `best (B,Na)`; other arguments as in `slots`.

    Grouped, nobody asks for the whole ranking: the tokens that merge are selected, in a single launch.
    """
    from tokenmerge.backends.torch.kernels.device import placement as device

    batch, na = best.shape
    each = max(na, (num_tokens - protected + protected % 2) // 2)  # tokens of `A`, and of `B`
    if each > SHORT or order != "grouped":
        place = place_of(best)
        return slots(place, target, count, num_tokens=num_tokens, removed=removed, protected=protected, order=order)
    placed = target.new_empty((batch, num_tokens))
    if placed.numel():
        device.arrange[(batch,)](
            best,
            target,
            count,
            placed,
            num_tokens,
            na,
            removed,
            protected,
            BLOCK=(size := block(each, 16, SHORT)),
            num_warps=warps(size),
        )
    return placed


def slots(
    place: Tensor, target: Tensor, count: Tensor | None, *, num_tokens: int, removed: int, protected: int, order: str
) -> Tensor:
    """The slot of every token, when the first `removed` of the ranking go to their targets.

    `A` are the unprotected even positions, `B` the unprotected odd ones. With `before(t)` the number of merged tokens
    at positions below `t`, and `u` the number of unmerged tokens of `A`:

        a token of B      protected + u + its index in B      ("positional": t - before(t))
        an unmerged of A  protected + its index in A - before(t)     ("positional": t - before(t);
                          "score": protected + its place - removed)
        a merged one      the slot of its target
        a protected one   its position

    Args:
        place: `(B,Na)` int64, of the tokens of `A`, see `tokenmerge.backends.torch.kernels.place`.
        target: `(B,Na)` int64, index in `B`.
        count: `(B,)` integer, how many leading tokens are real in each sample; all without it.
        num_tokens, protected: N, and how many leading tokens are protected.
        removed: tokens to remove at most, at least one; a sample removes `min(removed, (count - protected) // 2)`.
        order: "grouped", "positional" or "score".

    Returns:
        `(B,N)` int64; -1 for a token that is not real.

    Source: arXiv 2210.09461, section 3.1; the order as in TOME-7 (docs/tome.md).
    """
    from tokenmerge.backends.torch.kernels.device import placement as device

    placed = place.new_empty((place.shape[0], num_tokens))
    batch, na = place.shape
    if placed.numel():
        size = block(num_tokens, 16, 32)
        device.slots[(batch * -(-num_tokens // size),)](
            place.contiguous(),
            target.contiguous(),
            count,
            placed,
            num_tokens,
            na,
            removed,
            protected,
            ORDER=order,
            BLOCK=size,
            OTHERS=block(na, 16, 256),
            num_warps=4,
        )
    return placed
