"""ToMe's bipartite matching with the kernels: match, rank, place (docs/tome.md, steps 1 to 6)."""

from __future__ import annotations

import torch

from tokenmerge.backends.torch.kernels.matching import match
from tokenmerge.backends.torch.kernels.placement import slots
from tokenmerge.backends.torch.kernels.selection import place
from tokenmerge.spec.schedule import tokens_removed

Tensor = torch.Tensor


def bipartite(metric: Tensor, count: Tensor | None, r: int, protected: int, order: str) -> tuple[Tensor, Tensor | None]:
    """Slots of tokens whose first `count` are real; nothing of size `N x N` is stored, nothing is copied or sorted.

    Args:
        metric: `(B,N,D)` floating point, normalized or not.
        count: `(B,1)` integer, how many leading tokens of a sample are real; None where all are.
        r, protected, order: as in `tokenmerge.backends.torch.tome.plan`; at least one token must be removable.

    Returns:
        `(B,N)` int64, -1 for a token that is not real, and `(B,1)` how many slots are used; None where all are.

    Source: arXiv 2210.09461, section 3.1.
    """
    n = metric.shape[1]
    most_removed = tokens_removed(n, r, protected)
    # protected tokens are in neither set; the others keep the parity of their position in the whole sequence
    first_a, first_b = protected + protected % 2, protected + 1 - protected % 2
    rows = end = used = None
    if count is not None:
        count = count.reshape(-1)
        rows, end = ((count - first + 1) // 2 for first in (first_a, first_b))
        used = (count - ((count - protected) // 2).clamp(0, most_removed))[:, None]
    best, target = match(metric[:, first_a::2], metric[:, first_b::2], rows=rows, end=end)
    placed = slots(place(best), target, count, num_tokens=n, removed=most_removed, protected=protected, order=order)
    return placed, used
