"""Who reads the tokens of a patched network: looked at when a call ends, in everything that called the network.

A reader is known by its `forward`. What is not known is told what it gets, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from tokenmerge.backends.torch import observers
from tokenmerge.backends.torch.patching.families import CannotPatch
from tokenmerge.backends.torch.patching.hook import PATCHES, Hook, Patch
from tokenmerge.backends.torch.patching.marks import role_of
from tokenmerge.backends.torch.patching.state import Call

# What a reader does with the tokens:
CLASS = "class"  # reads the class token, or what the network makes of it
POOLS = "pools"  # pools by itself, by a hook of ours
GRID = "grid"  # lays them out on a grid
DECODES = "decodes"  # attends to all of them in a decoder, by a hook of ours
TEXT = "text"  # puts them into a text, where there has to be room for as many
# by the full name of a `forward`; of some it depends on the module. The families fill it in
READERS: dict[str, str | Callable[[Any], str]] = {}

# packages whose modules pass on what they are given
WRAPPERS = (
    *(f"torch.{package}" for package in ("nn.parallel", "distributed", "fx", "jit", "onnx", "export", "_export")),
    *("torch._dynamo", "torch._functorch", "accelerate", "peft", "lightning", "pytorch_lightning"),
)


def reader(module: nn.Module) -> str | None:
    """What a module does with the tokens; "" if it passes them on, None if nobody knows."""
    kind = type(module)
    for each in kind.__mro__:
        if "forward" in each.__dict__:
            function: Any = each.__dict__["forward"]
            while hasattr(function, "__wrapped__"):
                function = function.__wrapped__
            name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
            if name in READERS:
                known = READERS[name]
                return known if isinstance(known, str) else known(module)
            break
    return "" if f"{kind.__module__}.".startswith(tuple(f"{package}." for package in WRAPPERS)) else None


def around(model: nn.Module, network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules of a model that a network is a part of, the outermost first, itself left out."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if module is not network and any(part is network for part in module.modules())
    ]


def check_around(modules: list[tuple[str, nn.Module]], restore: bool) -> None:
    """The modules around a network when it is patched.

    Raises:
        CannotPatch: one lays the tokens out on a grid.
    """
    for _, module in modules:
        if reader(module) == GRID and not restore:
            raise CannotPatch(
                f"patch: `model` must not need its tokens on the grid, got {type(module).__name__} (patch with "
                "restore=True, or patch the network inside and `unmerge` what comes out)"
            )


def check_readers(patch: Patch, call: Call, output: Any) -> None:
    """The modules around a network when a call of it ends.

    Raises:
        RuntimeError: one of them would read something else than it takes it for.
    """
    if not call.merged_any or patch.restore or not call.counts:
        return
    count = call.counts[-1]
    if not any(tensor.ndim > 2 and tensor.shape[1] == count for tensor in tensors(output)):
        return
    _look(id(patch), count, call.num_tokens_in, call.replaced, call.mask is not None)


def _look(identity: int, count: int, before: int, replaced: bool, padded: bool) -> None:
    patch = PATCHES[identity]
    for module in observers.callers():
        items = _items(module)
        if _is_ours(patch, module) or (items and all(_is_ours(patch, child) for child in items)):
            if getattr(role_of(module), "reads", False):
                return  # what is around it gets what it has made of the tokens
            continue
        kind, name = reader(module), type(module).__name__
        if kind == GRID:
            raise RuntimeError(
                f"patch: {name} lays tokens out on a grid, which merged tokens have left, and must be given restored "
                "ones (patch with restore=True)"
            )
        if kind == POOLS:
            raise RuntimeError(
                f"patch: {name} averages tokens by itself and must be patched, not what is inside, so that a token "
                "counts as often as it has patches"
            )
        if kind == CLASS and replaced:
            raise RuntimeError(f"patch: {name} reads a class token, which 'patch_merger' leaves none of")
        if kind == DECODES:
            if padded and not _is_masked(patch, module):
                raise RuntimeError(
                    f"patch: {name} attends to all tokens, some of which are padding, and must be patched, not what is "
                    "inside"
                )
            if not padded:
                patch.say(f"the decoder of {name} attends to {count} tokens in place of {before} and counts no sizes")
            return
        if kind == TEXT:
            patch.say(
                f"{name} puts {count} image tokens in place of {before} into its text: write that many placeholders "
                "into the prompt (the processor does not know of merging), or patch with restore=True, which gives it "
                "all of them"
            )
            return
        if kind == CLASS:
            return
        if kind is None:
            what = "mixtures of all tokens, none of them a class token" if replaced else "tokens of different sizes"
            patch.say(
                f"{name} receives {count} tokens in place of {before}: {what}"
                f"{', some of them padding' if padded else ''}, in no grid. Weight means by `handle.size`, or patch "
                "with restore=True"
            )


def _is_ours(patch: Patch, module: nn.Module) -> bool:
    role = role_of(module)
    return role is not None and role.patch is patch


def _is_masked(patch: Patch, module: Any) -> bool:
    hooks: list[Any] = list(module.decoder._forward_pre_hooks.values()) if hasattr(module, "decoder") else []
    return any(isinstance(hook, Hook) and hook.patch is patch for hook in hooks)


def _items(module: nn.Module) -> list[nn.Module]:
    """What a list or a sequence of blocks holds."""
    return list(module) if isinstance(module, nn.Sequential | nn.ModuleList) else []


_look._dynamo_marked_constant = True  # type: ignore[attr-defined]  # the compiler calls it, and does not read it


def tensors(output: Any) -> Iterator[torch.Tensor]:
    """The tensors in what a network returned."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from tensors(value)
