"""Weights of other people's vision transformers for ours: names, shapes, and positions for another grid."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np

from tokenmerge.files import check_path, read_tensors
from tokenmerge.spec.shared.arguments import INTEGER, check_parameter, dtype_name, shown
from tokenmerge.spec.shared.vit_config import ViTConfig, check_config
from tokenmerge.weights import big_vision, hugging_face
from tokenmerge.weights.positions import fit_positions

Array = np.ndarray[Any, Any]
SOURCES = (big_vision, hugging_face)  # each `recognizes(names)` and `converts(params)`


def convert_params(source: Mapping[str, Any] | str | PathLike[str], config: ViTConfig) -> dict[str, Array]:
    """A checkpoint as the state dict that `load_params` of our networks takes, in every backend.

    Known are big_vision and vision_transformer (`.npz`), ViT, DeiT and DINOv2 of Hugging Face, and timm. Position
    embeddings of another grid are resized: bicubic with antialiasing (a = -0.5), as in timm; a checkpoint's grid is
    square.

    Args:
        source: names to arrays (NumPy, or PyTorch on the CPU), or a file: `.npz`, or safetensors.
        config: the network that they are for; `norm_eps` is the checkpoint's (1e-12 in Hugging Face's ViT), and
            `num_classes=0` leaves a classifier out.

    Returns:
        Names of timm to arrays. What does not fit is left for `load_params` to refuse.

    Raises:
        TypeError, ValueError: no mapping and no such file, or positions that are no square.

    >>> from tokenmerge import get_vit
    >>> sizes = dict(patch_size=4, dim=8, depth=1, heads=2, num_classes=3)
    >>> small = get_vit(ViTConfig(image_size=16, **sizes)).params()
    >>> convert_params(small, ViTConfig(image_size=(16, 32), **sizes))["pos_embed"].shape
    (1, 33, 8)
    """
    check_config("convert_params", config)
    params = dict(source if isinstance(source, Mapping) else _read(source))
    for name in params:
        if not isinstance(name, str):
            raise TypeError(f"convert_params: `source` must have names of parameters, got {shown(name)}")
    params = {name: _numpy(name, value) for name, value in params.items()}
    for kind in SOURCES:
        if kind.recognizes(params):
            try:
                params = kind.converts(params)
            except (KeyError, ValueError, IndexError) as error:  # parts that are missing, or of other axes
                why = f"{type(error).__name__} {' '.join(str(error).split())[:80]}"
                raise ValueError(
                    f"convert_params: `source` must hold the arrays of a vision transformer, got others ({why})"
                ) from None
            break
    if not config.num_classes:
        params = {name: value for name, value in params.items() if name.partition(".")[0] not in ("head", "head_dist")}
    if config.pools_before_norm and "norm.weight" in params:  # the last norm has one place or the other
        params = {
            name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: params[name] for name in params
        }
    return fit_positions(params, config)


def _read(path: Any) -> Mapping[str, Any]:
    if not isinstance(path, (str, PathLike)):
        raise TypeError(f"convert_params: `source` must be a mapping or the path of a file, got {shown(path)}")
    path = check_path("convert_params", "source", path)
    if not str(path).endswith(".npz"):
        return read_tensors("convert_params", "source", path)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise ValueError(f"convert_params: `source` must be a file of arrays, got {str(path)!r} ({error})") from None


def _numpy(name: str, value: Any) -> Array:
    """A parameter, or one of the optimizer's numbers, which may be integers and are left out."""
    if not (hasattr(value, "dtype") and dtype_name(value) in INTEGER):
        check_parameter("convert_params", name, value)
    if hasattr(value, "detach"):  # PyTorch, whose bfloat16 NumPy does not have
        value = value.detach().cpu()
        value = value.float() if dtype_name(value) == "bfloat16" else value
    return np.asarray(value)


__all__ = ["convert_params"]
