"""What the reference's batched mergers share: a plan for every sample, and parameters by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import numpy as np

from tokenmerge.spec import plan as plans
from tokenmerge.spec.batch_plan import BatchPlan, sample
from tokenmerge.spec.precision import working_dtype
from tokenmerge.spec.shared import arguments
from tokenmerge.spec.shared.merged import Merged

Array = np.ndarray[Any, Any]


def plan_each(function: Callable[..., plans.Plan], *arrays: Array | None) -> BatchPlan:
    """`function` of every sample; an empty batch takes its shapes from a blank one."""
    batch = next(len(array) for array in arrays if array is not None)
    samples = tuple(function(*sample(arrays, i)) for i in range(batch))
    return BatchPlan(samples, samples[0] if samples else function(*(_blank(array) for array in arrays)))


def _blank(array: Array | None) -> Array | None:
    """A sample of zeros; integers are positions (a permutation) and count up."""
    if array is None:
        return None
    return np.arange(array.shape[1]) if array.dtype.kind in "iu" else np.zeros(array.shape[1:], array.dtype)


class Merger:
    """Parameters by name, as in every backend."""

    NAME: str
    PARAMETERS: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """With the options that it was made with; the width of what is learned can be read off it."""
        made = {"num_tokens_out": len(self.queries)} if hasattr(self, "queries") else {}
        made |= {name: value for name, value in vars(self).items() if name not in ("options", *self.PARAMETERS)}
        options = {**made, **getattr(self, "options", {})}
        order = [name for name in signature(type(self)).parameters if name in options]
        return f"{type(self).__name__}({', '.join(f'{name}={options[name]!r}' for name in order)})"

    def params(self) -> dict[str, Array]:
        """The learned parameters by name, as copies."""
        values = {name: getattr(self, name) for name in self.PARAMETERS}
        return {name: value.copy() for name, value in values.items() if value is not None}

    def load_params(self, params: Mapping[str, Array]) -> None:
        """Take parameters from NumPy arrays, in their own precision: the reference also runs on float64 parameters."""
        own = self.params()
        arguments.check_params(self.NAME, params, {name: value.shape for name, value in own.items()})
        taken = {name: arguments.parameter(self.NAME, name, params[name]) for name in own}
        for name, value in taken.items():  # all of them, or none
            setattr(self, name, value)


def merged(plan: BatchPlan, x: Array, size: Array | None, mask: Array | None) -> Merged:
    size = np.ones(x.shape[:2], working_dtype(x.dtype)) if size is None else size
    return Merged(plan.merge(x, size), plan.merge_size(size), mask, plan)
