"""Which networks can be patched, and what their parts are called.

A block is recognized by the class that defines its `forward`: that is the code whose parts are hooked, so a subclass
with a forward of its own is another block. Nothing here imports timm or transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Parts:
    """The names of a block's parts.

    attention: the attention. second_norm: the norm before the MLP. ends: the last module of the attention's branch and
    of the MLP's, before each sum; the attention itself where nothing follows it. keys: inside the attention, what gives
    the keys.
    """

    attention: str
    second_norm: str
    ends: tuple[str, str]
    keys: str


_TIMM = Parts("attn", "norm2", ("drop_path1", "drop_path2"), "k_norm")
_VIT = Parts("attention", "layernorm_after", ("dropout", "dropout"), "k_proj")
_DINO = Parts("attention", "norm2", ("drop_path", "drop_path"), "k_proj")
_CLIP = Parts("self_attn", "layer_norm2", ("self_attn", "mlp"), "k_proj")

BLOCKS = {
    ("timm", "Block"): _TIMM,
    ("timm", "EvaBlock"): _TIMM,
    ("transformers", "ViTLayer"): _VIT,
    ("transformers", "DeiTLayer"): _VIT,
    ("transformers", "Dinov2Layer"): _DINO,
    ("transformers", "Dinov2WithRegistersLayer"): _DINO,
    ("transformers", "CLIPEncoderLayer"): _CLIP,
    ("transformers", "SiglipEncoderLayer"): _CLIP,
}
ATTENTIONS = {
    ("timm", "Attention"),
    ("timm", "AttentionRope"),
    ("timm", "EvaAttention"),
    *(
        ("transformers", f"{name}Attention")
        for name in ("ViT", "DeiT", "Dinov2", "Dinov2WithRegisters", "CLIP", "Siglip")
    ),
}


@dataclass(frozen=True)
class Pooling:
    """A mean over tokens that the network takes outside of its modules, and where it can be corrected.

    sequence: the module whose output holds the tokens. head: the module that is given their mean. after_class: whether
    it is given the class token's features in front of the mean.
    """

    sequence: nn.Module
    head: nn.Module
    after_class: bool = False


@dataclass(frozen=True)
class Network:
    """What `patch` has to know.

    library: "timm" or "transformers". blocks: in their order. parts: of every block. prefix: tokens in front of the
    patches. class_token: whether the first of them is a class token. num_tokens: of the configured image size, or None.
    pooling: a mean to correct; attention_pool: a pooling by attention, which is given a bias; rotary: whether attention
    has rotary embeddings.
    """

    library: str
    blocks: tuple[nn.Module, ...]
    parts: Parts
    prefix: int
    class_token: bool
    num_tokens: int | None
    pooling: Pooling | None
    attention_pool: nn.Module | None
    rotary: bool


def origin(module: nn.Module) -> tuple[str, str]:
    """Package and name of the class whose `forward` a module runs."""
    if "forward" in vars(module):
        return "", f"{type(module).__name__} with a forward of its own"
    for cls in type(module).__mro__:
        if "forward" in vars(cls):
            return cls.__module__.partition(".")[0], cls.__name__
    return "", type(module).__name__


def find(model: nn.Module) -> Network:
    """The one vision network inside a model.

    Raises:
        TypeError: not a module. ValueError: no network of a known kind, several, or one with a part that is not known;
            the sentence names the block.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"patch: `model` must be a torch.nn.Module, got {type(model).__name__}")
    stacks = [(name, stack) for name, stack in model.named_modules() if _is_stack(stack)]
    vision = [(name, stack) for name, stack in stacks if "text_model" not in name.split(".")]
    if len(vision) != 1:
        raise ValueError(
            "patch: `model` must hold one stack of blocks of a vision transformer of timm or transformers, "
            + (f"got {len(vision)}: {', '.join(name for name, _ in vision)}" if vision else f"got {_largest(model)}")
        )
    ((path, stack),) = vision
    blocks = tuple(stack.children())
    kinds = [origin(block) for block in blocks]
    for index, (block, kind) in enumerate(zip(blocks, kinds, strict=True)):
        if kind not in BLOCKS or kind != kinds[0]:
            raise ValueError(f"patch: `model` must have known blocks that are alike, got block {index}, a {kind[1]}")
        attention = block.get_submodule(BLOCKS[kind].attention)
        if origin(attention) not in ATTENTIONS:
            raise ValueError(
                f"patch: `model` must have known attentions, got block {index} with a {origin(attention)[1]}"
            )
    if kinds[0][0] == "timm":
        from tokenmerge.backends.torch.patch import timm as family
    else:
        from tokenmerge.backends.torch.patch import transformers as family  # type: ignore[no-redef]
    facts = family.describe(model, path)
    return Network(library=kinds[0][0], blocks=blocks, parts=BLOCKS[kinds[0]], **facts)


def parent(model: nn.Module, path: str, attribute: str) -> Any:
    """The innermost module around a path that has an attribute."""
    names = path.split(".")
    for end in range(len(names) - 1, -1, -1):
        module = model.get_submodule(".".join(names[:end]))
        if hasattr(module, attribute):
            return module
    raise ValueError(f"patch: `model` must hold its blocks in a network with `{attribute}`, got {type(model).__name__}")


def _is_stack(module: nn.Module) -> bool:
    children = list(module.children())
    return isinstance(module, nn.ModuleList | nn.Sequential) and any(origin(child) in BLOCKS for child in children)


def _largest(model: nn.Module) -> str:
    """The longest row of modules in a model, in words: what it has instead of known blocks."""
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList | nn.Sequential) and len(m)]
    if not stacks:
        return f"a {type(model).__name__} without any"
    longest = max(stacks, key=len)
    return f"{len(longest)} of another kind, block 0 being a {origin(longest[0])[1]}"
