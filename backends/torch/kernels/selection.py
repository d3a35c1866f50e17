"""Ranking without a sort: a place is the number of values in front (docs/tome.md, step 5)."""

from __future__ import annotations

import torch

from tokenmerge.backends.torch.kernels.support import block

Tensor = torch.Tensor


def place(values: Tensor) -> Tensor:
    """The place of every value in the ranking, largest first, ties to the lower index.

    `place[i] = #{j : v[j] > v[i]} + #{j < i : v[j] = v[i]}`; the top `r` are those with `place < r`. `N^2` comparisons,
    no matrix and no sort. NaN counts as -inf, so that the places of a sample are always a permutation.

    Args:
        values: `(B,N)` floating point.

    Returns:
        `(B,N)` int64.

    Source: arXiv 2210.09461, section 3.1, step 3.
    """
    from tokenmerge.backends.torch.kernels.device import selection as device

    values = values.contiguous()
    places = torch.empty(values.shape, dtype=torch.int64, device=values.device)
    batch, n = values.shape
    if places.numel():
        size = block(n, 16, 32)
        device.place[(batch * -(-n // size),)](values, places, n, BLOCK=size, OTHERS=block(n, 16, 128), num_warps=4)
    return places
