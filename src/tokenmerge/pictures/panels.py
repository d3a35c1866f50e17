"""Square panels in rows, each with a title and a note above it: the page that our pictures stand on."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tokenmerge.files import check_writable, replacing

INK, PALE = "#1c1c28", "#6b6b7b"
PANEL, GAP, MARGIN, HEAD = 2.8, 0.225, 0.25, 0.5  # inches
DPI = 160  # a panel is 448 pixels wide


class Panels:
    """A figure for `count` panels in rows of `columns`.

    >>> page = Panels(3, columns=2)
    >>> axes = page.add("Photograph", "14 × 14 patches")
    >>> len(page.figure.axes)
    1
    """

    def __init__(self, count: int, columns: int) -> None:
        self.columns = columns
        lines = -(-count // columns)
        self.width = 2 * MARGIN + columns * PANEL + (columns - 1) * GAP
        self.height = MARGIN + lines * (HEAD + PANEL) + (lines - 1) * GAP + MARGIN
        self.figure = Figure(figsize=(self.width, self.height), dpi=DPI, facecolor="white")

    def add(self, title: str, note: str) -> Axes:
        """The axes of the next panel, from left to right and from top to bottom."""
        width, height = self.width, self.height
        line, column = divmod(len(self.figure.axes), self.columns)
        left = MARGIN + column * (PANEL + GAP)
        top = height - MARGIN - line * (HEAD + PANEL + GAP)
        write = self.figure.text
        write(left / width, (top - 0.1) / height, title, fontsize=11, fontweight="bold", color=INK, va="center")
        write(left / width, (top - 0.31) / height, note, fontsize=8.5, color=PALE, va="center")
        return self.figure.add_axes((left / width, (top - HEAD - PANEL) / height, PANEL / width, PANEL / height))

    def save(self, path: Path) -> None:
        """Write the picture; the ending says the format."""
        with replacing("picture", "out", path) as part:
            self.figure.savefig(part, dpi=DPI)


def check_out(path: Path, *, owner: str) -> None:
    """Raise ValueError in one sentence, whose first word is the owner, unless a picture can be written there."""
    formats = sorted(Figure().canvas.get_supported_filetypes())
    if path.suffix[1:].lower() not in formats:
        raise ValueError(
            f"{owner}: `out` must end in one of {', '.join(f'.{name}' for name in formats)}, got {str(path)!r}"
        )
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{owner}: `out` must be a file in a folder that exists, got {str(path)!r}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{owner}: `out` must be a file that can be written, got {str(path)!r}")
    check_writable(owner, "out", path)
