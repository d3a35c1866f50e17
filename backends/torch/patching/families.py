"""How a family of models is described: which parts its blocks have, and where it pools.

A block is known by its `forward`: by the name of the function, so that no library is imported to ask. A subclass that
inherits it is known as well; one that brings its own is not, whatever it is called.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

if TYPE_CHECKING:
    from tokenmerge.backends.torch.patching.hook import Patch

Tensor = torch.Tensor
Entry = TypeVar("Entry")


class CannotPatch(ValueError):
    """A model that cannot be patched; the sentence says which part and why. The model is as it was."""


@dataclass(frozen=True)
class Attention:
    """An attention module whose `forward` is known.

    Attributes:
        keys: the name of the part whose output are the keys; "" if none gives them, and `heads` has to.
        metric: `(module, that output)` to keys `(B,N,D)`, averaged over heads.
        heads: `(module, x, kwargs)` to queries, keys and values `(B,H,N,d)`, as its `forward` makes them.
        attend: `(module, chosen queries, keys, values, x, plan, kwargs)` to what its `forward` returns.
        mask: the name of the argument that is added to the logits; mask_position: where it stands when it has no name.
        arguments: the names of all arguments; the first are the tokens.
        rotary: the argument that is a table of positions, or a pair of tables; "" for none.
        written_out: whether its `forward` takes no such mask, or tells no keys: where sizes count it is run part by
            part, by `heads` and `attend`.
        refused: arguments that must be nothing where it is run part by part.
        fits: from the module, what is wrong with it, for a sentence; "" if it can be patched.
        beside: `(module, x)` to keys `(B,N,D)`, averaged over heads, of a module no part of which gives them and whose
            own `forward` runs.
        pairs: whether what it is given as a mask is a bias of pairs of places, which it needs where all tokens are.
    """

    keys: str
    metric: Callable[[nn.Module, Tensor], Tensor]
    heads: Callable[..., tuple[Tensor, Tensor, Tensor]]
    attend: Callable[..., Any]
    mask: str
    mask_position: int | None
    arguments: tuple[str, ...]
    rotary: str = ""
    written_out: bool = False
    refused: tuple[str, ...] = ()
    fits: Callable[[Any], str] | None = None
    beside: Callable[[Any, Tensor], Tensor] | None = None
    pairs: bool = False


@dataclass(frozen=True)
class Block:
    """A block `x = x + attention(...)`, `x = x + mlp(norm(x))` whose `forward` is known, by the paths of its parts.

    Attributes:
        attention: the attention module.
        attention_end: the last module of the branch that attention adds.
        norm: what the residual stream enters between attention and MLP; "" where both are added at once, and the plan
            acts after them.
        mlp_end: the last module of the branch that the MLP adds.
        attention_rest, mlp_rest: `(block, branch)` to what the block makes of that branch after its last module, before
            it adds it; None if it adds it as it is.
        width: a part whose weight has C entries; "" for `norm`.
        own: the attention, if the block itself computes it and `attention` is "".
        forward: what the block computes, if it is a list that has no `forward` of its own.
    """

    attention: str
    attention_end: str
    norm: str
    mlp_end: str
    attention_rest: Callable[[Any, Tensor], Tensor] | None = None
    mlp_rest: Callable[[Any, Tensor], Tensor] | None = None
    width: str = ""
    own: Attention | None = None
    forward: Callable[[Any, Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Network:
    """The part of a model that runs the blocks, taken apart.

    Attributes:
        module: the network; name: where it is in the model, for sentences.
        blocks: its blocks with their descriptions.
        prefix: tokens in front of the patches; class_token: whether the first is a class token.
        patches: how many patches an image of the usual size has; None if that is open.
        norm: the last norm, whose output is pooled; None where the last block's output is.
        reads_class: who reads the class token, for a sentence; "" if nobody does.
        rotary: whether attention turns queries and keys by their position.
        pooling: pairs of a module and its hook that pools by size.
        unbiased: the attention function, for a sentence, if it adds no bias to the logits; "" if it does.
        doors: its functions that run the blocks, with what says whether a call of one lays tokens out on a grid.
        pool: in place of its method `pool_name`, if it has one: `(module, its own, Counts, x, ...)`.
        makes_mask: the argument that is a mask; without it the network makes one that masks nothing. "" for none.
        num_patches: from the module, how many patches an image of the usual size has now; None if that is open.
        unread: a module that reads the tokens in a way nobody has described, for a sentence; "" for none.
        own: a function of the network that reads tokens in its own way, for a sentence; "" if all are known.
        takes_mask: whether that argument, of two or three axes, says which tokens are real.
        loop: the path of a module that runs lists as blocks; "" where blocks are modules of their own.
        pairs: whether attention adds a bias to every pair of places, so that it has to see all tokens.
    """

    module: nn.Module
    name: str
    blocks: Sequence[tuple[nn.Module, Block, Attention]]
    prefix: int
    class_token: bool
    patches: int | None
    norm: nn.Module | None
    reads_class: str
    rotary: bool
    pooling: Sequence[tuple[nn.Module, Callable[[Patch], Callable[..., Any]]]] = ()
    unbiased: str = ""
    doors: Mapping[str, Callable[..., bool]] = field(default_factory=lambda: {"forward": never})
    pool: Callable[..., Any] | None = None
    makes_mask: str = ""
    num_patches: Callable[[Any], int | None] | None = None
    unread: str = ""
    own: str = ""
    loop: str = ""
    pool_name: str = "pool"
    takes_mask: bool = False
    pairs: bool = False

    @property
    def tokens(self) -> int | None:
        """Tokens that enter the first block."""
        return None if self.patches is None else self.prefix + self.patches

    @property
    def dim(self) -> int:
        """C, from the norm between attention and MLP."""
        block, parts, _ = self.blocks[0]
        return int(part_of(block, parts.width or parts.norm).weight.shape[0])


def part_of(module: nn.Module, path: str) -> Any:
    """A part of a module, or a part of a part."""
    return module.get_submodule(path) if "." in path else getattr(module, path)


def has_part(module: nn.Module, path: str) -> bool:
    """Whether a module has such a part."""
    try:
        return isinstance(part_of(module, path), nn.Module)
    except AttributeError:
        return False


def never(name: str, args: Any, kwargs: Any) -> bool:
    """Of a door that gives tokens as they are."""
    return False


def method_name(module: nn.Module, method: str = "forward") -> str:
    """The full name of the function that runs, without its decorators; of an instance's own function, another name; of
    a list, those of its parts.

    >>> method_name(nn.Linear(1, 1))
    'torch.nn.modules.linear.Linear.forward'
    """
    if isinstance(module, nn.ModuleList):
        return f"[{', '.join(method_name(part) for part in module)}]"
    if method in module.__dict__:
        return f"<{type(module).__name__} with its own {method}>"
    function = inspect.unwrap(getattr(type(module), method))
    return f"{function.__module__}.{function.__qualname__}"


def describe(
    blocks: Iterable[nn.Module], where: str, known_blocks: dict[str, Block], known_attentions: dict[str, Attention]
) -> list[tuple[nn.Module, Block, Attention]]:
    """Blocks with their descriptions.

    Raises:
        CannotPatch: a block that is not known, or lacks a part.
    """
    described = []
    for index, block in enumerate(blocks):
        name = f"{where}[{index}] ({type(block).__name__})"
        parts = known(name, block, known_blocks)
        for part in (parts.attention, parts.attention_end, parts.norm, parts.mlp_end):
            if part and not has_part(block, part):
                raise CannotPatch(f"patch: `model` must have blocks with a part `{part}`, got {name} without")
        if parts.own is not None:
            described.append((block, parts, parts.own))
            continue
        inner = part_of(block, parts.attention)
        inner_name = f"{name}.{parts.attention} ({type(inner).__name__})"
        attention = known(inner_name, inner, known_attentions)
        if attention.keys and not has_part(inner, attention.keys):
            raise CannotPatch(f"patch: `model` must have attentions with a part `{attention.keys}`, got {name} without")
        wrong = "" if attention.fits is None else attention.fits(inner)
        if wrong:
            raise CannotPatch(
                f"patch: `model` must have attentions that can be run part by part, got {inner_name} {wrong}"
            )
        described.append((block, parts, attention))
    if not described:
        raise CannotPatch(f"patch: `model` must have at least one block, got {where} without")
    return described


def known(name: str, module: nn.Module, table: dict[str, Entry]) -> Entry:
    """The entry of a module's `forward`. Raises CannotPatch if there is none."""
    forward = method_name(module)
    if forward not in table:
        raise CannotPatch(f"patch: `model` must have parts whose `forward` is known, got {name} with {forward}")
    return table[forward]
