"""What plans do to tokens and sizes, in numbers that can be differentiated: decisions are the backend's own, and fixed.

A formula of a merger takes a case, what the backend made of it, which sample, and by name what that sample was given
(`x`, `size`, parameters, a prior); it returns the tokens and the sizes that come out, each as rows of the result and
what stands in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tokenmerge.conformance.case import Case, Outcome
from tokenmerge.conformance.rounding import Rounded
from tokenmerge.conformance.traced import Traced

Array = np.ndarray[Any, Any]
Leaves = Mapping[str, Traced]
Rows = list[tuple[Array, Traced]]
Formula = Callable[[Case, Outcome, int, Leaves], tuple[Rows, Rows]]


def by_groups(case: Case, outcome: Outcome, i: int, given: Leaves) -> tuple[Rows, Rows]:
    """A partition: means weighted by size; plain ones where all sizes are zero."""
    slots = np.arange(outcome.plan["num_tokens_out"])
    member = outcome.plan["assignment"][i] == slots[:, None]
    size, members = given["size"], Rounded.exact(member, outcome.dtype)
    empty = member[(member @ size.value) == 0].any(axis=0)
    weighed = size.where(~empty, 1.0)[None] * members
    merged = weighed / weighed.sum(1, keepdims=True) @ given["x"]
    return [(slots, merged)], [(slots, (size[None] * members).sum(1))]


def by_indices(case: Case, outcome: Outcome, i: int, given: Leaves) -> tuple[Rows, Rows]:
    """A selection: copies."""
    slots = np.arange(outcome.plan["num_tokens_out"])
    slots = slots if outcome.plan["mask"] is None else slots[outcome.plan["mask"][i]]
    taken = outcome.plan["indices"][i][slots].astype(int)
    return [(slots, given["x"][taken])], [(slots, given["size"][taken])]


def mixed(weights: Traced, values: Traced, size: Traced, slots: Array) -> tuple[Rows, Rows]:
    """A dense plan: mixtures of tokens, and sizes by share."""
    share = (weights / weights.sum(0, keepdims=True)).T
    return [(slots, weights @ values)], [(slots, (share.T @ size[:, None])[:, 0])]
