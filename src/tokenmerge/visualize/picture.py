"""The picture: the image as the network gets it, beside its groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokenmerge.pictures.panels import Panels
from tokenmerge.pictures.viz import draw_groups
from tokenmerge.visualize.layers import Layer

Array = np.ndarray[Any, Any]

COLUMNS = (5, 4, 3)  # the first of these that leaves the fewest panels empty


def write_picture(path: Path, photo: Array, grid: tuple[int, int], prefix: int, layers: Sequence[Layer]) -> None:
    """The photograph and a panel for every layer.

    Args:
        path: the file; its ending says the format.
        photo: `(height, width, 3)` in [0, 1], multiples of the grid.
        grid: patches in a column and in a row.
        prefix: tokens in front of the patches.
        layers: what to draw.
    """
    rows, columns = grid
    count = 1 + len(layers)
    page = Panels(count, min(count, min(COLUMNS, key=lambda wide: -count % wide)))
    in_front = f" + {prefix} in front" if prefix else ""
    axes = page.add("Image", f"{rows} × {columns} patches{in_front} = {rows * columns + prefix} tokens")
    axes.imshow(photo, interpolation="antialiased")
    axes.set_axis_off()
    for layer in layers:
        blocks = "1 block" if layer.blocks == 1 else f"{layer.blocks} blocks"  # indices count from 0, so none here
        axes = page.add(f"After {blocks}", f"{layer.tokens} tokens, {_what(layer)}")
        draw_groups(axes, layer.owner, photo, grid)
    page.save(path)


def _what(layer: Layer) -> str:
    if layer.dense:
        return "groups by strongest weight"
    kept = layer.owner[layer.owner >= 0]
    if len(kept) == len(layer.owner):
        return "groups in mean colour"
    return "patches that are kept" if len(kept) == len(set(kept)) else "groups of those that are kept"
