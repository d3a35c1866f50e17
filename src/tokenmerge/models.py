"""Networks by the names that timm gives them, as configurations of ours.

A table and nothing else: no weights are fetched. A checkpoint of timm loads by its own parameter names; a model that
comes with this package names its file of weights and the normalization it was trained with.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, NamedTuple

from tokenmerge.spec.shared.arguments import shown
from tokenmerge.spec.shared.vit_config import ViTConfig

PACKAGE = Path(__file__).parent


class Preset(NamedTuple):
    """What a name stands for.

    Attributes:
        options: of `ViTConfig`.
        normalization: of the images, a key of `tokenmerge.visualize.network.NORMALIZATIONS`.
        weights: a safetensors file that comes with the package, as a path inside it; None where there is none.
    """

    options: dict[str, Any]
    normalization: str = "imagenet"
    weights: str | None = None


_SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(dim=192, depth=12, heads=3),
    "small": dict(dim=384, depth=12, heads=6),
    "medium": dict(dim=512, depth=12, heads=8),
    "base": dict(dim=768, depth=12, heads=12),
    "large": dict(dim=1024, depth=24, heads=16),
    "huge": dict(dim=1280, depth=32, heads=16),
}
# size of the network -> size of a patch -> sizes of an image
Members = dict[str, dict[int, tuple[int, ...]]]
_VIT: Members = {
    "tiny": {16: (224, 384)},
    "small": {8: (224,), 16: (224, 384), 32: (224, 384)},
    "base": {8: (224,), 16: (224, 384), 32: (224, 384)},
    "large": {14: (224,), 16: (224, 384), 32: (224, 384)},
    "huge": {14: (224,)},
}
_DEIT: Members = {"tiny": {16: (224,)}, "small": {16: (224,)}, "base": {16: (224, 384)}}
_DEIT3: Members = {
    "small": {16: (224, 384)},
    "medium": {16: (224,)},
    "base": {16: (224, 384)},
    "large": {16: (224, 384)},
    "huge": {14: (224,)},
}


def _family(prefix: str, members: Members, infix: str = "", **options: Any) -> dict[str, Preset]:
    return {
        f"{prefix}_{name}{infix}_patch{patch}_{pixels}": Preset(
            {**_SIZES[name], "patch_size": patch, "image_size": pixels, **options}
        )
        for name, patches in members.items()
        for patch, sizes in patches.items()
        for pixels in sizes
    }


def _dinov2(infix: str = "", **options: Any) -> dict[str, Preset]:
    fixed: dict[str, Any] = dict(patch_size=14, image_size=518, layer_scale=1e-5, num_classes=0)
    return {
        f"vit_{name}_patch14{infix}_dinov2": Preset({**_SIZES[name], **fixed, **options})
        for name in ("small", "base", "large")
    }


PRESETS: dict[str, Preset] = {
    **_family("vit", _VIT),
    **_family("deit", _DEIT),
    **_family("deit", _DEIT, "_distilled", distillation_token=True),
    **_family("deit3", _DEIT3, no_embed_class=True, layer_scale=1e-6),
    **_dinov2(),
    **_dinov2("_reg4", register_tokens=4, no_embed_class=True),
    # trained here, see `tokenmerge.digits`
    "digits": Preset(
        dict(image_size=32, patch_size=4, channels=1, dim=64, depth=6, heads=4, mlp_dim=128, fc_norm=False),
        normalization="digits",
        weights="digits/digits.safetensors",
    ),
}


def preset(name: str, owner: str = "preset") -> Preset:
    """The preset of a name.

    Args:
        name: one of `PRESETS`; owner: who asks, the first word of the sentence.

    Raises:
        TypeError, ValueError: no preset of this name.

    >>> preset("vit_base_patch16_224").options["dim"]
    768
    >>> preset("vit_bas_patch16_224")
    Traceback (most recent call last):
    ...
    ValueError: preset: `model` must be a known name, got 'vit_bas_patch16_224' (did you mean 'vit_base_patch16_224'?)
    """
    if not isinstance(name, str) or name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1) if isinstance(name, str) else []
        hint = f"did you mean {close[0]!r}?" if close else f"{', '.join(list(PRESETS)[:3])}, ..."
        error = ValueError if isinstance(name, str) else TypeError
        raise error(f"{owner}: `model` must be a known name, got {shown(name)} ({hint})")
    return PRESETS[name]


def vit_config(name: str, **changes: Any) -> ViTConfig:
    """The configuration of a named network.

    Args:
        name: one of `PRESETS`, as in timm without the tag of the weights; changes: options of `ViTConfig` that replace
            those of the preset, such as `merging`.

    Returns:
        `ViTConfig`.

    Raises:
        TypeError, ValueError: no preset of this name, or options that contradict each other.

    >>> from tokenmerge import ToMeMerging
    >>> config = vit_config("deit_small_distilled_patch16_224", merging=ToMeMerging(r=8))
    >>> config.dim, config.prefix_tokens
    (384, 2)
    """
    return ViTConfig(**{**preset(name, "vit_config").options, **changes})


def shipped_weights(name: str) -> Path | None:
    """The file of weights that comes with the package for a model, or None.

    >>> shipped_weights("vit_base_patch16_224") is None
    True
    """
    weights = preset(name).weights
    return None if weights is None else PACKAGE / weights
