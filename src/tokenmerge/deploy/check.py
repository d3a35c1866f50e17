"""A file against eager PyTorch on photographs: the same decisions, and logits within what rounding does.

Rounding is measured, not assumed: the eager model in the file's precision is held against itself in float64, and the
file may differ by sixteen times as much. A plan that differs is a certified near-tie if rounding errors of the
parameters change the eager model's own plan for that image; its logits are not compared then.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tokenmerge.deploy.deployed import Deployed
from tokenmerge.deploy.formats import Array, Run

ROUNDING = 16  # times the error of eager PyTorch
DRAWS = 8  # moved parameters
CROPS = ((0, 0), (0, 1), (1, 0), (1, 1))


class Agreement(NamedTuple):
    """What a comparison found.

    Attributes:
        images: how many. difference: the largest of a logit, and budget: what rounding explains, both relative to the
            largest logit. same_class: images with the same largest logit.
        other_plans: images whose plan differs; None where the file gives no plans. near_ties: those among them that
            eager PyTorch cannot decide either.
    """

    images: int
    difference: float
    budget: float
    same_class: int
    other_plans: int | None
    near_ties: int

    @property
    def good(self) -> bool:
        decided = (self.other_plans or 0) == self.near_ties or self.budget == float("inf")
        return self.difference <= self.budget and decided


def photographs(shape: tuple[int, int, int], files: Sequence[Path] = ()) -> Array:
    """Photographs `(B, channels, height, width)` with values from -1 to 1: those given, or parts of a portrait.

    Raises:
        ValueError: a file that is no picture.
        ImportError: matplotlib or Pillow is not installed.
    """
    try:
        from tokenmerge.pictures.photo import load_photo
        from tokenmerge.pictures.viz import grey
    except ModuleNotFoundError:
        raise ImportError("export: photographs need matplotlib and pillow: pip install matplotlib pillow") from None
    channels, height, width = shape
    if files:
        pictures = [load_photo(file, (height, width), owner="export") for file in files]
    else:
        whole = load_photo(None, (2 * height, 2 * width), owner="export")
        pictures = [load_photo(None, (height, width), owner="export")]
        pictures += [whole[a * height : (a + 1) * height, b * width : (b + 1) * width] for a, b in CROPS]
    images = np.stack([picture if channels == 3 else grey(picture) for picture in pictures])
    return np.ascontiguousarray(2 * images.transpose(0, 3, 1, 2) - 1, np.float32)


def agreement(
    run: Run, deciding: Run | None, model: torch.nn.Module, images: Array, batch: int | None, quantized: bool = False
) -> Agreement:
    """Hold a file against the model it was made of.

    Args:
        run: the file. deciding: a file that gives plans, too; None where nothing merges.
        model: in the file's precision.
        images: `(B, channels, height, width)`, see `photographs`. batch: of the file; None for any number.
        quantized: eight bits have no budget of rounding: classes are counted, and logits only reported.
    """
    deployed = Deployed(model, with_plans=deciding is not None).eval()
    logits = np.asarray(outputs(run, images, batch)[0], np.float64).reshape(len(images), -1)
    own, own_plans = _eager(deployed, images)
    exact, exact_plans = _eager(copy.deepcopy(deployed).double(), images)
    settled, other = np.ones(len(images), bool), np.zeros(len(images), bool)
    near_ties = 0
    if deciding is not None:
        other = _differ(outputs(deciding, images, batch)[1], own_plans)
        settled = ~other & ~_differ(own_plans, exact_plans)
        near_ties = int((other & _undecided(deployed, images)).sum()) if other.any() else 0
    largest = max(float(np.abs(exact).max()), float(np.finfo(np.float32).tiny))
    eps = float(torch.finfo(next(model.parameters()).dtype).eps)
    error = float(np.abs(logits - own)[settled].max(initial=0.0)) / largest
    budget = ROUNDING * max(float(np.abs(own - exact)[settled].max(initial=0.0)) / largest, eps)
    return Agreement(
        images=len(images),
        difference=error,
        budget=float("inf") if quantized else budget,
        same_class=int((logits.argmax(axis=1) == own.argmax(axis=1)).sum()),
        other_plans=None if deciding is None else int(other.sum()),
        near_ties=near_ties,
    )


def outputs(run: Run, images: Array, batch: int | None) -> list[Array]:
    """What a file gives for all images, in calls of `batch`; the last call is filled up with the last image.

    >>> [each.shape for each in outputs(lambda part: [2 * part], np.zeros((5, 3)), 2)]
    [(5, 3)]
    """
    together = len(images) if batch is None else batch
    missing = -len(images) % together
    filled = np.concatenate([images, *[images[-1:]] * missing])
    rows = [run(filled[first : first + together]) for first in range(0, len(filled), together)]
    return [np.concatenate(each)[: len(images)] for each in zip(*rows, strict=True)]


def _eager(deployed: Deployed, images: Array) -> tuple[Array, Array]:
    """Logits in float64 and plans, which are empty where none are asked for."""
    exact = next(deployed.parameters()).dtype == torch.float64
    given = torch.from_numpy(images)
    with torch.no_grad():
        out = deployed(given.double() if exact else given)
    logits, *plans = out if isinstance(out, tuple) else (out,)
    return logits.double().flatten(1).numpy(), plans[0].double().numpy() if plans else np.zeros(0)


def _differ(one: Array, other: Array) -> Array:
    """Images whose plans differ: in an assignment anywhere, in weights by which slot a token gives most to."""
    if one.ndim == 3:
        one, other = one.argmax(axis=1), other.argmax(axis=1)
    return np.any(one != other, axis=1)


def _undecided(deployed: Deployed, images: Array) -> Array:
    """Images whose eager plan in float64 changes when parameters move by a rounding error of the file's precision."""
    eps = torch.finfo(next(deployed.parameters()).dtype).eps
    generator = torch.Generator().manual_seed(0)
    seen: list[Any] = []
    for _ in range(DRAWS):
        moved = copy.deepcopy(deployed).double()
        with torch.no_grad():
            for parameter in moved.parameters():
                step = torch.rand(parameter.shape, generator=generator, dtype=torch.float64) - 0.5
                parameter.mul_(1 + eps * step)
        seen.append(_eager(moved, images)[1])
    return np.any([_differ(each, seen[0]) for each in seen[1:]], axis=0)
