"""ATS in a model's own blocks (docs/ats.md): attention for the chosen queries only.

Here the attention module's `forward` cannot be kept: it makes as many outputs as it is given tokens. So the sampled
blocks get another one, which runs the module's own parts in the same order and leaves out the queries that are not
chosen. The N x N attention is never computed; what is written out is the class token's row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tokenmerge.backends.torch.ats import ATS
from tokenmerge.backends.torch.attention import class_row
from tokenmerge.backends.torch.patching.families import Attention, CannotPatch, Network
from tokenmerge.backends.torch.patching.method import Method
from tokenmerge.backends.torch.patching.state import Call
from tokenmerge.backends.torch.plan import SelectionPlan
from tokenmerge.backends.torch.vit import sample, take_queries
from tokenmerge.spec.shared.arguments import check_integer, shown

Tensor = torch.Tensor


class ATSPatch(Method):
    """At most so many tokens in the first, second, ... block, class, distillation and register tokens not counted.

    Args:
        network: what is patched.
        max_tokens: one budget for each of the first blocks; a block with no more tokens keeps all.
        score: "per_head" or "concat".

    Raises:
        TypeError, ValueError: a budget below one, more of them than blocks, another score.
        CannotPatch: a network without a class token, or whose attention has a `forward` of its own.
    """

    NAME = "ats"
    OPTIONS = ("max_tokens", "score")
    NEEDED = ("max_tokens",)

    def __init__(self, network: Network, *, max_tokens: Sequence[int], score: str = "per_head") -> None:
        if not isinstance(max_tokens, (list, tuple, range)):
            raise TypeError(f"patch: `max_tokens` must be a list of integers >= 1, got {shown(max_tokens)}")
        depth, budgets = len(network.blocks), list(max_tokens)
        for budget in budgets:
            check_integer("patch", "max_tokens", budget, minimum=1)
        if len(budgets) > depth:
            raise ValueError(f"patch: `max_tokens` must have at most {depth} entries, got {len(budgets)}")
        if not network.class_token:
            raise CannotPatch(
                "patch: `model` must have a class token for 'ats', whose attention is the score, "
                f"got {network.name} without one"
            )
        self.prefix = network.prefix
        self.mergers = [ATS(budget, score) for budget in budgets]
        self.sampled = frozenset(range(len(budgets)))

    def sample(self, call: Call, module: nn.Module, parts: Attention, x: Tensor, kwargs: dict[str, Any]) -> Any:
        """What attention returns for the chosen queries; None if this block keeps all."""
        merger = self.mergers[len(call.plans) - 1]
        if x.shape[1] - self.prefix <= merger.max_tokens:
            return None
        query, key, value = parts.heads(module, x, kwargs)
        row = class_row(query, key, mask=call.mask)
        plan = call.known_plan or sample(merger, row, value, self.prefix, call.mask)
        assert isinstance(plan, SelectionPlan)
        call.chosen = plan
        return parts.attend(module, take_queries(query, plan), key, value, x, plan, kwargs)

    def expects(self, call: Call, num_tokens: int) -> bool:
        index = len(call.plans) - 1
        return index < len(self.mergers) and num_tokens - self.prefix > self.mergers[index].max_tokens

    def between(self, call: Call, x: Tensor) -> Tensor | None:
        if call.chosen is None:
            return None
        assert call.branch is not None
        rest = call.parts.attention_rest
        branch = call.branch if rest is None else rest(call.block, call.branch)
        return call.merge(call.chosen, x) + branch


def attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float, scale: float | None
) -> Tensor:
    """Fused attention, in the precision of the module: `(B,H,P,d)` to `(B,P,H d)`."""
    seen = nn.functional.scaled_dot_product_attention(query, key, value, bias, dropout, scale=scale)
    return seen.transpose(1, 2).flatten(2)
