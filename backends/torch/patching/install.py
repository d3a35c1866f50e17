"""Put the hooks of a method on a network."""

from __future__ import annotations

from torch import nn

from tokenmerge.backends.torch.patching.ats import Attending, SampledForward
from tokenmerge.backends.torch.patching.families import CannotPatch, Network
from tokenmerge.backends.torch.patching.hooks import (
    Attend,
    AttentionEnd,
    Between,
    Close,
    Enter,
    Keys,
    Leave,
    MlpEnd,
    Open,
    Patch,
    Tokens,
)
from tokenmerge.backends.torch.patching.method import Method, placed


def install(model: nn.Module, network: Network, method: Method) -> Patch:
    """Hooks and mergers, all of them or none.

    Raises:
        CannotPatch: a block has a part named `merger` already, or is there twice.
    """
    blocks = [block for block, _, _ in network.blocks]
    mergers = {index: placed(merger, blocks[index]) for index, merger in method.modules().items()}
    for index in mergers:
        if hasattr(blocks[index], "merger"):
            raise CannotPatch(f"patch: `model` must have no `merger` in its blocks, got one in block {index}")
    if len({id(block) for block in blocks}) < len(blocks):
        raise CannotPatch(f"patch: `model` must have no block twice, got {network.name} that has")

    patch = Patch(method, len(blocks), network.prefix)
    for module in {id(module): module for module in (model, network.module)}.values():
        # first and last of all hooks, so that an exception in another one still closes the call
        module.register_forward_pre_hook(Open(patch), prepend=True)
        module.register_forward_hook(Close(patch), always_call=True)
    for index, (block, parts, attention) in enumerate(network.blocks):
        inner = getattr(block, parts.attention)
        block.register_forward_pre_hook(Enter(patch, index, index in mergers), prepend=True)
        inner.register_forward_pre_hook(Attend(patch, attention.mask, attention.mask_position), with_kwargs=True)
        if method.keys:
            getattr(inner, attention.keys).register_forward_hook(Keys(patch, attention.metric))
        if index in method.sampled:
            inner.register_forward_pre_hook(Attending(patch), with_kwargs=True)
            inner.forward = SampledForward(patch, attention)
            getattr(block, parts.attention_end).register_forward_hook(AttentionEnd(patch))
        getattr(block, parts.norm).register_forward_pre_hook(Between(patch), prepend=True)
        getattr(block, parts.mlp_end).register_forward_hook(MlpEnd(patch))
        if index in mergers:
            block.add_module("merger", mergers[index])
        # before the user's own hooks, which are to see what the block gives
        block.register_forward_hook(Leave(patch, index), always_call=True, prepend=True)
    if network.norm is not None:
        network.norm.register_forward_hook(Tokens(patch))
    for module, hook in network.pooling:
        module.register_forward_pre_hook(hook(patch), with_kwargs=True)
    return patch
