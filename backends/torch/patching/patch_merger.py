"""PatchMerger between two of a model's own blocks (docs/patch_merger.md)."""

from __future__ import annotations

import torch

from tokenmerge.backends.torch.merger import Merger
from tokenmerge.backends.torch.patch_merger import PatchMerger
from tokenmerge.backends.torch.patching.families import CannotPatch, Network
from tokenmerge.backends.torch.patching.method import Method
from tokenmerge.backends.torch.patching.state import Call
from tokenmerge.spec.shared.arguments import check_integer

Tensor = torch.Tensor


class PatchMergerPatch(Method):
    """A `PatchMerger` after one block, as its part `merger`: its tokens take the place of all others.

    That includes the tokens in front of the patches: in the paper the class token is one of the tokens that are mixed,
    and the network pools the mean of the M tokens. A network that reads its class token cannot have it.

    Args:
        network: what is patched.
        layer: number of blocks before it; None for half of them.
        num_tokens_out: M.
        logit_scale: None for `C**-0.5`.
        seed: of the first queries.

    Raises:
        TypeError, ValueError: an option of the wrong type or range, or beyond the last block.
        CannotPatch: the network reads its class token, or turns queries and keys by their position.
    """

    NAME = "patch_merger"
    OPTIONS = ("layer", "num_tokens_out", "logit_scale", "seed")
    reads_between = False

    def __init__(
        self,
        network: Network,
        *,
        layer: int | None = None,
        num_tokens_out: int = 8,
        logit_scale: float | None = None,
        seed: int = 0,
    ) -> None:
        depth = len(network.blocks)
        layer = max(depth // 2, 1) if layer is None else layer
        check_integer("patch", "layer", layer, minimum=1, hint="the number of blocks before it")
        if layer > depth:
            raise ValueError(f"patch: `layer` must be at most depth = {depth}, got {layer}")
        if network.reads_class:
            raise CannotPatch(
                "patch: `model` must pool all of its tokens for 'patch_merger', which leaves no class token, got one "
                f"where {network.reads_class} reads that"
            )
        if network.rotary:
            raise CannotPatch(
                "patch: `model` must have no rotary positions for 'patch_merger', whose tokens have no place, got "
                f"{network.name} with a rotary table"
            )
        self.index = layer - 1
        self._options = (network.dim, num_tokens_out, logit_scale, seed)
        self.modules()  # checks the options

    def modules(self) -> dict[int, Merger]:
        dim, num_tokens_out, logit_scale, seed = self._options
        return {self.index: PatchMerger(dim, num_tokens_out, logit_scale, seed=seed)}

    def expects(self, call: Call, num_tokens: int) -> bool:
        return False  # after the block, whatever it ran

    def after(self, call: Call, x: Tensor) -> Tensor:
        if len(call.plans) - 1 != self.index:
            return x
        merger = call.block.merger
        assert isinstance(merger, PatchMerger)
        tokens, _, mask, plan = merger(x, mask=call.mask)
        call.plans[-1] = plan
        call.size, call.mask = None, mask  # its tokens are answers to queries, not groups of patches: each counts one
        call.replaced = True
        return tokens
