"""The plans of a batch: one plan of the reference per sample, with the interface of a backend's plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenmerge.spec import plan as plans
from tokenmerge.spec.shared.arguments import check_composable, check_plans
from tokenmerge.spec.shared.calls import Calls

Array = np.ndarray[Any, Any]
check = Calls(np.ndarray)


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """The plans of the samples of a batch, with the interface of a backend's plan.

    Args:
        samples: one plan per sample.
        shape: a plan of the same shape, which an empty batch takes its shapes from.

    The fields of the samples' plans are here with the batch axis: `assignment`, `indices` or `weights`, and `mask`.
    """

    samples: tuple[plans.Plan, ...]
    shape: plans.Plan

    @property
    def num_tokens_in(self) -> int:
        return self.shape.num_tokens_in

    @property
    def num_tokens_out(self) -> int:
        return self.shape.num_tokens_out

    @property
    def mask(self) -> Array | None:
        return None if self.shape.mask is None else self._stack(lambda plan: plan.mask)

    def __getattr__(self, field: str) -> Array:
        # `shape` itself is asked for before it is there, when a plan is copied or read from a pickle
        if field not in ("assignment", "indices", "weights") or not hasattr(self.shape, field):
            raise AttributeError(f"{type(self).__name__} has no {field!r}")
        return self._stack(lambda plan: getattr(plan, field))

    @property
    def _batch(self) -> int:
        return len(self.samples)

    def matrix(self, size: Array | None = None) -> Array:
        check.optional("plan", "size", size, "N", B=self._batch, N=self.num_tokens_in)
        return self._stack(lambda plan, size: plan.matrix(size), size)

    def share(self) -> Array:
        return self._stack(lambda plan: plan.share())

    def merge(self, x: Array, size: Array | None = None) -> Array:
        check.sample("plan", "x", x, "N C", B=len(self.samples), N=self.num_tokens_in)
        check.optional("plan", "size", size, "N", B=len(self.samples), N=self.num_tokens_in)
        return self._stack(lambda plan, x, size: plan.merge(x, size), x, size)

    def merge_size(self, size: Array | None = None) -> Array:
        check.optional("plan", "size", size, "N", B=self._batch, N=self.num_tokens_in)
        return self._stack(lambda plan, size: plan.merge_size(size), size)

    def unmerge(self, y: Array) -> Array:
        check.sample("plan", "y", y, "P C", B=len(self.samples), P=self.num_tokens_out)
        return self._stack(lambda plan, y: plan.unmerge(y), y)

    def _stack(self, function: Callable[..., Any], *arrays: Array | None) -> Array:
        rows = [function(plan, *sample(arrays, i)) for i, plan in enumerate(self.samples)]
        if rows:
            return np.stack(rows)
        like = np.asarray(
            function(self.shape, *(None if a is None else np.zeros(a.shape[1:], a.dtype) for a in arrays))
        )
        return np.zeros((0, *like.shape), like.dtype)


def compose(first: BatchPlan, second: BatchPlan, size: Array | None = None) -> BatchPlan:
    """The plan of two layers after one another, sample by sample.

    >>> swap = BatchPlan((plans.SelectionPlan(np.array([1, 0])),), plans.SelectionPlan(np.array([1, 0])))
    >>> compose(swap, swap).indices
    array([[0, 1]])
    """
    check_plans(first, second, BatchPlan)
    check_composable(first.num_tokens_out, second.num_tokens_in)
    check.optional("plan", "size", size, "N", B=first._batch, N=first.num_tokens_in)
    samples = (
        plans.compose(one, two, None if size is None else size[i])
        for i, (one, two) in enumerate(zip(first.samples, second.samples, strict=True))
    )
    return BatchPlan(tuple(samples), plans.compose(first.shape, second.shape))


def sample(arrays: tuple[Array | None, ...], i: int) -> list[Array | None]:
    """Sample `i` of arrays that may be None."""
    return [None if array is None else array[i] for array in arrays]
