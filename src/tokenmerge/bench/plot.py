"""The ratios as bars, and how cost grows as lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from tokenmerge.bench.row import Row
from tokenmerge.bench.table import shape_words
from tokenmerge.files import replacing


def plot_rows(rows: Sequence[Row], path: Path) -> None:
    """A bar per comparison, with the quartiles; the line is where both are equally fast."""
    figure = Figure(figsize=(9, 1 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    names = [f"{row.operation} {shape_words(row.shape)} {row.backend} against {row.against}" for row in rows]
    ratios = [row.ratio for row in rows]
    spread = [[row.ratio - row.low for row in rows], [row.high - row.ratio for row in rows]]
    axes.barh(range(len(rows)), ratios, xerr=spread, color="#4c72b0", ecolor="#555555")
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("how many times faster than the comparison (median and quartiles)")
    _save(figure, path)


def plot_growth(series: dict[str, dict[str, list[tuple[float, float, float]]]], path: Path) -> None:
    """Time and memory against one number, a panel each.

    Args:
        series: name of the number -> name of a line -> (number, seconds, bytes).
    """
    figure = Figure(figsize=(4 * len(series), 5.5), layout="constrained")
    panels: Any = figure.subplots(2, len(series), squeeze=False)
    for column, (number, lines) in enumerate(series.items()):
        for row, (label, factor) in enumerate((("ms", 1e3), ("peak MB", 1e-6))):
            axes = panels[row, column]
            for name, points in lines.items():
                axes.loglog([each[0] for each in points], [factor * each[1 + row] for each in points], "o-", label=name)
            axes.set_xlabel(number)
            axes.set_ylabel(label)
            axes.grid(alpha=0.3)
    panels[0, 0].legend(fontsize=8)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with matplotlib.rc_context({"savefig.dpi": 80}):
        with replacing("bench", "plot", path) as part:
            figure.savefig(part)
