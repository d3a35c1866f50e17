"""What every block of a configured network does to its tokens, worked out from shapes alone (docs/vit.md).

All decisions that depend on shapes are made here, once, for every backend: how many tokens enter and leave a block,
whether a block merges at all, where sizes and masks begin, when a mask is chained.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from tokenmerge.spec.shared.arguments import check_integer
from tokenmerge.spec.shared.schedule import ltm_tokens_out, merge_schedule, tokens_removed
from tokenmerge.spec.shared.vit_config import (
    ATSMerging,
    LTMMerging,
    Merging,
    PatchMergerMerging,
    ToMeMerging,
    ViTConfig,
)


class Step(NamedTuple):
    """What one block does to its tokens.

    merger: "tome", "ats", "ltm" (inside the block), "patch_merger" (after it), or "" for a block that merges nothing.
    options: of the merger, in the order of its constructor, without what the shapes say.
    tokens_in: tokens that enter the block; tokens_out: that leave it, after merging.
    prefix: class, distillation and register tokens among those that enter.
    proportional: whether attention adds the logarithm of the sizes.
    chained: whether an LTM gets the mask of the one before as its prior.
    """

    merger: str
    options: tuple[tuple[str, Any], ...]
    tokens_in: int
    tokens_out: int
    prefix: int
    proportional: bool
    chained: bool


@lru_cache(maxsize=256)
def steps(config: ViTConfig) -> tuple[Step, ...]:
    """One `Step` per block.

    Raises:
        ValueError: a schedule that is longer than its blocks or larger than the network can take, a merger in a block
            that does not exist, two in one block, or one that the network's head cannot live with.

    >>> from tokenmerge.spec.shared.vit_config import ToMeMerging
    >>> [step.tokens_out for step in steps(ViTConfig(merging=ToMeMerging(r=16)))]
    [181, 165, 149, 133, 117, 101, 85, 69, 53, 37, 21, 11]
    """
    wanted = _wanted(config)
    tokens, prefix = config.num_tokens, config.prefix_tokens
    proportional = sized = masked = False
    before: tuple[int, int] | None = None  # shape of the mask of the LTM before
    made = []
    for block in range(config.depth):
        merger, merging, amount = wanted.get(block, ("", None, 0))
        options: tuple[tuple[str, Any], ...] = ()
        tokens_out, prefix_out, chained = tokens, prefix, False
        if isinstance(merging, ToMeMerging):
            proportional |= merging.prop_attn
            protected = _protected(merging, prefix, tokens)
            tokens_out = tokens - tokens_removed(tokens, amount, protected)
            options = (("r", amount), ("protected", protected), ("order", merging.order))
        elif isinstance(merging, ATSMerging):
            tokens_out = prefix + min(amount, tokens - prefix)
            options = (("max_tokens", amount), ("score", merging.score))
        elif isinstance(merging, LTMMerging):
            protected = _protected(merging, prefix, tokens)
            shape = (tokens - protected, ltm_tokens_out(tokens - protected, merging.compression_ratio))
            tokens_out = protected + shape[1]
            chained, before = before == shape and not masked, shape
            options = (
                ("compression_ratio", merging.compression_ratio),
                ("protected", protected),
                ("prior_smoothing", merging.prior_smoothing),
            )
        elif isinstance(merging, PatchMergerMerging):
            tokens_out, prefix_out = merging.num_tokens_out, 0
            options = (("logit_scale", merging.logit_scale),)
        if merger in ("tome", "ats") and tokens_out == tokens:
            merger, options = "", ()
        made.append(Step(merger, options, tokens, tokens_out, prefix, proportional and sized, chained))
        before = before if merger in ("ltm", "") else None
        sized = (sized or merger in ("tome", "ltm")) and merger != "patch_merger"  # its tokens count one each
        masked = (masked or merger == "ats") and merger != "patch_merger"
        tokens, prefix = tokens_out, prefix_out
    return tuple(made)


def _wanted(config: ViTConfig) -> dict[int, tuple[str, Merging, int]]:
    """For every block with a merger its name, configuration and the schedule's entry (r or the budget)."""
    if config.merging is None:
        return {}
    whole = not isinstance(config.merging, tuple)
    entries: Any = ((range(config.depth), config.merging),) if whole else config.merging
    wanted: dict[int, tuple[str, Merging, int]] = {}
    for blocks, merging in entries:
        for block, name, amount in _spread(config, list(blocks), merging, whole):
            if block in wanted:
                raise ValueError(f"ViTConfig: `merging` must name a block once, got block {block} twice")
            wanted[block] = (name, merging, amount)
    return wanted


def _spread(config: ViTConfig, blocks: list[int], merging: Merging, whole: bool) -> Iterator[tuple[int, str, int]]:
    """(block, merger, amount) for every block in which one entry really puts a merger."""
    for block in blocks:
        check_integer("ViTConfig", "merging", block, minimum=0, hint="blocks count from 0")
        if block >= config.depth:
            raise ValueError(f"ViTConfig: `merging` must name blocks below depth = {config.depth}, got block {block}")
    if isinstance(merging, ToMeMerging):
        yield from _spread_tome(config, blocks, merging)
    elif isinstance(merging, ATSMerging):
        if not config.class_token:
            raise ValueError("ViTConfig: `class_token` must be True with ATSMerging, whose scores are its, got False")
        budgets = merging.max_tokens
        if len(budgets) > len(blocks):
            raise ValueError(
                f"ATSMerging: `max_tokens` must have at most {len(blocks)} entries, one per block, got {len(budgets)}"
            )
        yield from ((block, "ats", budget) for block, budget in zip(blocks, budgets, strict=False))
    elif isinstance(merging, LTMMerging):
        yield from ((block, "ltm", 0) for block in blocks)
    else:
        yield (_patch_merger_block(config, blocks, merging, whole), "patch_merger", 0)


def _spread_tome(config: ViTConfig, blocks: list[int], merging: ToMeMerging) -> Iterator[tuple[int, str, int]]:
    schedule = merge_schedule(merging.r, max(len(blocks), 1))
    free = config.num_tokens - (config.prefix_tokens if merging.protected is None else merging.protected)
    if max(schedule) > max(free, 0) // 2:
        raise ValueError(
            f"ToMeMerging: `r` must be at most {max(free, 0) // 2}, half of the {max(free, 0)} tokens that may merge, "
            f"got {merging.r!r}"
        )
    yield from ((block, "tome", r) for block, r in zip(blocks, schedule, strict=False))


def _patch_merger_block(config: ViTConfig, blocks: list[int], merging: PatchMergerMerging, whole: bool) -> int:
    if config.pool != "mean":
        raise ValueError(
            "ViTConfig: `pool` must be 'mean' with PatchMergerMerging, which leaves no class token, "
            f"got {config.pool!r}"
        )
    if not whole and len(blocks) != 1:
        raise ValueError(f"ViTConfig: `merging` must give PatchMergerMerging one block, got {len(blocks)}")
    layer = merging.layer
    if layer is None:
        layer = max(config.depth // 2, 1) if whole else blocks[0] + 1
    if not whole and layer != blocks[0] + 1:
        raise ValueError(f"PatchMergerMerging: `layer` must be None or {blocks[0] + 1} here, got {layer}")
    if layer > config.depth:
        raise ValueError(f"PatchMergerMerging: `layer` must be at most depth = {config.depth}, got {layer}")
    return layer - 1


def _protected(merging: ToMeMerging | LTMMerging, prefix: int, tokens: int) -> int:
    return prefix if merging.protected is None else min(merging.protected, tokens)
