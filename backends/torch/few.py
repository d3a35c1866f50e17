"""Whole batches a few samples at a time, so that a CPU's caches hold what goes from one step to the next."""

from __future__ import annotations

from collections.abc import Callable

import torch

Tensor = torch.Tensor

MOST = 2**20  # numbers of the input that are worked on at once


def few_at_a_time(x: Tensor, run: Callable[[slice], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """What `run` makes of all samples of `x`; all at once where that gains nothing, as on a GPU.

    Args:
        x: `(B,...)`, what `run` reads most of.
        run: from some of the samples to results `(b,...)`, which depend on no other sample.

    >>> few_at_a_time(torch.ones(3, 2**20), lambda part: (torch.arange(3)[part],))
    (tensor([0, 1, 2]),)
    """
    b = x.shape[0]
    together = max(1, MOST * b // max(1, x.numel()))
    if together >= b or x.is_cuda:
        return run(slice(None))
    whole: tuple[Tensor, ...] = ()
    for first in range(0, b, together):
        part = slice(first, first + together)
        made = run(part)
        whole = whole or tuple(each.new_empty((b, *each.shape[1:])) for each in made)
        for each, own in zip(whole, made, strict=True):
            each[part] = own
    return whole
