"""Means and weighted sums of the rows that go to the same place."""

from __future__ import annotations

from typing import Any

import torch

from tokenmerge.backends.torch.constants import count
from tokenmerge.backends.torch.precision import is_recorded

Tensor = torch.Tensor


def mean_rows(values: Tensor, size: Tensor, place: Tensor, places: int) -> tuple[Tensor, Tensor]:
    """Mean weighted by `size`, and the total size, of the rows of every place: `(places,C)` and `(places,)`.

    Where sizes add up to zero the mean is not finite. For numbers on the CPU (`reads_at_once`), with the bits that
    `sum_rows` gives.

    Args:
        values: `(R,C)`; size: `(R,)` in the same dtype, float32 at least.
        place: `(R,)` integer in `0..places-1`.

    >>> mean_rows(torch.tensor([[1.0], [4.0], [5.0]]), torch.tensor([2.0, 1.0, 1.0]), torch.tensor([0, 0, 1]), 2)
    (tensor([[2.],
            [5.]]), tensor([3., 1.]))
    """
    total = size.new_zeros(places).index_add_(0, place, size)
    ordered, order = place.sort(stable=True)
    weights = size.index_select(0, order) / total.index_select(0, ordered)
    return _bags(values, weights, order, torch.searchsorted(ordered, count(places, place.device))), total


def sum_rows(values: Tensor, weights: Tensor, place: Tensor, places: int) -> Tensor:
    """`out[p] = sum of weights[i] * values[i] over place[i] = p`: `(R,C)` to `(places,C)`.

    Args:
        values: `(R,C)`; weights: `(R,)` in the same dtype, float32 at least.
        place: `(R,)` integer in `0..places`; what goes to `places` is dropped.

    >>> sum_rows(torch.tensor([[1.0], [2.0], [5.0]]), torch.ones(3), torch.tensor([0, 0, 1]), 2).tolist()
    [[3.0], [5.0]]
    """
    return _sum_rows(values, weights, place, places)[:-1]


def _sum_rows(values: Tensor, weights: Tensor, place: Tensor, places: int) -> Tensor:
    """`sum_rows`, and the sum of what is dropped."""
    if values.device.type != "cpu" or not values.numel() or torch.compiler.is_compiling():
        # adding whole rows needs one index for a row; a scatter would need one for every entry
        return values.new_zeros((places + 1, values.shape[1])).index_add_(0, place, weights[:, None] * values)
    # making a node of a graph takes longer than to sum a few hundred rows
    sums = _InOnePass.apply if is_recorded(values, weights) else _InOnePass.forward
    return sums(values, weights, place, places)


def _bags(values: Tensor, weights: Tensor, order: Tensor, first: Tensor) -> Tensor:
    """Sums of `weights * values[order]` from each of `first` to the next; its function in `nn` only looks at these."""
    return torch.embedding_bag(values, order, first, False, 0, False, weights)[0]


class _InOnePass(torch.autograd.Function):
    """Reads every row once and writes every sum once, where a scatter fills, multiplies and adds."""

    @staticmethod
    def forward(values: Tensor, weights: Tensor, place: Tensor, places: int) -> Tensor:
        ordered, order = place.sort(stable=True)
        first = torch.searchsorted(ordered, count(places + 1, place.device))
        return _bags(values, weights.index_select(0, order), order, first)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        values, weights, place, ctx.places = inputs
        ctx.save_for_backward(values, weights, place)
        ctx.save_for_forward(values, weights, place)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values, weights, place = ctx.saved_tensors
        back = grads[0].index_select(0, place)
        need_values, need_weights = ctx.needs_input_grad[:2]
        # what is dropped may be NaN
        of_weights = torch.where(place == ctx.places, 0, (back * values).sum(dim=1)) if need_weights else None
        return weights[:, None] * back if need_values else None, of_weights, None, None

    @staticmethod
    def jvp(ctx: Any, values_dot: Tensor | None, weights_dot: Tensor | None, *_: None) -> Tensor:
        values, weights, place = ctx.saved_tensors
        pairs = ((values_dot, weights), (values, weights_dot))
        parts = [_sum_rows(a, b, place, ctx.places) for a, b in pairs if a is not None and b is not None]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *given: Any) -> tuple[Tensor, int]:
        """The mapped axis becomes more rows and more places."""
        many, places = info.batch_size, given[3]
        values, weights, place = (
            each.movedim(dim, 0) if dim is not None else each.expand(many, *each.shape)
            for each, dim in zip(given[:3], dims[:3], strict=True)
        )
        first = (places + 1) * torch.arange(many, device=place.device)[:, None]
        rows = many * (places + 1)
        out = _sum_rows(values.flatten(0, 1), weights.flatten(), (place + first).flatten(), rows)[:-1]
        return out.unflatten(0, (many, places + 1)), 0
