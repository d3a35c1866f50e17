"""Mergers in models that people already have: timm and transformers (docs/guides/timm.md, huggingface.md)."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from tokenmerge.backends.torch.patch import hooks
from tokenmerge.backends.torch.patch.families import find
from tokenmerge.backends.torch.patch.handle import Handle
from tokenmerge.backends.torch.patch.merging import learned, resolve
from tokenmerge.backends.torch.patch.state import Run

__all__ = ["Handle", "patch"]


def patch(model: nn.Module, name: str, **config: Any) -> Handle:
    """Put a merger into every block of a vision transformer that was built by timm or transformers.

    The model's own code keeps running: its parts are hooked, nothing is replaced. LayerScale, norms of queries and
    keys, drop path, rotary embeddings and fused attention stay as they are. No call knows of another.

    Args:
        model: a vision transformer, or a module that holds one. timm: `VisionTransformer` and what is built from it
            (ViT, DeiT, DINOv2, CLIP and SigLIP towers) and `Eva`; transformers: ViT, DeiT, DINOv2, CLIP and SigLIP.
        name: "tome", "ats", "patch_merger" or "ltm".
        **config: the options of `ToMeMerging` (`r`, ...), `AtsMerging`, `PatchMergerMerging` or `LtmMerging`. Learned
            mergers become `block.merger`, with parameters that an optimizer and a state dict see.

    Returns:
        A `Handle`: `.plans`, `.source()`, `.unmerge(tokens)`, `.r`, `.remove()`; also a context manager.

    Raises:
        TypeError, ValueError: a model that cannot be patched (the sentence names the block), or an option that is
            unknown, out of range or more than the network can take. The model is untouched then.

    Sources: ToMe (arXiv 2210.09461), ATS (2111.15667), PatchMerger (2202.12015), LTM (2407.15219).

    >>> import torch, timm
    >>> model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3, num_classes=10).eval()
    >>> handle = patch(model, "tome", r=3)
    >>> with torch.no_grad():
    ...     logits = model(torch.zeros(1, 3, 64, 64))
    >>> [plan.num_tokens_out for plan in handle.plans]
    [14, 11, 8]
    >>> handle.source().assignment.shape  # which of 8 final tokens holds each of 17
    torch.Size([1, 17])
    >>> handle.remove()
    """
    network = find(model)
    merging = resolve(name, config, network)
    if any(_is_ours(hook) for block in network.blocks for hook in block._forward_hooks.values()):
        raise ValueError("patch: `model` must not be patched already, got one that is: remove its handle first")
    modules = learned(merging, network)

    run, parts, library = Run(), network.parts, network.library
    made, added = [], []
    made.append(network.blocks[0].register_forward_pre_hook(partial(hooks.before_first_block, run), prepend=True))
    for index, block in enumerate(network.blocks):
        merger = modules.get(index)
        if merger is not None:
            block.add_module("merger", merger)
            added.append(block)
            made.append(block.register_forward_pre_hook(partial(hooks.before_block, run)))
        attention = block.get_submodule(parts.attention)
        first, second = (block.get_submodule(end) for end in parts.ends)
        before = partial(hooks.before_attention, run, merging, index, library)
        made.append(attention.register_forward_pre_hook(before, with_kwargs=True))
        if name == "tome":
            keys = partial(hooks.after_keys, run, library, int(attention.head_dim))  # type: ignore[arg-type]
            made.append(attention.get_submodule(parts.keys).register_forward_hook(keys))
        if name == "ats":
            made.append(attention.register_forward_hook(partial(hooks.after_attention, run, library)))
        between = partial(hooks.before_second_norm, run, merging, index)
        made.append(block.get_submodule(parts.second_norm).register_forward_pre_hook(between))
        for end in (first,) if first is second else (first, second):
            made.append(end.register_forward_hook(partial(hooks.end_of_branch, run)))
        last = index == len(network.blocks) - 1
        after = partial(hooks.after_block, run, merging, index, last)
        made.append(block.register_forward_hook(after))
    if network.pooling is not None:
        pooling = network.pooling
        made.append(pooling.sequence.register_forward_hook(partial(hooks.after_sequence, run)))
        made.append(
            pooling.head.register_forward_pre_hook(partial(hooks.before_head, run, merging, pooling.after_class))
        )
    if network.attention_pool is not None:
        pool = partial(hooks.before_attention_pool, run, merging)
        made.append(network.attention_pool.register_forward_pre_hook(pool, with_kwargs=True))
    return Handle(run, merging, network, made, added)


def _is_ours(hook: Any) -> bool:
    return isinstance(hook, partial) and hook.func is hooks.after_block
