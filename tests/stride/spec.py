"""Stride: every second token stays. A toy, to show what a merger needs.

Rules:
    STRIDE-1: The first `protected` real tokens stay, and of the others every second one, from the first on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenmerge.spec.plan import SelectionPlan
from tokenmerge.spec.shared.arguments import check_integer
from tokenmerge.spec.shared.description import Description, Merging, Move

Array = np.ndarray[Any, Any]


def check_stride(protected: Any) -> None:
    check_integer("stride", "protected", protected, minimum=0)


def slots(tokens: int, protected: int) -> int:
    return min(protected, tokens) + (max(tokens - protected, 0) + 1) // 2


def plan(x: Array, *, protected: int = 0, mask: Array | None = None) -> SelectionPlan:
    """The plan of `x (N,C)`."""
    real = np.arange(len(x)) if mask is None else np.flatnonzero(mask)
    kept = np.concatenate([real[:protected], real[protected::2]]).astype(int)
    wide = slots(len(x), protected)
    filled = np.arange(wide) < len(kept)
    return SelectionPlan(np.pad(kept, (0, wide - len(kept))), None if mask is None else filled, len(x))


@dataclass(frozen=True)
class StrideMerging(Merging):
    """Every second patch stays, in every block."""

    protected: int | None = None

    def move(self, amount: int, tokens: int, prefix: int) -> Move:
        protected = prefix if self.protected is None else self.protected
        return Move(slots(tokens, protected), (("protected", protected),))


DESCRIPTION = Description(
    name="stride",
    title="Stride",
    rules="STRIDE",
    options={"protected": 0},
    check=check_stride,
    inputs={"x": "N C"},
    decides=True,
    place="mlp",
    merging=StrideMerging,
    knob="protected",
    read=int,
    symbol="p",
    hint="leading tokens that stay",
    multiply_adds=lambda step, config: 0,
    plan=plan,
    sizes="kept",
)
StrideMerging.DESCRIPTION = DESCRIPTION
