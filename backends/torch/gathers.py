"""Rows of every sample by index: one gather of whole rows, which needs an index for a row and not for every entry."""

from __future__ import annotations

import torch

Tensor = torch.Tensor


def gather_rows(y: Tensor, index: Tensor) -> Tensor:
    """Row `index (B,N)` of `y (B,P,C)` for every token."""
    (b, p, c), n = y.shape, index.shape[1]
    return y.reshape(b * p, c).index_select(0, _row(index, p)).reshape(b, n, c)


def gather_or_zero(y: Tensor, slot: Tensor) -> Tensor:
    """Row `slot` of `y (B,P,C)` for every token; zeros for slot -1."""
    zeros = y.new_zeros((y.shape[0], 1, y.shape[2]))
    return gather_rows(torch.cat([y, zeros], dim=1), or_last(slot, y.shape[1]))


def or_last(slot: Tensor, last: int) -> Tensor:
    slot = slot.long()
    return torch.where(slot < 0, last, slot)


def _row(index: Tensor, rows: int) -> Tensor:
    """Indices `(B,N)` into samples of `rows` rows as indices into all samples under one another."""
    first = rows * torch.arange(index.shape[0], device=index.device)
    return (index + first[:, None]).reshape(-1)
