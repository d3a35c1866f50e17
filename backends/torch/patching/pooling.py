"""Pooling that counts a merged token as often as it has patches.

A network that pools in a method of its own gets another one there. One that pools in the middle of a function cannot be
reached; but what it pools goes into a module, and the hook in front of that puts the pooled tokens, weighted by size,
in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tokenmerge.backends.torch.patching.bias import attention_dtype, key_bias
from tokenmerge.backends.torch.patching.hook import Hook, Patch
from tokenmerge.backends.torch.patching.parts import BEFORE
from tokenmerge.backends.torch.patching.state import Call, Last, returned
from tokenmerge.backends.torch.plan import Plan, SelectionPlan
from tokenmerge.backends.torch.pooling import mean_pool

Tensor = torch.Tensor


@dataclass
class Counts:
    """What is known of tokens that are to be pooled.

    Attributes:
        size: `(B,N)` or None where each counts one; mask: `(B,N)` bool or None where all are real.
        replaced: whether they are PatchMerger's, with no tokens in front.
    """

    size: Tensor | None
    mask: Tensor | None
    replaced: bool = False

    def after(self, x: Tensor, skip: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Tokens, sizes and mask without the tokens in front; PatchMerger has left none of these."""
        start = 0 if self.replaced else skip
        size, mask = (None if each is None else each[:, start:] for each in (self.size, self.mask))
        return x[:, start:], size, mask

    def mean(self, x: Tensor, skip: int) -> Tensor:
        """The mean `(B,C)` of the tokens after the first `skip`, weighted by size."""
        x, size, mask = self.after(x, skip)
        return x.mean(dim=1) if size is mask is None else mean_pool(x, size=size, mask=mask)

    def max(self, x: Tensor, skip: int) -> Tensor:
        """The maximum `(B,C)` of the real tokens after the first `skip`."""
        x, _, mask = self.after(x, skip)
        return (x if mask is None else torch.where(mask[:, :, None], x, -torch.inf)).amax(dim=1)

    def pooled(self, how: str, x: Tensor, skip: int) -> Tensor:
        """timm's "avg", "max" or "avgmax"."""
        if how == "avg":
            return self.mean(x, skip)
        largest = self.max(x, skip)
        return largest if how == "max" else 0.5 * (largest + self.mean(x, skip))

    def bias(self, x: Tensor) -> Tensor | None:
        """Sizes and padding as a bias of keys that are made of `x`, the last of the tokens."""
        size, mask = (
            None if each is None else each[:, each.shape[1] - x.shape[1] :] for each in (self.size, self.mask)
        )
        return key_bias(size, mask, attention_dtype(x))


Pooling = Callable[..., Any]


def counted(patch: Patch, x: Tensor) -> Counts | None:
    """What is known of the tokens `x` that a network pools; None where they are all there.

    Raises:
        RuntimeError: they are as few as merged ones, and none that the last call gave.
    """
    thread = patch.thread
    call = thread.call()
    if call is not None and call.started:
        return counts_of(call, x)
    last = thread.last
    if last.given is not None and last.given() is x:
        return counts_of(last, x)
    if last.merged_any and x.shape[1] != last.num_tokens_in:
        raise RuntimeError(
            "patch: the head of a patched model must be given the tokens of the last call, whose sizes are known, or "
            f"all of them, got {x.shape[1]} others"
        )
    return None


def counts_of(call: Call | Last, x: Tensor) -> Counts | None:
    """What a call knows of its tokens after the last block."""
    if not call.merged_any:
        return None
    if call.whole is not None and x.shape[1] == call.num_tokens_in:
        there = [each for each in (kept(call.whole), call.real) if each is not None]
        return Counts(None, there[0] & there[-1] if there else None)
    return Counts(call.size, call.mask, call.replaced)


def kept(plan: Plan) -> Tensor | None:
    """`(B,N)` bool, which tokens were not dropped; None where all are there."""
    if not isinstance(plan, SelectionPlan):
        return None
    return plan.matrix().sum(dim=1) > 0


class Pool(Hook):
    """Base of the hooks below, in front of a part: finds out whether there is anything to do."""

    where = BEFORE
    name = "tokenmerge.pool"

    def call(self) -> tuple[Call, Tensor, Counts] | None:
        """The call whose tokens are pooled, these, and what is known of them; None if nothing was merged, or if the
        part runs alone and uses what it is given."""
        thread = self.patch.thread
        call = thread.call()
        if call is None and thread.readers:
            call = thread.readers[-1].call
        if call is None or not call.started or call.tokens is None:
            return None
        x = call.tokens
        counts = counts_of(call, x)
        return None if counts is None else (call, x, counts)


class TimmPool(Pool):
    """Before a norm or a classifier: the mean, the maximum, or both halves, of the tokens after those in front."""

    def __init__(self, patch: Patch, how: str, skip: int) -> None:
        super().__init__(patch)
        self.how, self.skip = how, skip

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        found = self.call()
        if found is None:
            return None
        _, x, counts = found
        return (counts.pooled(self.how, x, self.skip), *args[1:]), kwargs


class ProbePool(Pool):
    """Before the `nn.MultiheadAttention` of a pooling head: keys are biased by size."""

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        found = self.call()
        if found is None:
            return None
        bias = found[2].bias(args[1])
        return args, kwargs | {"key_padding_mask": None if bias is None else bias[:, 0, 0]}


class HeadMask(Pool):
    """Before a pooling head that is given the mask of all tokens: of merged ones, the hook inside of it knows."""

    name = "tokenmerge.head_mask"

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        found = self.call()
        if found is None or len(args) < 2 or args[1] is None or args[0].shape[1] == args[1].shape[1]:
            return None
        return (args[0], None, *args[2:]), kwargs


class MeanPool(Pool):
    """Before a part that is given the mean of the tokens from `skip` on, after the class token if it reads both.

    If it is `alone` the part is linear, is given all tokens, and the mean comes after it: then the mean goes in as the
    only token.
    """

    def __init__(self, patch: Patch, skip: int, with_class: bool = False, alone: bool = False) -> None:
        super().__init__(patch)
        self.skip, self.with_class, self.alone = skip, with_class, alone

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        found = self.call()
        if found is None:
            return None
        _, x, counts = found
        pooled = counts.mean(x, self.skip)
        if self.with_class:
            pooled = torch.cat([x[:, 0], pooled], dim=1)
        if self.alone:
            pooled = pooled[:, None]
        return (pooled, *args[1:]), kwargs


class Tokens(Hook):
    """After the last norm: the tokens that are pooled; padding is zero."""

    where, name = "_forward_hooks", "tokenmerge.tokens"

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        thread = self.patch.thread
        call: Call | Last | None = thread.call()
        if call is None:
            last = thread.last
            call = last if last.given is not None and last.given() is args[0] else None
        elif not (isinstance(call, Call) and call.started):
            return None
        if call is None or output.ndim != 3:
            return None
        mask = call.mask
        if mask is not None and call.merged_any and mask.shape[1] == output.shape[1]:
            output = torch.where(mask[:, :, None], output, 0)
        if isinstance(call, Last):
            call.given = returned(output)
        elif len(call.plans) == self.patch.depth:
            call.tokens = output
            thread.last.given = returned(output)
        return output
