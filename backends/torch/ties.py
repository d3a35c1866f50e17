"""Maxima and sorts whose ties go to the lower index, on every device.

`argmax` promises the first of several maxima, but not every kernel kept the promise (Inductor did not, pytorch#93630).
Here no kernel's own choice among equals matters: only values and integers are reduced, and sorts are stable.
"""

from __future__ import annotations

import torch

from tokenmerge.backends.torch import exported
from tokenmerge.backends.torch.precision import exporting, reads_at_once

Tensor = torch.Tensor

FEW = 2**9  # entries that are sorted sooner than the largest are found and looked at for ties


def first_max(values: Tensor) -> tuple[Tensor, Tensor]:
    """The largest entry along the last axis and the lowest index that reaches it; some index where an entry is NaN.

    >>> first_max(torch.tensor([1.0, 3.0, 3.0]))
    (tensor(3.), tensor(1))
    """
    if reads_at_once(values):
        return values.amax(dim=-1), values.argmax(dim=-1)  # this kernel keeps the promise
    n = values.shape[-1]
    best = values.amax(dim=-1, keepdim=True)
    position = torch.arange(n, dtype=torch.int32, device=values.device)  # half the memory of an int64 index
    # "not below the best" and not "equal to it": nothing equals a NaN, and the index would be out of range
    index = torch.where(values < best, n, position).amin(dim=-1)
    return best.squeeze(-1), index.long()


def first_place(values: Tensor) -> Tensor:
    """The lowest index that reaches the largest entry along the last axis, see `first_max`.

    >>> first_place(torch.tensor([1.0, 3.0, 3.0]))
    tensor(1)
    """
    return values.argmax(dim=-1) if reads_at_once(values) else first_max(values)[1]


def descending(values: Tensor) -> Tensor:
    """The permutation that sorts `(B,N)` along the last axis, largest first.

    >>> descending(torch.tensor([[0.0, 2.0, -0.0, 2.0]]))
    tensor([[1, 3, 0, 2]])
    """
    if exporting():
        return exported.order_of(exported.ranks(values))
    if not reads_at_once(values):  # the sort of the CPU compares; radix sorts can tell 0 from -0
        values = torch.where(values == 0, 0, values)
    return values.sort(dim=-1, descending=True, stable=True)[1]


def largest(values: Tensor, count: int) -> Tensor:
    """The first `count` of `descending(values)`, `(B,count)`, in some order; no entry may be NaN.

    >>> largest(torch.tensor([[0.0, 2.0, -0.0, 1.0]]), 3).sort().values
    tensor([[0, 1, 3]])
    """
    n = values.shape[-1]
    if reads_at_once(values) and 0 < count < n and values.numel() > FEW:
        top, index = values.topk(count + 1, dim=-1)  # which is faster than a sort, and takes any of several equals
        if top.select(1, count - 1).gt(top.select(1, count)).all():
            return index.narrow(1, 0, count)
    return descending(values)[:, :count]


def true_first(flags: Tensor) -> Tensor:
    """The permutation that brings the True ones of `(B,N)` to the front and changes no order otherwise.

    >>> true_first(torch.tensor([[False, True, False, True]]))
    tensor([[1, 3, 0, 2]])
    """
    if exporting():
        return exported.true_first(flags)
    return torch.argsort((~flags).to(torch.uint8), dim=-1, stable=True)


def inverse(permutation: Tensor) -> Tensor:
    """Where each entry of a permutation `(B,N)` stands.

    >>> inverse(torch.tensor([[2, 0, 1]]))
    tensor([[1, 2, 0]])
    """
    position = torch.arange(permutation.shape[-1], device=permutation.device).expand_as(permutation)
    return torch.empty_like(permutation).scatter(-1, permutation, position)
