"""Networks of timm whose tokens lie on a map: Swin, MobileViT and EfficientViT (MIT), block by block (docs/ltm.md).

Each family says how the tokens of a block become samples `(S,n,C)` and a map again, and what the branch is that works
on fewer of them. Stochastic depth acts on what is unmerged, so that it is one draw for an image as before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

Tensor = torch.Tensor
Make = Callable[..., tuple[Tensor, Callable[[Tensor], Tensor]]]


class Family:
    """What is known of a kind of block.

    Attributes:
        BLOCKS: names of the classes of its blocks; STAGES: of the modules that run some of them one after another.
        BRANCHES: what a plan may act around. METRIC: whether ToMe has keys, or its merged tokens a place.
        NEEDS_GRID: whether merged tokens have to lie on a map, too.
    """

    BLOCKS: tuple[str, ...]
    STAGES: tuple[str, ...]
    BRANCHES: tuple[str, ...] = ("mlp", "block")
    METRIC = True
    NEEDS_GRID = False

    def width(self, block: Any) -> int:
        """C."""
        return int(block.norm2.weight.shape[0])

    def grid(self, stage: Any, x: Tensor) -> tuple[int, int] | None:
        """Rows and columns of the tokens of a stage that is given `x`; None where the block itself says."""
        return None

    def run(self, block: Any, original: Callable[..., Tensor], x: Tensor, around: str, make: Make) -> Tensor:
        """The block, with `make(tokens, keys, mask, grid, place)` giving merged tokens and the way back."""
        raise NotImplementedError


class Swin(Family):
    """Swin v1 and v2: a window is a sample, shifted ones as well."""

    BLOCKS = ("SwinTransformerBlock", "SwinTransformerV2Block")
    STAGES = ("SwinTransformerStage", "SwinTransformerV2Stage")
    BRANCHES = ("mlp",)

    def run(self, block: Any, original: Callable[..., Tensor], x: Tensor, around: str, make: Make) -> Tensor:
        norm_last = type(block).__name__ == "SwinTransformerV2Block"
        attended = block.norm1(block._attn(x)) if norm_last else block._attn(block.norm1(x))
        between = x + block.drop_path1(attended)
        windows, mask, back = in_windows(between, block)

        def keys() -> Tensor:
            return in_windows(mean_key_v2(block.attn, x) if norm_last else mean_key(block.attn, block.norm1(x)), block)[
                0
            ]

        place = (tuple(block.shift_size), tuple(between.shape))
        merged, spread = make(windows, keys, mask, tuple(block.window_size), place)
        branch = block.norm2(block.mlp(merged)) if norm_last else block.mlp(block.norm2(merged))
        return between + block.drop_path2(back(spread(branch)))


class MobileViT(Family):
    """MobileViT: every pixel of a patch is a sample, the patches are its tokens."""

    BLOCKS = ("Block",)
    STAGES = ("MobileVitBlock",)

    def grid(self, stage: Any, x: Tensor) -> tuple[int, int]:
        return -(-x.shape[2] // stage.patch_size[0]), -(-x.shape[3] // stage.patch_size[1])

    def run(self, block: Any, original: Callable[..., Tensor], x: Tensor, around: str, make: Make) -> Tensor:
        if around == "block":
            merged, spread = make(x, lambda: x, None, None, x.shape)
            return x + spread(original(block, merged) - merged)
        seen = block.norm1(x)
        between = x + block.drop_path1(block.ls1(block.attn(seen)))
        merged, spread = make(between, lambda: mean_key(block.attn, seen), None, None, x.shape)
        return between + block.drop_path2(spread(block.ls2(block.mlp(block.norm2(merged)))))


class MobileViTV2(Family):
    """MobileViT v2: the same samples as `(B,C,P,N)`, with linear attention and a norm over all tokens of an image."""

    BLOCKS = ("LinearTransformerBlock",)
    STAGES = ("MobileVitV2Block",)
    grid = MobileViT.grid

    def run(self, block: Any, original: Callable[..., Tensor], x: Tensor, around: str, make: Make) -> Tensor:
        def made(tokens: Tensor, keys: Callable[[], Tensor]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
            merged, spread = make(_samples(tokens), lambda: _samples(keys()), None, None, tokens.shape)
            return _unfolded(merged, tokens.shape[2]), lambda y: _unfolded(spread(_samples(y)), tokens.shape[2])

        if around == "block":
            merged, spread = made(x, lambda: x)
            return x + spread(original(block, merged) - merged)
        seen = block.norm1(x)
        between = x + block.drop_path1(block.attn(seen))
        projection, width = block.attn.qkv_proj, block.attn.embed_dim
        bias = None if projection.bias is None else projection.bias[1 : 1 + width]
        merged, spread = made(between, lambda: functional.conv2d(seen, projection.weight[1 : 1 + width], bias))
        return between + block.drop_path2(spread(block.mlp(block.norm2(merged))))


class EfficientViT(Family):
    """EfficientViT of MIT: the branch is the local module, a convolution, so merged tokens lie on a smaller map."""

    BLOCKS = ("EfficientVitBlock",)
    STAGES = ("EfficientVitStage",)
    BRANCHES = ("mlp",)
    METRIC = False
    NEEDS_GRID = True

    def width(self, block: Any) -> int:
        return int(block.context_module.main.proj.conv.out_channels)

    def run(self, block: Any, original: Callable[..., Tensor], x: Tensor, around: str, make: Make) -> Tensor:
        between, local = block.context_module(x), block.local_module
        rows, columns = between.shape[2:]
        tokens = between.flatten(2).transpose(1, 2)
        merged, spread = make(tokens, None, None, (rows, columns), between.shape)
        fewer = make.grid((rows, columns))  # type: ignore[attr-defined]
        branch = local.main(local.pre_norm(merged.transpose(1, 2).unflatten(2, fewer)))
        return between + spread(branch.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(between.shape)


FAMILIES: tuple[Family, ...] = (Swin(), MobileViT(), MobileViTV2(), EfficientViT())


class Found(NamedTuple):
    """The blocks of a model on a map, with the stages that run them."""

    family: Family
    blocks: list[nn.Module]
    stages: list[nn.Module]


def find_grid(model: nn.Module) -> Found | None:
    """The blocks of the one family that a model has; None for none."""
    for family in FAMILIES:
        stages = [module for module in model.modules() if _is(module, family.STAGES)]
        blocks = [block for stage in stages for block in stage.modules() if _is(block, family.BLOCKS)]
        if blocks:
            return Found(family, blocks, stages)
    return None


def _is(module: nn.Module, names: tuple[str, ...]) -> bool:
    return type(module).__name__ in names and type(module).__module__.startswith("timm.models.")


def in_windows(x: Tensor, block: Any) -> tuple[Tensor, Tensor | None, Callable[[Tensor], Tensor]]:
    """A map `(B,H,W,C)` as the windows of a Swin block `(S,n,C)`, which of their tokens are real, and the way back."""
    (rows, columns), (down, right) = block.window_size, block.shift_size
    b, height, width, _ = x.shape
    below, beside = -height % rows, -width % columns

    def cut(given: Tensor) -> Tensor:
        rolled = torch.roll(given, (-down, -right), (1, 2)) if down or right else given
        padded = functional.pad(rolled, (0, 0, 0, beside, 0, below)) if below or beside else rolled
        split = padded.unflatten(2, (-1, columns)).unflatten(1, (-1, rows))
        return split.transpose(2, 3).flatten(3, 4).flatten(0, 2)

    def back(windows: Tensor) -> Tensor:
        shape = (b, (height + below) // rows, (width + beside) // columns)
        whole = windows.unflatten(0, shape).unflatten(3, (rows, columns)).transpose(2, 3)
        padded = whole.flatten(3, 4).flatten(1, 2)[:, :height, :width]
        return torch.roll(padded, (down, right), (1, 2)) if down or right else padded

    real = cut(x.new_ones(b, height, width, 1))[:, :, 0] > 0 if below or beside else None
    return cut(x), real, back


def mean_key(attention: Any, x: Tensor) -> Tensor:
    """Keys averaged over heads, of tokens `(...,C)` that attention reads: a product with the mean of the weights."""
    heads, qkv = attention.num_heads, attention.qkv
    if type(getattr(attention, "k_norm", None)) not in (type(None), nn.Identity):
        keys = functional.linear(x, *_of_keys(qkv)).unflatten(-1, (heads, -1))
        return attention.k_norm(keys).mean(dim=-2)
    weight, bias = _of_keys(qkv)
    mean = weight.unflatten(0, (heads, -1)).mean(dim=0)
    return functional.linear(x, mean, None if bias is None else bias.unflatten(0, (heads, -1)).mean(dim=0))


def mean_key_v2(attention: Any, x: Tensor) -> Tensor:
    """The same of Swin v2, whose keys have length one in every head and no bias."""
    keys = functional.linear(x, _of_keys(attention.qkv)[0]).unflatten(-1, (attention.num_heads, -1))
    return functional.normalize(keys, dim=-1).mean(dim=-2)


def _of_keys(qkv: Any) -> tuple[Tensor, Tensor | None]:
    width = qkv.weight.shape[0] // 3
    keys = slice(width, 2 * width)
    return qkv.weight[keys], None if qkv.bias is None else qkv.bias[keys]


def _samples(x: Tensor) -> Tensor:
    """`(B,C,P,N)` as `(B P, N, C)`."""
    return x.permute(0, 2, 3, 1).flatten(0, 1)


def _unfolded(tokens: Tensor, pixels: int) -> Tensor:
    """`(B P, N, C)` as `(B,C,P,N)`."""
    return tokens.unflatten(0, (-1, pixels)).permute(0, 3, 1, 2)
