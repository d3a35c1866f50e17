"""The hooks that merge tokens inside a block, without a copy of its `forward`.

A block computes `x1 = x + attention(norm1(x))`, then `x1 + f(x1)` with `f = mlp(norm2(.))`. Wanted is `y + f(y)` with
`y = W x1`. So the norm is given `y` in place of `x1`; at the end of the branch `f(y)` is put aside and a zero goes on,
which the block adds to `x1`; and when the block returns, `y + f(y)` takes the place of that sum. Every part of the
block runs as it did, once.

Hooks are objects of classes at the top of a module, they hold no tensor and no module, and find their call on a stack
of the thread: so a model with hooks can be copied, pickled, replicated and compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tokenmerge.backends.torch.patching.bias import attention_dtype, key_bias
from tokenmerge.backends.torch.patching.method import Method
from tokenmerge.backends.torch.patching.state import Call, Thread

Tensor = torch.Tensor


class Patch:
    """What all hooks of one patched model share.

    Attributes:
        method: the merger and its options. depth: number of blocks. prefix: tokens in front of the patches.
        thread: the calls of each thread; a copy of the model begins with none.
    """

    def __init__(self, method: Method, depth: int, prefix: int) -> None:
        self.method, self.depth, self.prefix = method, depth, prefix
        self.thread = Thread()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "thread"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.thread = Thread()

    def running(self) -> Call | None:
        """The innermost call, if it is inside a block."""
        call = self.thread.call()
        return call if call is not None and call.inside else None


class Hook:
    """Base of all hooks; `patch` tells whose they are."""

    def __init__(self, patch: Patch) -> None:
        self.patch = patch


class Open(Hook):
    """Before a module that holds all blocks: a call begins."""

    def __call__(self, module: nn.Module, args: Any) -> None:
        if getattr(module, "grad_checkpointing", False) and torch.is_grad_enabled():
            refuse_checkpointing()
        self.patch.thread.open(module)


class Close(Hook):
    """After it, also after an exception: the call ends."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self.patch.thread.close(module)


class Enter(Hook):
    """Before a block, of which `merger` may be a part."""

    def __init__(self, patch: Patch, index: int, learned: bool) -> None:
        super().__init__(patch)
        self.index, self.learned = index, learned

    def __call__(self, module: nn.Module, args: Any) -> None:
        if getattr(module, "gradient_checkpointing", False) and module.training and torch.is_grad_enabled():
            refuse_checkpointing()
        call = self.patch.thread.next_block(self.index)
        if call is not None:
            call.enter(module)


class Attend(Hook):
    """Before attention: sizes and padding become a bias of the keys, a rotary table that of the tokens left."""

    def __init__(self, patch: Patch, mask: str, position: int | None) -> None:
        super().__init__(patch)
        self.mask, self.position = mask, position

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        call = self.patch.running()
        if call is None:
            return None
        call.attention = module
        if all(plan is None for plan in call.plans):
            return None
        x = args[0] if args else kwargs["hidden_states"]
        at = self.position
        given = args[at] if at is not None and len(args) > at else kwargs.get(self.mask)
        if given is not None or kwargs.get("is_causal"):
            raise ValueError(
                f"patch: `{self.mask}` must be None in a patched model, whose tokens no longer are the ones it names, "
                f"got {'a mask' if given is not None else 'is_causal=True'}"
            )
        kwargs = dict(kwargs)
        bias = bias_of(call, self.patch.method.proportional, x)
        if at is not None and len(args) > at:
            args = (*args[:at], bias, *args[at + 1 :])
        elif bias is not None or self.mask in kwargs:
            kwargs[self.mask] = bias
        if kwargs.get("rope") is not None:
            kwargs["rope"] = call.rotary(kwargs["rope"], x.shape[0])
        return args, kwargs


class Keys(Hook):
    """After the part of attention that gives the keys."""

    def __init__(self, patch: Patch, metric: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__(patch)
        self.metric = metric

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        call = self.patch.running()
        if call is not None and call.attention is not None:
            call.keys = self.metric(call.attention, output)


class AttentionEnd(Hook):
    """After attention's branch: of chosen tokens only, it does not fit the block's own sum and waits."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        call = self.patch.running()
        if call is None or call.chosen is None or call.branch is not None:
            return None
        call.branch = first(output)
        return with_first(output, zero(call.branch))


class Between(Hook):
    """Before the norm between attention and MLP: merge, and let the MLP have the merged tokens."""

    def __call__(self, module: nn.Module, args: Any) -> Any:
        call = self.patch.running()
        if call is None:
            return None
        call.merged = self.patch.method.between(call, args[0])
        return None if call.merged is None else (call.merged, *args[1:])


class MlpEnd(Hook):
    """After the MLP's branch: of merged tokens, it does not fit the block's own sum and waits."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        call = self.patch.running()
        if call is None or call.merged is None or call.mlp is not None:
            return None
        call.mlp = first(output)
        return with_first(output, zero(call.mlp))


class Leave(Hook):
    """After a block, also after an exception: what it returns is made of what waited."""

    def __init__(self, patch: Patch, index: int) -> None:
        super().__init__(patch)
        self.index = index

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        call = self.patch.running()
        if call is None or call.block is not module:
            return None
        if output is None:  # an exception is on its way out
            call.leave()
            self.patch.thread.drop_stale()
            return None
        x = first(output)
        if call.merged is not None:
            assert call.mlp is not None
            x = call.merged + call.mlp
        x = self.patch.method.after(call, x)
        call.tokens = x
        call.leave()
        if self.index == self.patch.depth - 1:
            self.patch.thread.last.keep(call)
            self.patch.thread.drop_stale()
        return with_first(output, x)


class Tokens(Hook):
    """After the last norm: the tokens that are pooled."""

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        call = self.patch.thread.call()
        if call is not None and call.started:
            call.tokens = output


def bias_of(call: Call, proportional: bool, x: Tensor) -> Tensor | None:
    """Sizes, if they count, and padding of the last tokens of a call, as a bias of the keys that are made of `x`."""
    size, mask = (None if each is None else each[:, each.shape[1] - x.shape[1] :] for each in (call.size, call.mask))
    return key_bias(size if proportional else None, mask, attention_dtype(x))


def zero(like: Tensor) -> Tensor:
    """A zero that can be added to tokens of any number."""
    return like.new_zeros((1, 1, 1))


def first(output: Any) -> Any:
    """The tokens in what a module returned."""
    return output[0] if isinstance(output, tuple) else output


def with_first(output: Any, tokens: Tensor) -> Any:
    """What a module returned, with other tokens."""
    return (tokens, *output[1:]) if isinstance(output, tuple) else tokens


def refuse_checkpointing() -> None:
    """Gradient checkpointing runs blocks again, one by one and outside of the call."""
    raise RuntimeError(
        "patch: gradient checkpointing must be off in a patched model while gradients are recorded, because it runs "
        "each block again without the blocks before it"
    )
