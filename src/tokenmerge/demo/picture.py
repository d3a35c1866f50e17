"""The picture that the demo writes: the photograph, and what every merger made of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokenmerge.demo.compare import Row
from tokenmerge.pictures.panels import Panels
from tokenmerge.pictures.viz import draw_plan

Array = np.ndarray[Any, Any]

COLUMNS = 3


def write_picture(path: Path, photo: Array, side: int, rows: Sequence[Row]) -> None:
    """The photograph and a panel for every row, each drawn by `draw_plan` from its matrix alone.

    Args:
        path: the file; its ending says the format.
        photo: `(S,S,3)` in [0, 1].
        side: patches in a row of the photograph.
        rows: one for every panel, of one backend.
    """
    page = Panels(1 + len(rows), COLUMNS)
    axes = page.add("Photograph", f"{side} × {side} patches + class token = {side**2 + 1} tokens")
    axes.imshow(photo, interpolation="antialiased")
    axes.set_axis_off()
    for row in rows:
        axes = page.add(row.stage.title, f"{row.tokens_in} → {row.tokens_out} tokens, {row.stage.note}")
        draw_plan(axes, row.matrix, photo, (side, side), protected=1)
    page.save(path)
