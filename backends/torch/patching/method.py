"""What the four mergers have in common when they work inside somebody else's model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tokenmerge.backends.torch.patching.families import Network
from tokenmerge.backends.torch.patching.state import Call
from tokenmerge.spec.shared.arguments import check_integer

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
    """

    NAME: str
    OPTIONS: tuple[str, ...]
    NEEDED: tuple[str, ...] = ()
    given: dict[str, Any]
    keys = False
    proportional = False
    sampled: frozenset[int] = frozenset()

    def __init__(self, network: Network, **options: Any) -> None:
        raise NotImplementedError

    def modules(self) -> dict[int, Merger]:
        """Mergers with parameters, by the block that they become a part of (under the name `merger`)."""
        return {}

    def between(self, call: Call, x: Tensor) -> Tensor | None:
        """Between attention and MLP: the merged tokens of `x (B,N,C)`, or None if they stay as they are."""
        return None

    def after(self, call: Call, x: Tensor) -> Tensor:
        """After the block: its output `(B,N,C)`, or what is made of it."""
        return x


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
    """A new merger with the device, dtype and mode of the block that it goes into."""
    like = next(block.parameters())
    return merger.to(device=like.device, dtype=like.dtype).train(block.training)
