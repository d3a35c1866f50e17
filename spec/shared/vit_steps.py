"""What every block of a configured network does to its tokens, worked out from shapes alone (docs/vit.md).

All decisions that depend on shapes are made here, once, for every backend: how many tokens enter and leave a block,
whether a block merges at all, where sizes and masks begin, when a mask is chained.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from tokenmerge.spec.shared.arguments import check_integer
from tokenmerge.spec.shared.description import Description, Merging
from tokenmerge.spec.shared.vit_config import ViTConfig, check_config


class Step(NamedTuple):
    """What one block does to its tokens.

    description: of its merger; None for a block that merges nothing.
    options: of the merger, in the order of its constructor, without what the shapes say.
    tokens_in: tokens that enter the block; tokens_out: that leave it, after merging.
    tokens_merged: tokens that the merger leaves, for good or for the branch that it acts around.
    around: None where the merger acts on the stream, "mlp" or "block" where it acts around that branch.
    prefix: class, distillation and register tokens among those that enter; prefix_out: among those that leave.
    proportional: whether attention adds the logarithm of the sizes.
    chained: whether the merger gets the mask of the one before as its prior; chains: whether it hands one on.
    """

    description: Description | None
    options: tuple[tuple[str, Any], ...]
    tokens_in: int
    tokens_out: int
    tokens_merged: int
    around: str | None
    prefix: int
    prefix_out: int
    proportional: bool
    chained: bool
    chains: bool

    @property
    def merger(self) -> str:
        """The merger's name, "" for none."""
        return self.description.name if self.description else ""

    @property
    def place(self) -> str:
        """Where it acts: "attention", "mlp", "block" (see `Description`), or "" for nowhere."""
        return self.description.place if self.description else ""

    @property
    def inside(self) -> Step:
        """The block that a merger acts around: it has the merged tokens, and no merger."""
        tokens = self.tokens_merged
        return self._replace(description=None, options=(), tokens_in=tokens, tokens_out=tokens, around=None)

    def parameter_shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        """Shapes of what the merger of this block learns."""
        return self.description.parameter_shapes(self.tokens_merged, dim) if self.description else {}


def steps(config: ViTConfig) -> tuple[Step, ...]:
    """One `Step` per block.

    Raises:
        TypeError: no configuration.
        ValueError: a schedule that is longer than its blocks or larger than the network can take, a merger in a block
            that does not exist, two in one block, or one that the network's head cannot live with.

    >>> from tokenmerge import ToMeMerging
    >>> [step.tokens_out for step in steps(ViTConfig(merging=ToMeMerging(r=16)))]
    [181, 165, 149, 133, 117, 101, 85, 69, 53, 37, 21, 11]
    """
    check_config("steps", config)
    return _steps(config)


@lru_cache(maxsize=256)
def _steps(config: ViTConfig) -> tuple[Step, ...]:
    wanted = _wanted(config)
    tokens, prefix = config.num_tokens, config.prefix_tokens
    proportional = sized = masked = False
    before: tuple[int, int] | None = None  # shape of the mask that the last merger handed on
    made = []
    for block in range(config.depth):
        plain = (None, (), tokens, tokens, tokens, None, prefix, prefix)
        if block not in wanted:
            made.append(Step(*plain, proportional and sized, False, False))
            continue
        merging, amount = wanted[block]
        description, move, around = merging.DESCRIPTION, merging.move(amount, tokens, prefix), merging.around
        proportional |= merging.proportional
        if description.decides and move.tokens_out == tokens:
            made.append(Step(*plain, proportional and sized, False, False))
            continue
        # attention inside of a block that a merger acts around has that merger's sizes
        counts = proportional and (sized or (around == "block" and description.sizes == "added"))
        chains = move.prior is not None
        chained = chains and before == move.prior and not masked
        before = move.prior
        prefix_out = 0 if description.ends_prefix else prefix
        tokens_out = move.tokens_out if around is None else tokens
        shapes = (tokens, tokens_out, move.tokens_out, around, prefix, prefix_out)
        made.append(Step(description, move.options, *shapes, counts, chained, chains))
        if around is not None:
            continue  # the stream is as it was
        sized = {"added": True, "kept": sized, "fresh": False}[description.sizes]
        masked = (masked or description.pads) and description.sizes != "fresh"
        tokens, prefix = tokens_out, prefix_out
    return tuple(made)


def drops(config: ViTConfig) -> bool:
    """Whether tokens may be gone when the last block is done, so that no plan brings them back."""
    return any(step.description is not None and step.description.pads for step in steps(config))


def _wanted(config: ViTConfig) -> dict[int, tuple[Merging, int]]:
    """For every block with a merger its configuration and the schedule's entry (r or the budget)."""
    if config.merging is None:
        return {}
    whole = not isinstance(config.merging, tuple)
    entries: Any = ((range(config.depth), config.merging),) if whole else config.merging
    wanted: dict[int, tuple[Merging, int]] = {}
    for blocks, merging in entries:
        for block in blocks:
            check_integer("ViTConfig", "merging", block, minimum=0, hint="blocks count from 0")
            if block >= config.depth:
                below = f"blocks below depth = {config.depth}"
                raise ValueError(f"ViTConfig: `merging` must name {below}, got block {block}")
        for block, amount in merging.spread(config, list(blocks), whole):
            if block in wanted:
                raise ValueError(f"ViTConfig: `merging` must name a block once, got block {block} twice")
            wanted[block] = (merging, amount)
    return wanted
