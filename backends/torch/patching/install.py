"""Put a method on a network: roles for its functions, blocks and attentions, hooks on their parts."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from tokenmerge.backends.torch.patching.block import AttentionRole, BlockRole
from tokenmerge.backends.torch.patching.decoders import CrossMask
from tokenmerge.backends.torch.patching.families import CannotPatch, Network, has_part, part_of
from tokenmerge.backends.torch.patching.hook import Patch
from tokenmerge.backends.torch.patching.marks import mark
from tokenmerge.backends.torch.patching.method import Method, placed
from tokenmerge.backends.torch.patching.network import HeadRole, LoopRole, NetworkRole
from tokenmerge.backends.torch.patching.parts import hook_part, hook_parts
from tokenmerge.backends.torch.patching.pooling import Tokens
from tokenmerge.backends.torch.patching.readers import DECODES, around, reader


def install(model: nn.Module, network: Network, method: Method, restore: bool) -> Patch:
    """Roles, hooks and mergers, all of them or none.

    Raises:
        CannotPatch: a block has a part named `merger` already, or is there twice.
    """
    blocks = [block for block, _, _ in network.blocks]
    for _, parts, _ in network.blocks:
        if not parts.norm and (method.sampled or method.around == "mlp"):
            what = "takes attention apart" if method.sampled else "acts around the MLP"
            raise CannotPatch(
                f"patch: `model` must have blocks with an attention and then an MLP for {method.NAME!r}, "
                f"which {what}, got {network.name} whose blocks compute both at once"
            )
    mergers = {index: placed(merger, blocks[index]) for index, merger in method.modules().items()}
    for index in mergers:
        if hasattr(blocks[index], "merger"):
            raise CannotPatch(f"patch: `model` must have no `merger` in its blocks, got one in block {index}")
    if len({id(block) for block in blocks}) < len(blocks):
        raise CannotPatch(f"patch: `model` must have no block twice, got {network.name} that has")

    patch = Patch(method, len(blocks), network.prefix, network.name, restore)
    patch.learned = bool(mergers)
    for index, (block, parts, attention) in enumerate(network.blocks):
        name = f"block {index} of {network.name}"
        tokens = next(iter(inspect.signature(block.forward).parameters))
        role = BlockRole(patch, index, name, parts, attention, tokens, index in mergers)
        if parts.own is None:
            inner = part_of(block, parts.attention)
            mark(inner, AttentionRole(patch, index, f"the attention of {name}", attention, index in method.sampled))
        mark(block, role, parts.forward)
        hook_parts(block, role)
        if index in mergers:
            block.add_module("merger", mergers[index])
    if network.norm is not None:
        hook_part(network.norm, Tokens(patch))
    pools: dict[int, tuple[nn.Module, list[tuple[str, Any]]]] = {}
    for part, kind in network.pooling:
        owner, path = owner_of(model, network.module, part)
        pools.setdefault(id(owner), (owner, []))[1].append((path, kind(patch)))
    inside = pools.pop(id(network.module), (network.module, []))[1]
    role_of_network = NetworkRole(
        patch,
        dict(network.doors),
        inside,
        network.pool,
        network.makes_mask,
        network.num_patches,
        network.pool_name,
        network.takes_mask,
    )
    mark(network.module, role_of_network)
    if network.loop:
        mark(part_of(network.module, network.loop), LoopRole(patch))
    role_of_network.look_at_parts(network.module)
    for owner, parts_that_pool in pools.values():
        head = HeadRole(patch, parts_that_pool)
        mark(owner, head)
        head.look_at_parts(owner)
    for _, outer in around(model, network.module):
        if reader(outer) == DECODES and has_part(outer, "decoder"):
            hook_part(outer.get_submodule("decoder"), CrossMask(patch), kwargs=True)
    return patch


def owner_of(model: nn.Module, network: nn.Module, part: nn.Module) -> tuple[nn.Module, str]:
    """The module whose function runs a part that pools, the network or a head around it; and the part's name there."""
    for name, module in network.named_modules():
        if module is part:
            return network, name
    path = next(name for name, module in model.named_modules() if module is part)
    owner, _, name = path.rpartition(".")
    return model.get_submodule(owner), name
