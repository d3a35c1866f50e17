"""Rows of every sample by index: one gather of whole rows, which needs an index for a row and not for every entry."""

from __future__ import annotations

import torch

from tokenmerge.backends.torch.constants import first_rows, keeps
from tokenmerge.backends.torch.precision import exporting

Tensor = torch.Tensor


def gather_rows(y: Tensor, index: Tensor) -> Tensor:
    """Row `index (B,N)` of `y (B,P,C)` for every token; an index that is out of range would be another sample's."""
    (b, p, c), n = y.shape, index.shape[1]
    if exporting():  # two operators for five
        return y.gather(1, index[:, :, None].expand(-1, -1, c))
    return y.reshape(b * p, c).index_select(0, _row(index, p)).reshape(b, n, c)


def gather_or_zero(y: Tensor, slot: Tensor) -> Tensor:
    """Row `slot` of `y (B,P,C)` for every token; zeros for slot -1, and for one that is not there."""
    zeros = y.new_zeros((y.shape[0], 1, y.shape[2]))
    return gather_rows(torch.cat([y, zeros], dim=1), or_last(slot, y.shape[1]))


def or_last(slot: Tensor, last: int) -> Tensor:
    """The slots `0..last-1` as they are, and `last` for all others."""
    slot = slot.long()
    return torch.where((slot < 0) | (slot > last), last, slot)


def within(index: Tensor, rows: int) -> Tensor:
    """An index into `rows` rows that is nobody else's: one that is out of range means the first or last row."""
    if exporting():  # where the plans are a program's own
        return index.long()
    return index.long().clamp(0, max(rows - 1, 0))


def _row(index: Tensor, rows: int) -> Tensor:
    """Indices `(B,N)` into samples of `rows` rows as indices into all samples under one another."""
    if keeps(index.device) and index.shape[0] == 1:
        return index.reshape(-1)
    return (index + first_rows(index.shape[0], rows, index.device)).reshape(-1)
