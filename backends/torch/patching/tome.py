"""ToMe in a model's own blocks (docs/tome.md): by the keys of attention, between attention and MLP."""

from __future__ import annotations

import math
from fractions import Fraction

import torch

from tokenmerge.backends.torch import tome
from tokenmerge.backends.torch.patching.families import Network
from tokenmerge.backends.torch.patching.method import Method, check_around, check_prefix
from tokenmerge.backends.torch.patching.state import Call
from tokenmerge.backends.torch.plan import Plan
from tokenmerge.backends.torch.precision import working_dtype
from tokenmerge.spec.shared.arguments import check_choice, check_flag, check_integer
from tokenmerge.spec.shared.schedule import merge_schedule, tokens_removed

Tensor = torch.Tensor
R = int | float | tuple[int, float] | list[int]


class ToMePatch(Method):
    """`r` tokens fewer in every block, or a schedule; proportional attention from the first merge on.

    Args:
        network: what is patched.
        r: as in `tokenmerge.merge_schedule`; a float in (0, 0.5] is the share of the tokens that may merge, in
            every block.
        tokens_out: in place of `r`: how many tokens leave the last block, the steps spread over the blocks.
        prop_attn: whether `log size` is added to the attention logits; for weights that were trained with labels and
            without merging, and not for those of MAE off the shelf.
        order: of the tokens that come out, see `tokenmerge.backends.torch.tome.plan`.
        protected: leading tokens that never merge; None for the network's class, distillation and register tokens.
        around: None, "mlp" or "block": where the plan acts.

    Raises:
        TypeError, ValueError: an option of the wrong type, longer than the network or larger than it can take.
    """

    NAME = "tome"
    OPTIONS = ("r", "tokens_out", "prop_attn", "order", "protected", "around")

    def __init__(
        self,
        network: Network,
        *,
        r: R | None = None,
        tokens_out: int | None = None,
        prop_attn: bool = True,
        order: str = "grouped",
        protected: int | None = None,
        around: str | None = None,
    ) -> None:
        check_flag("patch", "prop_attn", prop_attn)
        check_choice("patch", "order", order, ("grouped", "positional", "score"))
        self.around = check_around(around, None)
        self.keys = self.reads_between = self.around != "block"
        self.depth = len(network.blocks)
        self.proportional, self.order = prop_attn and self.around != "mlp", order
        self.protected = check_prefix(protected, network)
        if tokens_out is None:
            if r is None:
                raise TypeError("patch: `r` must be given with 'tome', got nothing")
            self.set_r(r, network.tokens)
        else:
            if r is not None:
                raise TypeError(f"patch: `r` must not be given with `tokens_out`, got {r!r}")
            self._set_tokens_out(tokens_out, network.tokens)

    @property
    def r(self) -> R | None:
        """Tokens to remove, as they were given; None with `tokens_out`."""
        return self._r

    def set_r(self, r: R, tokens: int | None) -> None:
        """Other tokens to remove, of an image of so many tokens; None if that is open."""
        share = Fraction(str(r)) if isinstance(r, float) and math.isfinite(r) else None
        if share is not None:
            if not 0 <= share <= Fraction(1, 2):
                raise ValueError(
                    f"patch: `r` must be a share between 0 and 0.5, an integer, a pair or a list, got {r!r}"
                )
            schedule: tuple[int, ...] = (0,) * self.depth
        else:
            schedule = merge_schedule(r, self.depth)  # type: ignore[arg-type]
            free = None if tokens is None else max(tokens - self.protected, 0)
            if free is not None and max(schedule) > free // 2:
                raise ValueError(
                    f"patch: `r` must be at most {free // 2}, half of the {free} tokens that may merge, got {r!r}"
                )
        self._r: R | None = r
        self._share, self.schedule, self._tokens_out = share, schedule, 0

    def _set_tokens_out(self, tokens_out: int, tokens: int | None) -> None:
        hint = "the tokens that never merge, and one more"
        check_integer("patch", "tokens_out", tokens_out, minimum=self.protected + 1, hint=hint)
        self._r, self._share = None, None
        self.schedule, self._tokens_out = (0,) * self.depth, int(tokens_out)
        if tokens is None:
            return
        left = tokens
        for index in range(self.depth):
            left -= self.removed(left, index)
        if left > tokens_out and self.around is None:
            raise ValueError(
                f"patch: `tokens_out` must be at least {left}, which {self.depth} blocks can leave of {tokens} tokens, "
                f"got {tokens_out}"
            )

    def removed(self, num_tokens: int, index: int) -> int:
        """How many of its tokens a block removes."""
        r = self.schedule[index]
        if self._tokens_out:
            r = self._step(num_tokens - self.protected, self._tokens_out - self.protected, self.depth - index)
        elif self._share is not None:
            r = self._share.numerator * (num_tokens - self.protected) // self._share.denominator
        return tokens_removed(num_tokens, r, self.protected)

    @staticmethod
    def _step(free: int, wanted: int, blocks: int) -> int:
        """Tokens to remove now: an even share of what is too many, or more where the blocks left can only halve."""
        return max(-(-(free - wanted) // blocks), free - wanted * 2 ** (blocks - 1), 0)

    def expects(self, call: Call, num_tokens: int) -> bool:
        return self.reads_between and self._removal(call, num_tokens) > 0

    def _removal(self, call: Call, num_tokens: int) -> int:
        """What the running block removes; its hooks ask four times."""
        if call.removal is None:
            call.removal = self.removed(num_tokens, len(call.plans) - 1)
        return call.removal

    def between(self, call: Call, x: Tensor) -> Tensor | None:
        r = self._removal(call, x.shape[1])
        if r == 0:
            return None
        if call.keys is None:
            raise RuntimeError(
                "patch: the keys of a patched attention must be made by the part that was hooked, got a block that "
                "made none (patch it again)"
            )
        return self.merge(call, self._plan(call, call.keys, r), x)

    def plan_of_input(self, call: Call, x: Tensor) -> Plan | None:
        r = self.removed(x.shape[1], len(call.plans) - 1)
        return self._plan(call, x, r) if r else None

    def _plan(self, call: Call, metric: Tensor, r: int) -> Plan:
        return call.known_plan or tome.plan(metric, r=r, protected=self.protected, order=self.order, mask=call.mask)


def mean_key(keys: Tensor, heads: int) -> Tensor:
    """Keys averaged over the axis `heads`, in working precision."""
    return keys.mean(dim=heads, dtype=working_dtype(keys))
