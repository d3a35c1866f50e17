"""ToMe's bipartite matching with the kernels: match, rank, place (docs/tome.md, steps 1 to 6)."""

from __future__ import annotations

import torch

from tokenmerge.backends.torch.kernels.matching import directions, finds_directions, search
from tokenmerge.backends.torch.kernels.operators import operator
from tokenmerge.backends.torch.kernels.placement import ORDERS, arrange
from tokenmerge.spec.shared.schedule import tokens_removed

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
    most_removed = tokens_removed(metric.shape[1], r, protected)
    used = None
    if count is not None:
        used = count - ((count - protected) // 2).clamp(0, most_removed)
        count = count.reshape(-1)
    return _bipartite(metric.detach(), count, most_removed, protected, ORDERS.index(order)), used


def bipartite_slots(metric: Tensor, count: Tensor | None, removed: int, protected: int, order: int) -> Tensor:
    n = metric.shape[1]
    if metric.shape[0] == 0:
        return _empty(metric, count, removed, protected, order)
    # protected tokens are in neither set; the others keep the parity of their position in the whole sequence
    set_a, set_b = slice(protected + protected % 2, n, 2), slice(protected + 1 - protected % 2, n, 2)
    rows = end = None
    if count is not None:
        rows, end = ((count - each.start + 1) // 2 for each in (set_a, set_b))
    of_a = of_b = None
    if not finds_directions(metric[:, set_a], metric[:, set_b]):
        metric, inverse = directions(metric)
        of_a, of_b = inverse[:, set_a], inverse[:, set_b]
    best, target = search(metric[:, set_a], metric[:, set_b], of_a, of_b, rows=rows, end=end)
    return arrange(best, target, count, num_tokens=n, removed=removed, protected=protected, order=ORDERS[order])


def _empty(metric: Tensor, count: Tensor | None, removed: int, protected: int, order: int) -> Tensor:
    return metric.new_empty(metric.shape[:2], dtype=torch.int64)


_bipartite = operator(bipartite_slots, _empty)
