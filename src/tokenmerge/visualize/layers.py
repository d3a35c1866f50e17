"""What there is to draw of a network's output: the group of every patch, after each block that merges.

Nothing here makes a matrix of a plan that has none. A partition and a selection say themselves where a token goes; only
a dense plan is a matrix already, and there a patch belongs to the token that it weighs most in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


class Layer(NamedTuple):
    """The state after a block.

    Attributes:
        blocks: how many blocks came before.
        tokens: tokens that are left, padding not counted.
        owner: `(rows * columns,)` integer, the token that every patch belongs to; -1 for a dropped one.
        dense: whether tokens are mixtures of all patches, so that a patch belongs to a token only for the most part.
    """

    blocks: int
    tokens: int
    owner: Array
    dense: bool


def layers(output: Any, to_numpy: Callable[[Any], Array], prefix: int) -> list[Layer]:
    """The composed plan after every block that merges the stream, for the first image; one layer where no block does.

    Args:
        output: of a network of any backend, with `plans`, `sizes` and `around`.
        to_numpy: of the backend.
        prefix: tokens in front of the patches.
    """
    of_blocks = zip(output.plans, output.around, strict=True)
    merging = [block for block, (plan, place) in enumerate(of_blocks) if plan is not None and place is None]
    made = []
    for block in merging or [len(output.plans) - 1]:
        # the output of a network that is cut off here, as far as its plans go
        composed = output._replace(plans=output.plans[: block + 1], sizes=output.sizes[: block + 1]).plan
        real = None if composed.mask is None else to_numpy(composed.mask)[0]
        tokens = composed.num_tokens_out if real is None else int(real.sum())
        made.append(Layer(block + 1, tokens, owners(composed, to_numpy)[prefix:], hasattr(composed, "weights")))
    return made


def owners(plan: Any, to_numpy: Callable[[Any], Array]) -> Array:
    """The slot that every token of the first sample goes to, or goes to for the most part: `(N,)`, -1 for none.

    Args:
        plan: of any backend, with the batch axis; to_numpy: of the backend.

    >>> from tokenmerge.backends.numpy import DensePlan, SelectionPlan
    >>> owners(SelectionPlan(np.array([[0, 2]]), num_tokens_in=3), np.asarray)
    array([ 0, -1,  1])
    >>> owners(DensePlan(np.array([[[0.9, 0.1, 0.0], [0.4, 0.6, 0.0]]])), np.asarray)
    array([ 0,  1, -1])
    """
    if hasattr(plan, "assignment"):
        return to_numpy(plan.assignment)[0]
    if hasattr(plan, "indices"):
        indices = to_numpy(plan.indices)[0]
        slots = np.arange(len(indices)) if plan.mask is None else np.flatnonzero(to_numpy(plan.mask)[0])
        slot_of = np.full(plan.num_tokens_in, -1)
        slot_of[indices[slots]] = slots
        return slot_of
    weights = to_numpy(plan.weights)[0]
    return np.where((weights != 0).any(axis=0), weights.argmax(axis=0), -1)
