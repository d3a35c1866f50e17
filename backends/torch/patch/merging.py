"""What is merged where: the options of `patch`, checked; hooks read them at every call, so that `r` can be set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from tokenmerge.backends.torch.ltm import LTM
from tokenmerge.backends.torch.patch.families import Network
from tokenmerge.backends.torch.patch_merger import PatchMerger
from tokenmerge.spec.arguments import check_ats, check_choice, check_integer, check_names, check_tome
from tokenmerge.spec.schedule import merge_schedule
from tokenmerge.spec.vit_config import AtsMerging, LtmMerging, PatchMergerMerging, ToMeMerging

OPTIONS = {
    "tome": ("r", "prop_attn", "order", "protected"),
    "ats": ("max_tokens_per_depth", "score"),
    "patch_merger": ("patch_merge_layer", "patch_merge_num_tokens", "logit_scale"),
    "ltm": ("compression_ratio", "protected", "prior_smoothing"),
}
_CONFIGS: dict[str, Any] = {
    "tome": ToMeMerging,
    "ats": AtsMerging,
    "patch_merger": PatchMergerMerging,
    "ltm": LtmMerging,
}
_REQUIRED = {"tome": "r", "ats": "max_tokens_per_depth", "ltm": "compression_ratio"}


@dataclass(eq=False)
class Merging:
    """One merger in a network.

    name: of the merger. prefix: tokens in front of the patches. config: its options, as for `ViTConfig`. r: tokens to
    remove in every block (ToMe). budgets: the most that a block keeps, None for all (ATS). layer: the block that
    PatchMerger follows.
    """

    name: str
    config: Any
    prefix: int
    protected: int
    r: tuple[int, ...] = ()
    budgets: tuple[int | None, ...] = ()
    layer: int = -1

    @property
    def proportional(self) -> bool:
        return self.name == "tome" and bool(self.config.prop_attn)


def resolve(name: str, options: dict[str, Any], network: Network) -> Merging:
    """Check the options against the network.

    Raises:
        TypeError, ValueError: an unknown merger or option, one out of range, one that the network cannot take.
    """
    check_choice("patch", "name", name, OPTIONS)
    check_names("patch", options, OPTIONS[name], "option")
    if name in _REQUIRED and _REQUIRED[name] not in options:
        raise TypeError(f"patch: `{_REQUIRED[name]}` must be given with {name!r}, got nothing")
    config = _CONFIGS[name](**options)
    depth, prefix = len(network.blocks), network.prefix
    protected = getattr(config, "protected", None)
    merging = Merging(name, config, prefix, prefix if protected is None else protected)
    if name == "tome":
        merging.r = schedule(config.r, merging, network)
    elif name == "ats":
        if not network.class_token:
            raise ValueError("patch: `model` must have a class token for 'ats', whose scores are its, got none")
        if "AttentionRope" in {type(block.get_submodule(network.parts.attention)).__name__ for block in network.blocks}:
            raise ValueError("patch: `name` must not be 'ats' for blocks with AttentionRope, got a model that has them")
        budgets = config.max_tokens_per_depth
        if len(budgets) > depth:
            raise ValueError(f"patch: `max_tokens_per_depth` must have at most {depth} entries, got {len(budgets)}")
        check_ats(budgets[0] if budgets else 1, config.score, "inverse_transform")
        merging.budgets = (*budgets, *(None,) * (depth - len(budgets)))
    elif name == "patch_merger":
        merging.layer = (depth // 2 if config.patch_merge_layer is None else config.patch_merge_layer) - 1
        if not 0 <= merging.layer < depth:
            raise ValueError(f"patch: `patch_merge_layer` must be 1 to {depth}, got {merging.layer + 1}")
        averaged = network.pooling is not None and not network.pooling.after_class
        if not averaged and network.attention_pool is None:
            raise ValueError(
                "patch: `model` must pool by mean or attention for 'patch_merger', which leaves no class token, got "
                "one that reads single tokens"
            )
        if network.rotary:
            raise ValueError(
                "patch: `model` must not be rotary for 'patch_merger', whose tokens have no place, got one"
            )
    return merging


def schedule(r: Any, merging: Merging, network: Network) -> tuple[int, ...]:
    """Tokens to remove in every block; refuses what no block of the network could do."""
    check_tome(0, merging.protected, merging.config.order, "bipartite", None)
    wanted = merge_schedule(r, len(network.blocks))
    if network.num_tokens is not None:
        most = max(0, network.num_tokens - merging.protected) // 2
        if max(wanted) > most:
            raise ValueError(
                f"patch: `r` must be at most {most}, half of the {network.num_tokens - merging.protected} tokens that "
                f"may merge, got {r!r}"
            )
    return wanted


def learned(merging: Merging, network: Network) -> dict[int, nn.Module]:
    """The modules with parameters that a merger adds, by block; on the block's device, in its dtype."""
    made: dict[int, nn.Module] = {}
    wanted = {"ltm": range(len(network.blocks)), "patch_merger": [merging.layer]}.get(merging.name, [])
    for index in wanted:
        like = next(network.blocks[index].get_submodule(network.parts.second_norm).parameters())
        config, dim = merging.config, like.shape[-1]
        check_integer("patch", "dim", dim, minimum=1)
        module: nn.Module
        if merging.name == "ltm":
            module = LTM(dim, config.compression_ratio, merging.protected, config.prior_smoothing)
        else:
            module = PatchMerger(dim, config.patch_merge_num_tokens, config.logit_scale)
        made[index] = module.to(device=like.device, dtype=like.dtype)
    return made
