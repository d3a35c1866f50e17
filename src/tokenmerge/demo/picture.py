"""The picture that the demo writes: the photograph, and what every merger made of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tokenmerge.demo.compare import Row
from tokenmerge.viz import draw_plan

Array = np.ndarray[Any, Any]

INK, PALE = "#1c1c28", "#6b6b7b"
PANEL, GAP, MARGIN, HEAD = 2.8, 0.225, 0.25, 0.5  # inches
COLUMNS = 3
DPI = 160  # a panel is 448 pixels wide, as the photograph is where nobody says otherwise


def check_out(path: Path) -> None:
    """Raise ValueError in one sentence unless a picture can be written there."""
    formats = sorted(Figure().canvas.get_supported_filetypes())
    if path.suffix[1:].lower() not in formats:
        raise ValueError(
            f"demo: `out` must end in one of {', '.join(f'.{name}' for name in formats)}, got {str(path)!r}"
        )
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"demo: `out` must be a file in a folder that exists, got {str(path)!r}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"demo: `out` must be a file that can be written, got {str(path)!r}")


def write_picture(path: Path, photo: Array, side: int, rows: Sequence[Row]) -> None:
    """The photograph and a panel for every row, each drawn by `draw_plan` from its matrix alone.

    Args:
        path: the file; its ending says the format.
        photo: `(S,S,3)` in [0, 1].
        side: patches in a row of the photograph.
        rows: one for every panel, of one backend.
    """
    lines = -(-(1 + len(rows)) // COLUMNS)
    width = 2 * MARGIN + COLUMNS * PANEL + (COLUMNS - 1) * GAP
    height = MARGIN + lines * (HEAD + PANEL) + (lines - 1) * GAP + MARGIN
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")

    def panel(index: int, title: str, note: str) -> Axes:
        line, column = divmod(index, COLUMNS)
        left = MARGIN + column * (PANEL + GAP)
        top = height - MARGIN - line * (HEAD + PANEL + GAP)
        figure.text(left / width, (top - 0.1) / height, title, fontsize=11, fontweight="bold", color=INK, va="center")
        figure.text(left / width, (top - 0.31) / height, note, fontsize=8.5, color=PALE, va="center")
        box = (left / width, (top - HEAD - PANEL) / height, PANEL / width, PANEL / height)
        return figure.add_axes(box)

    axes = panel(0, "Photograph", f"{side} × {side} patches + class token = {side**2 + 1} tokens")
    axes.imshow(photo, interpolation="antialiased")
    axes.set_axis_off()
    for index, row in enumerate(rows, start=1):
        axes = panel(index, row.stage.title, f"{row.tokens_in} → {row.tokens_out} tokens, {row.stage.note}")
        draw_plan(axes, row.matrix, photo, (side, side), protected=1)
    figure.savefig(path, dpi=DPI)
