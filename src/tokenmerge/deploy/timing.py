"""How fast a file is with and without merging, timed in turn, beside what multiply-adds predict."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from tokenmerge.bench.timing import compare
from tokenmerge.deploy.formats import Run


class Timing(NamedTuple):
    """Milliseconds of a call, median; speed-up with its quartiles."""

    batch: int
    plain: float
    merged: float
    low: float
    speed_up: float
    high: float
    predicted: float


def timings(
    plain: Run, merged: Run, shape: tuple[int, int, int], batches: tuple[int, ...], predicted: float, seconds: float
) -> Iterator[Timing]:
    """Both files in turn, for every number of images."""
    for batch in batches:
        images = np.random.default_rng(0).standard_normal((batch, *shape), np.float32)
        pair = compare(partial(merged, images), partial(plain, images), seconds)
        low, middle, high = pair.ratio()
        plain_ms, merged_ms = (1e3 * float(np.median(each)) for each in (pair.other, pair.ours))
        yield Timing(batch, plain_ms, merged_ms, low, middle, high, predicted)


def multiply_adds(model: torch.nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-adds of one image, as PyTorch's own counter counts them."""
    like = next(model.parameters())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros((1, *shape), dtype=like.dtype))
    return counter.get_total_flops() // 2
