"""Position embeddings for another grid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tokenmerge.spec.shared.vit_config import ViTConfig

Array = np.ndarray[Any, Any]


def fit_positions(params: dict[str, Array], config: ViTConfig) -> dict[str, Array]:
    """The parameters with `pos_embed` as the configuration has it: its grid, and its entries for tokens in front.

    An entry for the class token that the configuration has no place for is added to the token; one that it misses is
    zero.
    """
    position = params.get("pos_embed")
    if position is None or position.ndim != 3:
        return params
    count = position.shape[1]
    front = next((n for n in (0, 1, 2) if math.isqrt(max(count - n, 0)) ** 2 == count - n), None)
    rows, columns = config.grid
    wanted = 0 if config.no_embed_class else config.prefix_tokens
    if count == wanted + rows * columns:
        return params
    if front is None:
        raise ValueError(f"convert_params: `pos_embed` must be of a square grid and up to two tokens, got {count}")
    tokens, patches = position[:, :front], position[:, front:]
    side = math.isqrt(count - front)
    patches = resize_positions(patches, (side, side), (rows, columns))
    params = dict(params)
    if wanted < front and config.no_embed_class:
        for index, name in enumerate(("cls_token", "dist_token")[:front]):
            params[name] = params[name] + tokens[:, index : index + 1]
        tokens = tokens[:, :0]
    elif front < wanted:
        tokens = np.concatenate([tokens, np.zeros_like(position[:, : wanted - front])], axis=1)
    params["pos_embed"] = np.concatenate([tokens, patches], axis=1)
    return params


def resize_positions(position: Array, old: tuple[int, int], new: tuple[int, int]) -> Array:
    """Bicubic interpolation with antialiasing of `(1, old rows * old columns, C)` to the new grid.

    >>> resize_positions(np.ones((1, 4, 1)), (2, 2), (1, 3)).round(6).tolist()
    [[[1.0], [1.0], [1.0]]]
    """
    if old == new:
        return position
    grid = position.reshape(*old, -1).astype(np.float64)
    down, across = cubic_weights(old[0], new[0]), cubic_weights(old[1], new[1])
    resized = np.einsum("ir,jc,rcd->ijd", down, across, grid)
    return resized.reshape(1, new[0] * new[1], -1).astype(position.dtype)


def cubic_weights(old: int, new: int) -> Array:
    """The matrix `(new, old)` of one axis: Keys' cubic with a = -0.5, stretched where the axis gets shorter."""
    ratio = old / new
    stretch = max(ratio, 1.0)
    center = (np.arange(new)[:, None] + 0.5) * ratio
    distance = np.abs(np.arange(old)[None] + 0.5 - center) / stretch
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return weights / weights.sum(axis=1, keepdims=True)
