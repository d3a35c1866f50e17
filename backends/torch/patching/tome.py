"""ToMe in a model's own blocks (docs/tome.md): by the keys of attention, between attention and MLP."""

from __future__ import annotations

import torch

from tokenmerge.backends.torch import tome
from tokenmerge.backends.torch.patching.families import Network
from tokenmerge.backends.torch.patching.method import Method, check_prefix
from tokenmerge.backends.torch.patching.state import Call
from tokenmerge.backends.torch.precision import working_dtype
from tokenmerge.spec.shared.arguments import check_choice
from tokenmerge.spec.shared.schedule import merge_schedule, tokens_removed

Tensor = torch.Tensor
R = int | tuple[int, float] | list[int]


class ToMePatch(Method):
    """`r` tokens fewer in every block, or a schedule; proportional attention from the first merge on.

    Args:
        network: what is patched.
        r: as in `tokenmerge.merge_schedule`.
        prop_attn: whether `log size` is added to the attention logits; for weights that were trained with labels and
            without merging, and not for those of MAE off the shelf.
        order: of the tokens that come out, see `tokenmerge.backends.torch.tome.plan`.
        protected: leading tokens that never merge; None for the network's class, distillation and register tokens.

    Raises:
        TypeError, ValueError: an option of the wrong type, longer than the network or larger than it can take.
    """

    NAME = "tome"
    OPTIONS = ("r", "prop_attn", "order", "protected")
    NEEDED = ("r",)
    keys = True

    def __init__(
        self,
        network: Network,
        *,
        r: R,
        prop_attn: bool = True,
        order: str = "grouped",
        protected: int | None = None,
    ) -> None:
        check_choice("patch", "order", order, ("grouped", "positional", "score"))
        self.depth, self.tokens = len(network.blocks), network.tokens
        self.proportional, self.order = prop_attn, order
        self.protected = check_prefix(protected, network)
        self.r = r

    @property
    def r(self) -> R:
        """Tokens to remove, as they were given."""
        return self._r

    @r.setter
    def r(self, r: R) -> None:
        schedule = merge_schedule(r, self.depth)
        if self.tokens is not None:
            free = max(self.tokens - self.protected, 0)
            if max(schedule) > free // 2:
                raise ValueError(
                    f"patch: `r` must be at most {free // 2}, half of the {free} tokens that may merge, got {r!r}"
                )
        self._r, self.schedule = r, schedule

    def between(self, call: Call, x: Tensor) -> Tensor | None:
        r = tokens_removed(x.shape[1], self.schedule[len(call.plans) - 1], self.protected)
        if r == 0:
            return None
        assert call.keys is not None
        return call.merge(tome.plan(call.keys, r=r, protected=self.protected, order=self.order), x)


def mean_key(keys: Tensor, heads: int) -> Tensor:
    """Keys averaged over the axis `heads`, in working precision."""
    return keys.mean(dim=heads, dtype=working_dtype(keys))
