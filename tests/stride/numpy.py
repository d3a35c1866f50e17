"""Stride, over the batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.backends.numpy.check import check
from tokenmerge.backends.numpy.merger import Merger
from tokenmerge.backends.numpy.plan import SelectionPlan
from tokenmerge.spec.shared.arguments import check_integer
from tokenmerge.spec.shared.merged import Merged

Array = np.ndarray[Any, Any]


def plan(x: Array, *, protected: int = 0, mask: Array | None = None) -> SelectionPlan:
    """The plan of `x (B,N,C)`."""
    b, n, _ = x.shape
    wide = min(protected, n) + (max(n - protected, 0) + 1) // 2
    place = np.minimum(np.concatenate([np.arange(protected), np.arange(protected, n + 1, 2)])[:wide], max(n - 1, 0))
    if mask is None:
        return SelectionPlan(np.broadcast_to(place, (b, wide)), None, n)
    order = np.argsort(~mask, axis=1, kind="stable")
    filled = place < mask.sum(axis=1, keepdims=True)
    return SelectionPlan(np.where(filled, order[:, place], 0), filled, n)


class Stride(Merger):
    """Every second token stays."""

    NAME = "stride"
    FUNCTION = staticmethod(plan)

    def __init__(self, protected: int = 0) -> None:
        check_integer("stride", "protected", protected, minimum=0)
        self.protected = protected

    def plan(self, x: Array, *, mask: Array | None = None) -> SelectionPlan:
        check.tokens("stride", x, None)
        check.optional("stride", "mask", mask, "N", "bool", B=x.shape[0], N=x.shape[1])
        return plan(x, protected=self.protected, mask=mask)

    def __call__(self, x: Array, *, size: Array | None = None, mask: Array | None = None) -> Merged:
        check.tokens("stride", x, size)
        made = self.plan(x, mask=mask)
        size = np.ones(x.shape[:2], np.result_type(x.dtype, np.float32)) if size is None else size
        return Merged(made.merge(x, size), made.merge_size(size), made.mask, made)
