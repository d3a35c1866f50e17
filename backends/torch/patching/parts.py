"""The hooks on the parts of a block. They hold no tensor and no module, and find their call on a stack of the thread:
so a model with hooks can be copied, pickled, replicated and compiled.

Each has a name of its own in the module's dictionary of hooks. So a part that somebody has replaced after `patch` (an
adapter on the keys, another norm) is known by the name that is missing, and hooked before the block runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tokenmerge.backends.torch import observers
from tokenmerge.backends.torch.patching.hook import Hook, Patch
from tokenmerge.backends.torch.precision import exporting

if TYPE_CHECKING:
    from tokenmerge.backends.torch.patching.block import BlockRole

Tensor = torch.Tensor
BEFORE, AFTER = "_forward_pre_hooks", "_forward_hooks"
MARKS = ("_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")


class Keys(Hook):
    """After the part of attention that gives the keys."""

    where, name = AFTER, "tokenmerge.keys"

    def __init__(self, patch: Patch, metric: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__(patch)
        self.metric = metric

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        call = self.patch.running()
        if call is not None and call.attention is not None and self.patch.method.expects(call, call.num_tokens_here):
            call.keys = self.metric(call.attention, output)


class AttentionEnd(Hook):
    """After attention's branch: of chosen tokens only, it does not fit the block's own sum and waits."""

    where, name = AFTER, "tokenmerge.attention_end"

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        call = self.patch.running()
        if call is None or call.chosen is None or call.branch is not None:
            return None
        call.branch = first(output)
        if exporting() and not module.training:  # a constant, with which the sum goes away; training asks for its axes
            return with_first(output, torch.scalar_tensor(0, dtype=call.branch.dtype, device=call.branch.device))
        return with_first(output, zero(call.branch))


class Between(Hook):
    """Before the norm between attention and MLP: merge, and let the MLP have the merged tokens."""

    where, name = BEFORE, "tokenmerge.between"

    def __call__(self, module: nn.Module, args: Any) -> Any:
        call = self.patch.running()
        if call is None or call.between:
            return None
        call.between = True
        call.merged = self.patch.method.between(call, args[0])
        return None if call.merged is None else (call.merged, *args[1:])


class MlpEnd(Hook):
    """After the MLP's branch: of merged tokens, it does not fit the block's own sum and waits."""

    where, name = AFTER, "tokenmerge.mlp_end"

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        call = self.patch.running()
        if call is None or call.merged is None or call.mlp is not None:
            return None
        call.mlp = first(output)
        return with_first(output, zero(call.mlp))


def parts_of(role: BlockRole) -> Iterator[tuple[str, Any]]:
    """For a block the names of its parts, and the kinds of their hooks."""
    method, parts = role.patch.method, role.parts
    if method.keys and role.of_attention.keys:
        yield f"{parts.attention}.{role.of_attention.keys}".removeprefix("."), Keys
    if role.index in method.sampled:
        yield parts.attention_end, AttentionEnd
    if method.reads_between and parts.norm:
        yield parts.norm, Between
        yield parts.mlp_end, MlpEnd


def holds_parts(block: nn.Module, role: BlockRole) -> bool:
    """Whether all parts of a block have their hooks."""
    if not observers.is_compiling():  # the same without a function call for every name
        for names, where, name in role.wanted:
            part: Any = block
            for each in names:
                part = part._modules.get(each)
                if part is None:
                    return False
            hooks = part.__dict__[where]
            if name not in hooks or (len(hooks) > 1 and not is_placed(hooks, where, name)):
                return False
        return True
    for path, kind in parts_of(role):
        hooks = getattr(block.get_submodule(path), kind.where)
        if kind.name not in hooks or not is_placed(hooks, kind.where, kind.name):
            return False
    return True


def is_placed(hooks: Any, where: str, name: str) -> bool:
    """Whether a hook is where no other one sees what is not merged yet, or a zero that stands for something else; only
    ours, of which a part may have two, have names and no numbers."""
    names = list(hooks)
    at = names.index(name)
    return all(isinstance(each, str) for each in (names[:at] if where == BEFORE else names[at + 1 :]))


def hook_parts(block: nn.Module, role: BlockRole) -> None:
    """Put the hooks on the parts that lack them. A part that is around one with a hook takes it over."""
    for path, kind in parts_of(role):
        part = block.get_submodule(path)
        if kind.name in getattr(part, kind.where):
            place(getattr(part, kind.where), kind.where, kind.name)
        else:
            for inner in part.modules():
                unhook(inner, kind.name, role.patch)
            hook = kind(role.patch, role.of_attention.metric) if kind is Keys else kind(role.patch)
            hook_part(part, hook)


def hook_part(part: nn.Module, hook: Any, kwargs: bool = False) -> None:
    """Put a hook on a module, under the hook's own name."""
    hooks = getattr(part, hook.where)
    hooks[hook.name] = hook
    place(hooks, hook.where, hook.name)
    if kwargs:
        getattr(part, f"{hook.where}_with_kwargs")[hook.name] = True


def place(hooks: Any, where: str, name: str) -> None:
    """Our hook in front of a part is the first, and behind it the last, whoever comes later."""
    hooks.move_to_end(name, last=where == AFTER)


def unhook(module: nn.Module, name: str | None, patch: Patch) -> None:
    """Take one hook of a patch off, or all of them."""
    for hooks in (getattr(module, BEFORE), getattr(module, AFTER)):
        for key in [key for key, hook in hooks.items() if isinstance(hook, Hook) and hook.patch is patch]:
            if name is None or key == name:
                del hooks[key]
                for mark in MARKS:
                    getattr(module, mark).pop(key, None)


def zero(like: Tensor) -> Tensor:
    """A zero that can be added to tokens of any number."""
    return like.new_zeros((1, 1, 1))


def first(output: Any) -> Any:
    """The tokens in what a module returned."""
    return output[0] if isinstance(output, tuple) else output


def with_first(output: Any, tokens: Tensor) -> Any:
    """What a module returned, with other tokens."""
    return (tokens, *output[1:]) if isinstance(output, tuple) else tokens
