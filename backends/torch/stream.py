"""What flows through a network from block to block, and what it returns (docs/vit.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from tokenmerge.backends.torch.plan import PartitionPlan, Plan, compose_layers
from tokenmerge.backends.torch.pytrees import Static

Tensor = torch.Tensor


class ViTOutput(NamedTuple):
    """What a network returns.

    Attributes:
        logits: `(B, num_classes)`, or the pooled features `(B,C)` where there is no head.
        tokens: `(B,P,C)` after the last norm, if that comes before pooling; a padded slot is zero, and so is a dropped
            one of `(B,N,C)` restored tokens.
        size: `(B,P)`, patches that a token stands for; None where every token counts one.
        mask: `(B,P)` bool, False for a padded slot; None where all are real.
        plans: for every block its plan, or None where it merges nothing.
        sizes: for every block the sizes of the tokens that its plan takes; None where every token counts one.
        around: for every block "mlp" or "block" where its plan acts around that branch; None for the stream.
    """

    logits: Tensor
    tokens: Tensor
    size: Tensor | None
    mask: Tensor | None
    plans: tuple[Plan | None, ...]
    sizes: tuple[Tensor | None, ...]
    around: Static

    @property
    def plan(self) -> Plan:
        """The composed plan of the stream, from the tokens that enter the first block to the final ones; made when
        asked for."""
        moves = stream_plans(self.plans, self.sizes, self.around)
        if not moves:
            b, n, _ = self.tokens.shape
            return PartitionPlan(torch.arange(n, device=self.tokens.device).repeat(b, 1), n)
        return compose_layers(moves)


class Stream(NamedTuple):
    """What flows from block to block."""

    x: Tensor
    size: Tensor | None = None
    mask: Tensor | None = None
    prior: Tensor | None = None


def stream_plans(
    plans: Sequence[Plan | None], sizes: Sequence[Tensor | None], around: Sequence[str | None]
) -> list[tuple[Plan, Tensor | None]]:
    """The plans that act on the stream, each with the sizes that it takes."""
    of_blocks = zip(plans, sizes, around, strict=False)  # of an output that is cut off after a block, too
    return [(plan, size) for plan, size, place in of_blocks if plan is not None and place is None]


def restored(stream: Stream, plan: Plan, drops: bool) -> Stream:
    """All tokens again, each counting one; `drops`: whether some may be gone for good."""
    kept = (plan.matrix() != 0).any(dim=1) if drops else None
    return Stream(plan.unmerge_cleared(clear(stream.x, stream.mask)), None, kept)


def clear(x: Tensor, mask: Tensor | None) -> Tensor:
    """Tokens with zeros in padded slots."""
    return x if mask is None else torch.where(mask[:, :, None], x, 0)
