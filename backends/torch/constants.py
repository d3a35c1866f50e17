"""Integers that depend on shapes alone. On a CPU they are made once: counting to fifty takes as long as adding them.

What is kept is an ordinary tensor that nobody writes into. Nothing is kept while somebody records what is done, where
it would be part of a program or a stand-in without numbers, and nothing on a device, whose streams do not wait for one
another.
"""

from __future__ import annotations

from functools import lru_cache

import torch

Tensor = torch.Tensor

MOST = 2**12  # numbers of a tensor that is kept
KEPT = 256  # tensors

_CPU = torch.device("cpu")


def count(end: int, device: torch.device) -> Tensor:
    """`0..end-1`, to be read only.

    >>> count(3, torch.device("cpu"))
    tensor([0, 1, 2])
    """
    return _count(end) if keeps(device) and end <= MOST else torch.arange(end, device=device)


def first_rows(batch: int, rows: int, device: torch.device) -> Tensor:
    """`(B,1)`, where each sample begins when all their rows stand under one another; to be read only.

    >>> first_rows(3, 10, torch.device("cpu")).tolist()
    [[0], [10], [20]]
    """
    if keeps(device) and batch <= MOST:
        return _first_rows(batch, rows)
    return (rows * torch.arange(batch, device=device))[:, None]


def keeps(device: torch.device) -> bool:
    """Whether a constant for this device may be kept."""
    return (
        device == _CPU
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._get_tracing_state() is None
    )


def grouped(num_tokens: int, protected: int, removed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of a grouped bipartite plan, what depends on no token: ones for set A, and slots, where those of set A are open.

    Both `(1,.)`, to be read only.

    >>> ones, slots = grouped(6, 1, 2, torch.device("cpu"))
    >>> ones.tolist(), slots[0, [0, 1, 3, 5]].tolist()
    ([[1, 1]], [0, 1, 2, 3])
    """
    if keeps(device) and num_tokens <= MOST:
        return _grouped(num_tokens, protected, removed)
    return _made(num_tokens, protected, removed, device)


def _made(num_tokens: int, protected: int, removed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    set_a, set_b = sides(num_tokens, protected)
    slots = torch.zeros((1, num_tokens), dtype=torch.int64, device=device)
    ones = torch.ones_like(slots[:, set_a])
    slots[:, :protected] = torch.arange(protected, device=device)
    first = protected + ones.shape[1] - removed
    slots[:, set_b] = torch.arange(first, first + num_tokens - protected - ones.shape[1], device=device)
    return ones, slots


def sides(num_tokens: int, protected: int) -> tuple[slice, slice]:
    """Sets A and B: every other token, by the parity of its position in the whole sequence; none is protected."""
    first_a, first_b = protected + protected % 2, protected + 1 - protected % 2
    return slice(first_a, num_tokens, 2), slice(first_b, num_tokens, 2)


@lru_cache(KEPT)
def _grouped(num_tokens: int, protected: int, removed: int) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        return _made(num_tokens, protected, removed, _CPU)


@lru_cache(KEPT)
def _count(end: int) -> Tensor:
    with torch.inference_mode(False):  # else it could be no index where gradients are recorded
        return torch.arange(end, device=_CPU)


@lru_cache(KEPT)
def _first_rows(batch: int, rows: int) -> Tensor:
    with torch.inference_mode(False):
        return torch.arange(0, batch * rows, rows, device=_CPU)[:, None] if rows else torch.zeros((batch, 1)).long()
