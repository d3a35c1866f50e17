"""Weighted sums of the rows that go to the same place."""

from __future__ import annotations

from typing import Any

import torch

Tensor = torch.Tensor


def sum_rows(values: Tensor, weights: Tensor, place: Tensor, places: int) -> Tensor:
    """`out[p] = sum of weights[i] * values[i] over place[i] = p`: `(R,C)` to `(places,C)`.

    Args:
        values: `(R,C)`; weights: `(R,)` in the same dtype, float32 at least.
        place: `(R,)` integer in `0..places`; what goes to `places` is dropped.

    >>> sum_rows(torch.tensor([[1.0], [2.0], [5.0]]), torch.ones(3), torch.tensor([0, 0, 1]), 2).tolist()
    [[3.0], [5.0]]
    """
    if values.device.type == "cpu" and values.numel() and not torch.compiler.is_compiling():
        return _InOnePass.apply(values, weights, place, places)
    return _scattered(values, weights, place, places)


def _scattered(values: Tensor, weights: Tensor, place: Tensor, places: int) -> Tensor:
    # adding whole rows needs one index for a row; a scatter would need one for every entry
    sums = values.new_zeros((places + 1, values.shape[1]))
    return sums.index_add_(0, place, weights[:, None] * values)[:-1]


class _InOnePass(torch.autograd.Function):
    """Reads every row once and writes every sum once, where `_scattered` fills, multiplies and adds."""

    @staticmethod
    def forward(values: Tensor, weights: Tensor, place: Tensor, places: int) -> Tensor:
        ordered, order = place.sort(stable=True)
        first = torch.searchsorted(ordered, torch.arange(places + 1, device=place.device))
        weights = weights.index_select(0, order)
        return torch.nn.functional.embedding_bag(order, values, first, mode="sum", per_sample_weights=weights)[:-1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        values, weights, place, ctx.places = inputs
        ctx.save_for_backward(values, weights, place)
        ctx.save_for_forward(values, weights, place)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values, weights, place = ctx.saved_tensors
        (grad,) = grads
        dropped = place == ctx.places
        back = torch.where(dropped[:, None], 0, grad.index_select(0, torch.where(dropped, 0, place)))
        need_values, need_weights = ctx.needs_input_grad[:2]
        of_weights = torch.where(dropped, 0, (back * values).sum(dim=1)) if need_weights else None
        return weights[:, None] * back if need_values else None, of_weights, None, None

    @staticmethod
    def jvp(ctx: Any, values_dot: Tensor | None, weights_dot: Tensor | None, *_: None) -> Tensor:
        values, weights, place = ctx.saved_tensors
        out = torch.zeros((), dtype=values.dtype, device=values.device)
        if values_dot is not None:
            out = out + sum_rows(values_dot, weights, place, ctx.places)
        return out if weights_dot is None else out + sum_rows(values, weights_dot, place, ctx.places)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *given: Any) -> tuple[Tensor, int]:
        """The mapped axis becomes more rows and more places."""
        many, places = info.batch_size, given[3]
        values, weights, place = (
            each.movedim(dim, 0) if dim is not None else each.expand(many, *each.shape)
            for each, dim in zip(given[:3], dims[:3], strict=True)
        )
        first = places * torch.arange(many, device=place.device)[:, None]
        moved = torch.where(place == places, many * places, place + first)
        out = sum_rows(values.flatten(0, 1), weights.flatten(), moved.flatten(), many * places)
        return out.unflatten(0, (many, places)), 0
