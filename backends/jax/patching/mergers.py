"""The mergers of a patched network, block by block."""

from __future__ import annotations

from typing import Any

from tokenmerge.backends.jax.ats import ATS
from tokenmerge.backends.jax.ltm import LTM
from tokenmerge.backends.jax.merger import Merger
from tokenmerge.backends.jax.patch_merger import PatchMerger
from tokenmerge.backends.jax.tome import ToMe
from tokenmerge.spec.shared.arguments import check_choice, check_integer, check_names
from tokenmerge.spec.shared.schedule import merge_schedule

OPTIONS: dict[str, dict[str, Any]] = {
    "tome": {"r": None, "prop_attn": True, "order": "grouped", "protected": None},
    "ats": {"max_tokens": None, "score": "per_head"},
    "patch_merger": {"num_tokens_out": 8, "layer": None, "logit_scale": None, "seed": 0},
    "ltm": {"compression_ratio": None, "protected": None, "prior_smoothing": 0.1},
}
NEEDED = {"tome": "r", "ats": "max_tokens", "ltm": "compression_ratio"}


def mergers(name: str, options: dict[str, Any], depth: int, width: int, prefix: int) -> list[Merger | None]:
    """The merger of every block, None where a block merges nothing.

    Args:
        name, options: as `patch` takes them.
        depth: blocks. width: C. prefix: tokens in front of the patches, which are protected.

    Raises:
        TypeError, ValueError: an unknown name or option, or a value out of range.

    >>> [None if merger is None else merger.r for merger in mergers("tome", {"r": [4, 0]}, 3, 8, 1)]
    [4, None, None]
    """
    check_choice("patch", "name", name, OPTIONS)
    check_names("patch", options, OPTIONS[name], "option")
    if name in NEEDED and NEEDED[name] not in options:
        raise TypeError(f"patch: `{NEEDED[name]}` must be given with {name!r}, got nothing")
    chosen = OPTIONS[name] | options
    protected = prefix if chosen.get("protected") is None else chosen["protected"]
    if name == "tome":
        removed = merge_schedule(chosen["r"], depth)
        return [ToMe(r=r, protected=protected, order=chosen["order"]) if r else None for r in removed]
    if name == "ats":
        budgets = chosen["max_tokens"]
        budgets = [budgets] * depth if isinstance(budgets, int) else list(budgets)
        if len(budgets) > depth:
            raise ValueError(f"patch: `max_tokens` must have at most {depth} entries, got {len(budgets)}")
        sampled: list[Merger | None] = [ATS(budget, score=chosen["score"]) for budget in budgets]
        return sampled + [None] * (depth - len(budgets))
    if name == "ltm":
        ratio, smoothing = chosen["compression_ratio"], chosen["prior_smoothing"]
        return [LTM(width, ratio, protected=protected, prior_smoothing=smoothing) for _ in range(depth)]
    layer = max(depth // 2, 1) if chosen["layer"] is None else chosen["layer"]
    check_integer("patch", "layer", layer, minimum=1)
    if layer > depth:
        raise ValueError(f"patch: `layer` must be at most {depth}, the number of blocks, got {layer}")
    merger = PatchMerger(width, chosen["num_tokens_out"], chosen["logit_scale"], seed=chosen["seed"])
    return [merger if index == layer - 1 else None for index in range(depth)]
