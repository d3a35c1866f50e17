"""What a vision transformer is, as data: sizes, parts, and which merger sits in which block (docs/vit.md).

Nothing here computes; every backend reads the same configuration. Names are those of timm's `VisionTransformer`, or of
the public interface where that has its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenmerge.spec.shared.arguments import check_choice, check_flag, check_integer, check_real, plain, shown
from tokenmerge.spec.shared.description import Merging

INFINITY = float("inf")
Blocks = int | range | tuple[int, ...]


@dataclass(frozen=True)
class ViTConfig:
    """A vision transformer as timm builds it, with mergers in its blocks. The default is ViT-B/16 at 224.

    Attributes:
        image_size: height and width, or one number for both; multiples of `patch_size`.
        patch_size, channels, dim, depth, heads: as they say; `dim` is a multiple of `heads`.
        num_classes: 0 for no head: the logits are then the pooled features.
        mlp_dim: hidden width of the MLP; None for `4 * dim`.
        class_token, register_tokens, distillation_token: the tokens in front of the patches, in the order class,
            distillation, registers.
        pool: "class" for the class token, "mean" for the mean of the patches weighted by size.
        qkv_bias, qk_norm: of the attention; `qk_norm` is a LayerNorm of queries and keys per head.
        layer_scale: the initial value of LayerScale; None for none.
        pre_norm: a LayerNorm before the first block, and no bias in the patch embedding (CLIP).
        fc_norm: a LayerNorm after pooling instead of before; None for `pool == "mean"`, as in timm.
        no_embed_class: the tokens in front of the patches have no position embedding (DeiT III, registers).
        norm_eps: epsilon of every LayerNorm.
        dropout: of projection and MLP (timm's `proj_drop_rate`); attn_dropout: of attention weights; emb_dropout: after
            the position embedding; drop_path: stochastic depth, growing linearly to this rate in the last block. All
            act in training only.
        merging: None, one of `ToMeMerging`, `ATSMerging`, `PatchMergerMerging`, `LTMMerging`, or a mapping from blocks
            (an index, or a range of them) to one of these, which mixes them; schedules run over the blocks of their
            entry.
        restore: whether tokens are unmerged when the last block is done, before the last norm, for whoever reads a
            grid; dropped ones come back as zeros.

    Raises:
        TypeError, ValueError: an option of the wrong type or out of range, or options that contradict each other.

    >>> from tokenmerge import ATSMerging, ToMeMerging
    >>> config = ViTConfig(merging={range(0, 4): ATSMerging((128, 64, 64, 64)), range(4, 12): ToMeMerging(r=4)})
    >>> config.prefix_tokens, config.grid
    (1, (14, 14))
    """

    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    num_classes: int = 1000
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_dim: int | None = None
    channels: int = 3
    class_token: bool = True
    register_tokens: int = 0
    distillation_token: bool = False
    pool: str = "class"
    qkv_bias: bool = True
    qk_norm: bool = False
    layer_scale: float | None = None
    pre_norm: bool = False
    fc_norm: bool | None = None
    no_embed_class: bool = False
    norm_eps: float = 1e-6
    dropout: float = 0.0
    attn_dropout: float = 0.0
    emb_dropout: float = 0.0
    drop_path: float = 0.0
    merging: Merging | Mapping[Blocks, Merging] | tuple[tuple[range | tuple[int, ...], Merging], ...] | None = field(
        default=None
    )
    restore: bool = False

    def __deepcopy__(self, memo: dict[int, Any]) -> ViTConfig:
        """Itself, which never changes: a network that holds it can be copied, a view of its mergers could not."""
        return self

    def __post_init__(self) -> None:
        owner = "ViTConfig"
        for name in ("patch_size", "dim", "depth", "heads", "channels"):
            check_integer(owner, name, getattr(self, name), minimum=1)
        for name in ("num_classes", "register_tokens"):
            check_integer(owner, name, getattr(self, name), minimum=0)
        if self.mlp_dim is not None:
            check_integer(owner, "mlp_dim", self.mlp_dim, minimum=1)
        flags = ("class_token", "distillation_token", "qkv_bias", "qk_norm", "pre_norm", "no_embed_class", "restore")
        for name in flags if self.fc_norm is None else (*flags, "fc_norm"):
            check_flag(owner, name, getattr(self, name))
        if self.layer_scale is not None:
            check_real(owner, "layer_scale", self.layer_scale, -INFINITY, INFINITY, "(-inf, inf)")
        check_choice(owner, "pool", self.pool, ("class", "mean"))
        check_real(owner, "norm_eps", self.norm_eps, 0.0, INFINITY, "[0, inf)")
        for name in ("dropout", "attn_dropout", "emb_dropout", "drop_path"):
            check_real(owner, name, getattr(self, name), 0.0, 1.0, "[0, 1)")
        if isinstance(self.image_size, (tuple, list)) and (
            isinstance(self.image_size, list) or len(self.image_size) != 2
        ):
            _refuse("image_size", "height and width, or one number for both", self.image_size)
        for side in self.image_size if isinstance(self.image_size, tuple) else (self.image_size,):
            check_integer(owner, "image_size", side, minimum=self.patch_size)
            if side % self.patch_size:
                _refuse("image_size", f"a multiple of patch_size = {self.patch_size}", side)
        if self.dim % self.heads:
            _refuse("dim", f"a multiple of heads = {self.heads}", self.dim)
        if self.pool == "class" and not self.class_token:
            _refuse("pool", "'mean' without a class token", self.pool)
        if self.distillation_token and (not self.class_token or self.pool != "class"):
            _refuse("distillation_token", "False unless there is a class token and pool='class'", True)
        if self.distillation_token and self.fc_norm:
            _refuse("fc_norm", "False with a distillation token, which has no timm counterpart", True)
        for name in self.__dataclass_fields__:
            object.__setattr__(self, name, plain(getattr(self, name)))
        object.__setattr__(self, "merging", _normalized(self.merging))

    def __hash__(self) -> int:
        return hash(repr(self))

    @property
    def prefix_tokens(self) -> int:
        """Tokens in front of the patches: class, distillation, registers."""
        return int(self.class_token) + int(self.distillation_token) + self.register_tokens

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)

    @property
    def image_axes(self) -> dict[str, int]:
        """The axes of an image by name, to hold an array against."""
        height, width = self.image_shape
        return {"height": height, "width": width, "channels": self.channels}

    @property
    def grid(self) -> tuple[int, int]:
        """Patches in a column and in a row."""
        height, width = self.image_shape
        return height // self.patch_size, width // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Tokens that enter the first block."""
        height, width = self.grid
        return self.prefix_tokens + height * width

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def hidden_dim(self) -> int:
        """Hidden width of the MLP."""
        return 4 * self.dim if self.mlp_dim is None else self.mlp_dim

    @property
    def pools_before_norm(self) -> bool:
        """Whether the last LayerNorm comes after pooling (`fc_norm`)."""
        return self.pool == "mean" if self.fc_norm is None else self.fc_norm

    def drop_path_rate(self, block: int) -> float:
        """Stochastic depth of one block: linear, from 0 in the first to `drop_path` in the last."""
        return self.drop_path * block / max(self.depth - 1, 1)


def check_config(owner: str, config: Any) -> None:
    """Check that a network is given by its configuration. TypeError.

    >>> check_config("flops", "vit_base_patch16_224")
    Traceback (most recent call last):
    ...
    TypeError: flops: `config` must be a ViTConfig, got 'vit_base_patch16_224'
    """
    if not isinstance(config, ViTConfig):
        raise TypeError(f"{owner}: `config` must be a ViTConfig, got {shown(config)}")


def _normalized(merging: Any) -> Any:
    """The mapping as a tuple of (blocks, merging), which can be hashed; anything else as it is."""
    if merging is None or isinstance(merging, Merging):
        return merging
    entries = tuple(merging.items()) if isinstance(merging, Mapping) else merging
    blocks = "blocks that are an integer, a range or a tuple of integers"
    if not isinstance(entries, tuple):
        _refuse("merging", "None, a merging or a mapping from blocks to mergings", merging, TypeError)
    for entry in entries:
        if not isinstance(entry, tuple) or len(entry) != 2 or not isinstance(entry[1], Merging):
            _refuse("merging", "a mapping from blocks to mergings", entry, TypeError)
        key = entry[0]
        each = key if isinstance(key, (tuple, range)) else (key,)
        if not all(isinstance(block, int) and not isinstance(block, bool) for block in each):
            _refuse("merging", f"a mapping from {blocks}", key, TypeError)
    return tuple((range(key, key + 1) if isinstance(key, int) else key, value) for key, value in entries)


def _refuse(name: str, needed: str, got: Any, error: type[Exception] = ValueError) -> None:
    raise error(f"ViTConfig: `{name}` must be {needed}, got {shown(got)}")
