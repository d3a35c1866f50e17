"""Blocks of one's own: described by the names of their parts, and known from then on."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch
from torch import nn

from tokenmerge.backends.torch.patching.families import Attention, Block, CannotPatch, Network, describe, method_name
from tokenmerge.backends.torch.patching.tome import mean_key
from tokenmerge.spec.shared.arguments import check_flag, check_integer, shown

Tensor = torch.Tensor

BLOCKS: dict[str, Block] = {}
ATTENTIONS: dict[str, Attention] = {}
PREFIX: dict[str, tuple[int, bool]] = {}  # by block: tokens in front, whether only the first of them is read


def register_block(
    block_class: type[nn.Module],
    *,
    attention: str,
    norm: str,
    mlp_end: str,
    keys: str,
    attention_class: type[nn.Module],
    mask: str | None = None,
    num_heads: str = "num_heads",
    prefix: int = 1,
    reads_class: bool = False,
) -> None:
    """Make a block known to `patch`: `x = x + attention(...)`, then `x = x + mlp(norm(x))`.

    Args:
        block_class: the block; a subclass that inherits its `forward` is known as well.
        attention: the name of its attention module.
        norm: what the stream enters between attention and MLP, a module with a weight `(C,)`.
        mlp_end: the last module of the branch that the MLP adds.
        keys: the name of the part of attention whose output are the keys, `(B,N,H d)` or `(B,H,N,d)`.
        attention_class: the class of the attention module.
        mask: the name of its argument that is added to the logits, `(B,1,1,N)`; None if it takes none, and then
            proportional attention has to be off.
        num_heads: the name of its attribute that is the number of heads, for keys `(B,N,H d)`.
        prefix: tokens in front of the patches, which never merge.
        reads_class: whether the model around the blocks reads the first of these only. Otherwise everybody who gets
            its tokens is warned, or given all of them (`restore=True`).

    Raises:
        TypeError, ValueError: a class that is none, an attention without that argument, or a `prefix` below 0.
    """
    for name, kind in (("block_class", block_class), ("attention_class", attention_class)):
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise TypeError(f"patch: `{name}` must be a subclass of torch.nn.Module, got {kind!r}")
    parts = {"attention": attention, "norm": norm, "mlp_end": mlp_end, "keys": keys, "num_heads": num_heads}
    for name, part in (parts if mask is None else parts | {"mask": mask}).items():
        if not (isinstance(part, str) and all(word.isidentifier() or word.isdigit() for word in part.split("."))):
            raise TypeError(f"patch: `{name}` must be the name of a part, as text, got {shown(part)}")
    check_flag("patch", "reads_class", reads_class)
    check_integer("patch", "prefix", prefix, minimum=0)
    parameters = inspect.signature(attention_class.forward).parameters
    arguments = tuple(name for name in parameters if name != "self")
    if mask is not None and mask not in arguments:
        raise ValueError(f"patch: `mask` must be an argument of {attention_class.__name__}.forward, got {mask!r}")
    known = Attention(keys, partial(keys_of, num_heads), heads, attend, mask or "", None, arguments)
    ATTENTIONS[_name(attention_class)] = known
    BLOCKS[_name(block_class)] = Block(attention, attention, norm, mlp_end)
    PREFIX[_name(block_class)] = (int(prefix), reads_class)


def keys_of(num_heads: str, attention: nn.Module, output: Tensor) -> Tensor:
    """Keys averaged over heads, from `(B,N,H d)` or `(B,H,N,d)`."""
    if output.ndim == 4:
        return mean_key(output, 1)
    return mean_key(output.unflatten(2, (int(getattr(attention, num_heads)), -1)), 2)


def heads(attention: nn.Module, x: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Nobody has said how such an attention makes queries."""
    raise CannotPatch(f"patch: `model` must have an attention that is known for 'ats', got {type(attention).__name__}")


def attend(*arguments: Any) -> Any:
    """It is not reached: `heads` has refused."""
    raise NotImplementedError


def is_network(module: nn.Module) -> bool:
    """Whether a module holds a list of registered blocks."""
    return _blocks(module) is not None


def read(model: nn.Module, module: nn.Module, name: str) -> Network:
    """The module that holds the blocks, taken apart."""
    found = _blocks(module)
    assert found is not None
    path, blocks = found
    described = describe(blocks, f"{name}.{path}", BLOCKS, ATTENTIONS)
    prefix, reads_class = PREFIX[method_name(blocks[0])]
    masks = all(attention.mask for _, _, attention in described)
    who = method_name(module)
    return Network(
        module=module,
        name=name,
        blocks=described,
        prefix=prefix,
        class_token=False,
        patches=None,
        norm=None,
        reads_class=f"{name} ({who})" if reads_class else "",
        rotary=False,
        unbiased="" if masks else f"{name} whose attention takes no mask",
        unread="" if reads_class else f"{name} ({who})",
    )


def _blocks(module: nn.Module) -> tuple[str, list[nn.Module]] | None:
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList | nn.Sequential) and len(child) and method_name(child[0]) in BLOCKS:
            return name, list(child)
    return None


def _name(kind: Any) -> str:
    function = inspect.unwrap(kind.forward)
    return f"{function.__module__}.{function.__qualname__}"
