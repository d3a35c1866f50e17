"""What flows through the network from block to block, and what it returns (docs/vit.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tokenmerge.spec.plan import DensePlan, PartitionPlan, Plan, compose

Array = np.ndarray[Any, Any]


class ViTOutput(NamedTuple):
    """What a network returns for one image.

    Attributes:
        logits: `(num_classes,)`, or the pooled features `(C,)` where there is no head.
        tokens: `(P,C)` after the last norm, if that comes before pooling; a padded slot is zero, and so is a dropped
            one of `(N,C)` restored tokens.
        size: `(P,)`, patches that a token stands for; None where every token counts one.
        mask: `(P,)` bool, False for a padded slot; None where all are real.
        plans: for every block its plan, or None where it merges nothing.
        sizes: for every block the sizes of the tokens that its plan takes; None where every token counts one.
        around: for every block "mlp" or "block" where its plan acts around that branch; None for the stream.
    """

    logits: Array
    tokens: Array
    size: Array | None
    mask: Array | None
    plans: tuple[Plan | None, ...]
    sizes: tuple[Array | None, ...]
    around: tuple[str | None, ...]

    @property
    def plan(self) -> Plan:
        """The composed plan of the stream, from the tokens that enter the first block to the final ones."""
        composed = compose_stream(self.plans, self.sizes, self.around)
        return PartitionPlan(np.arange(len(self.tokens))) if composed is None else composed


class Stream(NamedTuple):
    """What flows from block to block."""

    x: Array
    size: Array | None = None
    mask: Array | None = None
    prior: Array | None = None


def compose_stream(
    plans: Sequence[Plan | None], sizes: Sequence[Array | None], around: Sequence[str | None]
) -> Plan | None:
    """The plans of the stream as one; None where it keeps all tokens."""
    of_blocks = zip(plans, sizes, around, strict=False)  # of an output that is cut off after a block, too
    moves = [(plan, size) for plan, size, place in of_blocks if plan is not None and place is None]
    if not moves:
        return None
    composed = moves[0][0]
    for plan, size in moves[1:]:
        if isinstance(composed, DensePlan) or isinstance(plan, DensePlan):
            # with the sizes that the network used, which a composed dense plan no longer knows
            composed = DensePlan(plan.matrix(size) @ composed.matrix(), plan.mask)
        else:
            composed = compose(composed, plan)
    return composed


def restored(stream: Stream, plan: Plan, drops: bool) -> Stream:
    """All tokens again, each counting one; `drops`: whether some may be gone for good."""
    kept = plan.matrix().max(axis=0, initial=0) > 0 if drops else None
    return Stream(plan.unmerge(clear(stream.x, stream.mask)), None, kept)


def clear(x: Array, mask: Array | None) -> Array:
    """Tokens with zeros in padded slots."""
    return x if mask is None else np.where(mask[:, None], x, 0).astype(x.dtype)
