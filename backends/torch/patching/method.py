"""What the four mergers have in common when they work inside somebody else's model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tokenmerge.backends.torch.patching.families import Attention, CannotPatch, Network
from tokenmerge.backends.torch.patching.state import Call
from tokenmerge.backends.torch.plan import Plan
from tokenmerge.spec.shared.arguments import check_choice, check_integer

if TYPE_CHECKING:
    from tokenmerge.backends.torch.merger import Merger

Tensor = torch.Tensor


class Method:
    """A merger with its options for every block.

    Attributes:
        NAME: of the merger. OPTIONS: that `patch` takes for it. NEEDED: those that have no default.
        given: the options as they were given.
        keys: whether it reads the keys of attention.
        proportional: whether attention counts a token as often as it has patches.
        sampled: the blocks whose attention is for chosen queries only.
        around: None where plans act on the stream, "mlp" or "block" where they act around that branch of it.
        AROUND: the same where nothing is said.
        chained: whether a block hands something to the next that has a gradient and is not in the tokens.
        reads_between: whether it does anything between attention and MLP.
    """

    NAME: str
    OPTIONS: tuple[str, ...]
    NEEDED: tuple[str, ...] = ()
    AROUND: str | None = None
    given: dict[str, Any]
    keys = False
    proportional = False
    sampled: frozenset[int] = frozenset()
    around: str | None = None
    chained = False
    reads_between = True

    def __init__(self, network: Network, **options: Any) -> None:
        raise NotImplementedError

    def modules(self) -> dict[int, Merger]:
        """Mergers with parameters, by the block that they become a part of (under the name `merger`)."""
        return {}

    def expects(self, call: Call, num_tokens: int) -> bool:
        """Whether the running block has to merge, given so many tokens."""
        return False

    def before(self, call: Call, x: Tensor) -> Tensor:
        """Before the block: its input `(B,N,C)`, or what is made of it."""
        plan = self.plan_of_input(call, x) if self.around == "block" else None
        if plan is None:
            return x
        call.plans[-1], call.stream = plan, x
        call.merged, call.size = plan.merge_both(x)
        return call.merged

    def plan_of_input(self, call: Call, x: Tensor) -> Plan | None:
        """The plan around a block, from its input `(B,N,C)`; None where it merges nothing."""
        raise NotImplementedError

    def between(self, call: Call, x: Tensor) -> Tensor | None:
        """Between attention and MLP: the merged tokens of `x (B,N,C)`, or None if they stay as they are."""
        return None

    def merge(self, call: Call, plan: Plan, x: Tensor) -> Tensor:
        """`W x` of the stream, which is what goes on, or which only the MLP gets."""
        if self.around is None:
            return call.merge(plan, x)
        call.plans[-1], call.stream = plan, x
        return plan.merge(x)

    def joined(self, call: Call) -> Tensor:
        """After the MLP: `y + f(y)`, or `x1 + U f(y)` around it."""
        assert call.merged is not None and call.mlp is not None
        if self.around is None:
            return call.merged + call.mlp
        plan = call.plans[-1]
        assert plan is not None and call.stream is not None
        return call.stream + plan.unmerge(call.mlp)

    def after(self, call: Call, x: Tensor) -> Tensor:
        """After the block: its output `(B,N,C)`, or what is made of it: `x + U (b(W x) - W x)` around it."""
        plan = call.plans[-1]
        if self.around != "block" or plan is None:
            return x
        assert call.stream is not None and call.merged is not None
        call.size = None
        return call.stream + plan.unmerge(x - call.merged)

    def sample(self, call: Call, module: nn.Module, parts: Attention, x: Tensor, kwargs: dict[str, Any]) -> Any:
        """What a sampled attention returns for the chosen queries; None if its block keeps all."""
        return None


def check_around(around: Any, default: str | None) -> str | None:
    """`around`, or the merger's own.

    Raises:
        TypeError, ValueError: another word.
    """
    if isinstance(around, str) and around == "default":
        return default
    if around is not None:
        check_choice("patch", "around", around, ("mlp", "block"))
    return str(around) if around else None


def check_prefix(protected: Any, network: Network) -> int:
    """`protected`, or the network's own number of tokens in front, which is the least.

    Raises:
        TypeError, ValueError: fewer than that, or no integer.
    """
    if protected is None:
        return network.prefix
    hint = f"the tokens in front of the patches of {network.name}, which has to find them there"
    check_integer("patch", "protected", protected, minimum=network.prefix, hint=hint)
    return int(protected)


def placed(merger: Merger, block: nn.Module) -> Merger:
    """A new merger with the device, dtype and mode of the block that it goes into.

    Raises:
        CannotPatch: somebody around the block holds its parameters.
    """
    like = next(block.parameters(), None)
    if like is None:
        raise CannotPatch(
            f"patch: `model` must have parameters in its blocks, to put a merger beside them, got "
            f"{type(block).__name__} without (FSDP that keeps them all in one hides them: patch, and wrap that)"
        )
    return merger.to(device=like.device, dtype=like.dtype).train(block.training)
