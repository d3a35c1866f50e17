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
from tokenmerge.backends.torch.attention import attention_weights
from tokenmerge.backends.torch.patching.families import Attention, CannotPatch, Network
from tokenmerge.backends.torch.patching.hooks import Hook, Patch
from tokenmerge.backends.torch.patching.method import Method
from tokenmerge.backends.torch.patching.state import Call
from tokenmerge.backends.torch.vit import sample, take_queries
from tokenmerge.spec.shared.arguments import check_integer

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
        row = attention_weights(query[:, :, :1], key, mask=call.mask)[:, :, 0]
        plan = sample(merger, row, value, self.prefix, call.mask)
        call.chosen = plan
        return parts.attend(module, take_queries(query, plan), key, value, x, plan, kwargs)

    def between(self, call: Call, x: Tensor) -> Tensor | None:
        if call.chosen is None:
            return None
        assert call.branch is not None
        return call.merge(call.chosen, x) + call.branch


class Attending(Hook):
    """Before a sampled attention: its `forward` below belongs to no module, and has to know for which it stands in."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.patch.thread.attending.append(module)


class SampledForward(Hook):
    """The `forward` of a sampled attention."""

    def __init__(self, patch: Patch, parts: Attention) -> None:
        super().__init__(patch)
        self.parts = parts

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = self.patch.thread.attending.pop()
        call, method = self.patch.running(), self.patch.method
        if call is not None and call.attention is module:
            assert isinstance(method, ATSPatch)
            named = dict(zip(self.parts.arguments, args, strict=False)) | kwargs
            out = method.sample(call, module, self.parts, named.pop(self.parts.arguments[0]), named)
            if out is not None:
                return out
        return type(module).forward(module, *args, **kwargs)


def attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float, scale: float | None
) -> Tensor:
    """Fused attention, in the precision of the module: `(B,H,P,d)` to `(B,P,H d)`."""
    seen = nn.functional.scaled_dot_product_attention(query, key, value, bias, dropout, scale=scale)
    return seen.transpose(1, 2).flatten(2)
