"""Pooling that counts a merged token as often as it has patches.

A model pools in a function of its own, which a hook cannot reach. But what it pools goes into a module: the hook in
front of that puts the pooled tokens, weighted by size, in its place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tokenmerge.backends.torch.patching.hooks import Hook, Patch, bias_of
from tokenmerge.backends.torch.patching.state import Call
from tokenmerge.backends.torch.pooling import mean_pool

Tensor = torch.Tensor


class Pool(Hook):
    """Base of the hooks below: finds out whether there is anything to do."""

    def merged_call(self) -> Call | None:
        """The call whose tokens are pooled, if any were merged.

        Raises:
            RuntimeError: the head runs alone, on tokens of which nobody knows the sizes any more.
        """
        thread = self.patch.thread
        call = thread.call()
        if call is None or not call.started:
            if any(plan is not None for plan in thread.last.plans):
                raise RuntimeError(
                    "patch: the head of a patched model must run in the same call as its blocks, which know how many "
                    "patches are in a token, got a call of its own"
                )
            return None
        return call if any(plan is not None for plan in call.plans) else None


class TimmPool(Pool):
    """Before timm's `fc_norm`: the mean, the maximum, or both halves, of the tokens after those in front."""

    def __init__(self, patch: Patch, how: str, skip: int) -> None:
        super().__init__(patch)
        self.how, self.skip = how, skip

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        call = self.merged_call()
        if call is None:
            return None
        if self.how == "avg":
            return (mean_tokens(call, self.skip), *args[1:]), kwargs
        largest = max_tokens(call, self.skip)
        pooled = largest if self.how == "max" else 0.5 * (largest + mean_tokens(call, self.skip))
        return (pooled, *args[1:]), kwargs


class AttentionPool(Pool):
    """Before timm's attention pooling: keys are biased by size."""

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        call = self.merged_call()
        if call is None:
            return None
        x = args[0]
        if call.replaced:
            assert call.tokens is not None
            x = call.tokens
        return (x, *args[1:]), kwargs | {"attn_mask": bias_of(call, True, x)}


class ProbePool(Pool):
    """Before the `nn.MultiheadAttention` of a pooling head: keys are biased by size."""

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        call = self.merged_call()
        if call is None:
            return None
        bias = bias_of(call, True, args[1])
        return args, kwargs | {"key_padding_mask": None if bias is None else bias[:, 0, 0]}


class MeanPool(Pool):
    """Before a classifier that reads the mean of the tokens from `skip` on, after the class token if it reads both."""

    def __init__(self, patch: Patch, skip: int, with_class: bool = False) -> None:
        super().__init__(patch)
        self.skip, self.with_class = skip, with_class

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        call = self.merged_call()
        if call is None:
            return None
        pooled = mean_tokens(call, self.skip)
        if self.with_class:
            assert call.tokens is not None
            pooled = torch.cat([call.tokens[:, 0], pooled], dim=1)
        return (pooled, *args[1:]), kwargs


def mean_tokens(call: Call, skip: int) -> Tensor:
    """The mean `(B,C)` of the tokens after the first `skip`, weighted by size."""
    x, size, mask = after(call, skip)
    return x.mean(dim=1) if size is mask is None else mean_pool(x, size=size, mask=mask)


def max_tokens(call: Call, skip: int) -> Tensor:
    """The maximum `(B,C)` of the real tokens after the first `skip`."""
    x, _, mask = after(call, skip)
    return (x if mask is None else torch.where(mask[:, :, None], x, -torch.inf)).amax(dim=1)


def after(call: Call, skip: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Tokens, sizes and mask without the tokens in front; PatchMerger has left none of these."""
    assert call.tokens is not None
    start = 0 if call.replaced else skip
    size, mask = (None if each is None else each[:, start:] for each in (call.size, call.mask))
    return call.tokens[:, start:], size, mask
