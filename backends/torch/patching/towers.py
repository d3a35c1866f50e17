"""Families of models that are described by names: the module that runs the blocks, and everybody around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from tokenmerge.backends.torch.patching.families import (
    Attention,
    Block,
    CannotPatch,
    Network,
    describe,
    has_part,
    method_name,
    part_of,
)
from tokenmerge.backends.torch.patching.hook import Patch
from tokenmerge.backends.torch.patching.pooling import HeadMask, MeanPool, ProbePool
from tokenmerge.backends.torch.patching.readers import POOLS, READERS, around, reader

Hooks = list[tuple[nn.Module, Callable[[Patch], Callable[..., Any]]]]


@dataclass(frozen=True)
class Family:
    """A model whose `forward` runs the blocks, and the models around it, by their full names.

    Attributes:
        networks: the classes that run the blocks; block, attention: the classes of these, of attention several with
            spaces between; of a list "[FIRST.forward, SECOND.forward]".
        parts, how: the block's parts, and how attention works.
        blocks: where the blocks are. norm: where the last norm is; "" where the last block's output is what others get.
        prefix: tokens in front of the patches; class_token: whether the first is a class token.
        patches: where the number of patches of an image of the usual size is, or a function of the module; "" if that
            is open.
        mask: its argument that says which patches are real; "" for none.
        hands_class: whether it hands out what it makes of its class token; a path for "if it has that part".
        readers: what each model around it does with the tokens.
        pools: for a model that takes the mean of the tokens: the part in front of which it does, and of what.
        probe: the part that pools by attention, an `nn.MultiheadAttention`; "" for none.
        masked: the head around that, which is given the mask of the tokens; "" if it is given none.
        loop: the module that runs lists as blocks; "" where blocks are modules of their own.
        rotary: whether attention turns queries and keys by their position.
        pairs: whether attention may add a bias to every pair of places, so that it has to see all tokens.
    """

    networks: tuple[str, ...]
    block: str
    attention: str
    parts: Block
    how: Attention
    blocks: str
    norm: str = ""
    prefix: int = 1
    class_token: bool = True
    patches: str | Callable[[Any], int] = ""
    mask: str = ""
    hands_class: bool | str = True
    readers: Mapping[str, str | Callable[[Any], str]] = field(default_factory=dict)
    pools: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    probe: str = ""
    masked: str = ""
    loop: str = ""
    rotary: bool = False
    pairs: bool = False


class Families:
    """All families of one library, by the `forward` of what they describe."""

    def __init__(self, families: Iterable[Family]) -> None:
        self.all = tuple(families)
        self.networks = {f"{name}.forward": each for each in self.all for name in each.networks}
        self.blocks = {each.block if "[" in each.block else f"{each.block}.forward": each.parts for each in self.all}
        self.attentions = {f"{name}.forward": each.how for each in self.all for name in each.attention.split()}
        for each in self.all:
            READERS.update({f"{name}.forward": kind for name, kind in each.readers.items()})
            READERS.update({f"{name}.forward": POOLS for name in each.pools if name not in each.readers})

    def is_network(self, module: nn.Module) -> bool:
        """Whether a module is one that `read` can read."""
        return method_name(module) in self.networks

    def read(self, model: nn.Module, module: Any, name: str, unbiased: str = "", prefix: int = 0) -> Network:
        """A network of one of the families, taken apart; `model` is it, or what is around it.

        Args:
            unbiased: as in `Network`. prefix: tokens in front beside those that the family always has.

        Raises:
            CannotPatch: it has a block or an attention that is not known.
        """
        family = self.networks[method_name(module)]
        if not has_part(module, family.blocks):
            raise CannotPatch(f"patch: `model` must have blocks in `{family.blocks}`, got {name} without")
        blocks = describe(part_of(module, family.blocks), f"{name}.{family.blocks}", self.blocks, self.attentions)
        prefix += family.prefix
        outside = [each for _, each in around(model, module)]
        pooling, pools = _pooling(module, outside, family, prefix)
        count = partial(number_of, family.patches) if family.patches else None
        return Network(
            module=module,
            name=name,
            blocks=blocks,
            prefix=prefix,
            class_token=family.class_token,
            patches=None if count is None else count(module),
            norm=part_of(module, family.norm) if family.norm else None,
            reads_class=_reads_class(outside, module, family, pools),
            rotary=family.rotary,
            pooling=pooling,
            makes_mask=family.mask or "attention_mask",
            takes_mask=bool(family.mask),
            num_patches=count,
            unbiased=unbiased,
            loop=family.loop,
            pairs=family.pairs,
        )


def number_of(path: str | Callable[[Any], int], module: Any) -> int:
    """A number somewhere in a module: patches of an image of the usual size."""
    if not isinstance(path, str):
        return path(module)
    for name in path.split("."):
        module = getattr(module, name)
    return int(module)


def _pooling(module: Any, outside: Sequence[nn.Module], family: Family, prefix: int) -> tuple[Hooks, str]:
    """Hooks that pool by size, and what is pooled outside, or by the network for all that is outside."""
    pooling: Hooks = []
    pools = ""
    for outer in (module, *outside):
        name = method_name(outer).removesuffix(".forward")
        if name in family.pools and reader(outer) in (POOLS, None):
            path, pools = family.pools[name]
            skip = 0 if pools == "all" else prefix
            hook = partial(MeanPool, skip=skip, with_class=pools == "class and mean", alone=pools == "tokens")
            pooling.append((part_of(outer, path), hook))
    if family.masked and has_part(module, family.masked):
        pooling.append((part_of(module, family.masked), HeadMask))
    if family.probe and has_part(module, family.probe):
        pooling.append((part_of(module, family.probe), ProbePool))
    return pooling, pools


def _reads_class(outside: list[nn.Module], module: Any, family: Family, pools: str) -> str:
    """Who reads the class token; a model around the network that is not known may."""
    if not family.class_token or pools not in ("", "class and mean"):
        return ""
    hands = family.hands_class
    if isinstance(hands, str):
        hands = has_part(module, hands)
    if not hands and all(reader(outer) == "" for outer in outside):
        return ""
    return type(outside[-1] if outside else module).__name__
